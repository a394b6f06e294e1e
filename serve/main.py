"""`rushes serve run`: the service on this machine until it is told to end; started by entry-point string.

Ray and Serve read their environment when they are imported, so nothing here imports them before it is set.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from cluster.db.api_keys import keys_in_force
from cluster.db.connect import Database
from cluster.db.patience import DatabaseAwayError, Session
from cluster.errors import RushesError
from cluster.reach import knock, no_cluster
from cluster.settings import Settings
from cluster.weights import on_hub
from cluster.weights_check import held
from serve.access import is_loopback
from serve.deploying import http_address, probe
from serve.surroundings import forget_service, prepare_environment, tell_service
from serve.words import one_line

Say = Callable[[str], None]
ROLES_OF = {"text": ("text",), "image": ("image",), "reranker": ("reranker",)}
AUDIO = ("transcriber", "diarizer", "voice")
STORE_BYTES = 256 * 2**20
POLL_S = 0.5
# How soon an embedded server that died is started again.
LOOK_S = 2.0


def run(
    settings: Settings, database: Database, *, address: str | None = None, haproxy: bool = False, say: Say = print
) -> None:
    """Serve until SIGINT or SIGTERM. `address` joins a running cluster, else a local Ray begins and ends with it.

    Raises `RushesError` for what keeps the service from starting; what fails later shows in `/health/ready`.
    """
    check_port(settings.serve.host, settings.serve.port)
    check_weights(settings)
    warn_of_open_door(settings, database, say)
    asked = threading.Event()
    _end_on_sigterm(asked)
    with tempfile.TemporaryDirectory(prefix="rushes-", ignore_cleanup_errors=True) as folder:
        prepare_environment(settings, database.url, Path(folder), haproxy=haproxy, local=address is None)
        if haproxy:
            ports = [os.environ[f"RAY_SERVE_HAPROXY_{name}_PORT"] for name in ("STATS", "METRICS")]
            say(f"warning: HAProxy's statistics, ports {' and '.join(ports)}, are open on every interface, to anybody")
        say("starting Ray" if address is None else f"joining the Ray cluster at {address}")
        with _ray(settings, address, folder, asked), suppress(KeyboardInterrupt):
            _serve(settings, database, asked, say)
    say("stopped")


def check_port(host: str, port: int) -> None:
    """Raise `RushesError` when nothing can listen at this address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
        except OSError as error:
            raise RushesError(
                f"nothing can listen at {host}:{port} ({error.strerror or error}): give another --host or --port"
            ) from error


def check_weights(settings: Settings) -> None:
    """Raise `RushesError` for weights that are not here and cannot be fetched."""
    for role in settings.serve.models:
        for part in AUDIO if role == "audio" else ROLES_OF[role]:
            choice = settings.optional_choice(part)
            if choice is None or on_hub(choice.weights):
                continue
            if problem := held(choice.weights).problem:
                raise RushesError(problem)


def warn_of_open_door(settings: Settings, database: Database, say: Say) -> None:
    """Say what an address that others reach means."""
    if is_loopback(settings.serve.host):
        return
    with closing(database.connect()) as conn:
        keys = keys_in_force(conn)
    if not keys:
        say(f"warning: others reach {settings.serve.host}, and no key is in force: nothing but health will answer")


@contextmanager
def _ray(settings: Settings, address: str | None, folder: str, asked: threading.Event) -> Iterator[None]:
    import ray

    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": True}
    if address is not None:
        knock(address)
        try:
            ray.init(address, **common)
        except ConnectionError as error:
            raise RushesError(no_cluster(address)) from error
    else:
        dashboard = os.environ["RAY_API_SERVER_ADDRESS"]
        _agent_at_any_port()
        ray.init(
            "local",
            num_cpus=settings.cpus or len(os.sched_getaffinity(0)),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=int(dashboard.rpartition(":")[2]),
            object_store_memory=STORE_BYTES,
            _temp_dir=folder,
            **common,
        )
        tell_service(settings.data_dir)
    # Ray has set a handler of its own, under which nothing is cleaned up.
    _end_on_sigterm(asked)
    try:
        yield
    finally:
        _end(settings, local=address is None)


def _agent_at_any_port() -> None:
    """The agent that begins jobs listens at a free port: at Ray's own 52365 only one Ray of a machine takes any."""
    from ray._private import parameter

    # `ray.init` has no argument for it.
    cast(Any, parameter).RayParams = partial(parameter.RayParams, dashboard_agent_listen_port=None)


def _end(settings: Settings, *, local: bool) -> None:
    import ray

    ray.shutdown()
    if local:
        forget_service(settings.data_dir)


def _serve(settings: Settings, database: Database, asked: threading.Event, say: Say) -> None:
    from ray import serve

    from serve.app import APP_NAME, LOGGING, compose, offered

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    host, port = settings.serve.host, settings.serve.port
    # The controller warns of every step of its own start.
    serve.start(http_options={"host": host, "port": port}, logging_config={**LOGGING, "log_level": "ERROR"})
    _refuse_other_service(host, port)
    on_offer = offered(settings)
    application = compose(settings, engines=on_offer)
    say("loading " + ", ".join(on_offer))
    try:
        serve.run(application, name=APP_NAME, route_prefix="/", logging_config=LOGGING)
        url = http_address(host, port)
        for line in _about(settings, url, {role: engine.cards() for role, engine in on_offer.items()}):
            say(line)
        _stay(database, url, asked, say)
    except RuntimeError as error:
        raise RushesError(f"the service does not start: {_reason(error)}") from error
    finally:
        # What is under way may end.
        with suppress(Exception):
            serve.delete(APP_NAME)


def _refuse_other_service(host: str, port: int) -> None:
    """A service that runs is not replaced, and a Serve that runs keeps its address, whatever is asked."""
    from ray import serve

    from serve.app import APP_NAME
    from serve.front import bound_to

    if APP_NAME in serve.status().applications:
        raise RushesError("a service runs on this cluster already: `rushes serve deploy` replaces it")
    if (bound := bound_to()) != (host, port):
        raise RushesError(
            f"Serve runs on this cluster already and listens at {bound[0]}:{bound[1]}: ask for the same by --host and "
            "--port, or shut it down first (`serve shutdown`)"
        )


def _reason(error: Exception) -> str:
    """Why the application failed: the message of a deployment, which `serve.run` leaves out."""
    from ray import serve

    from serve.app import APP_NAME

    with suppress(Exception):
        app = serve.status().applications[APP_NAME]
        messages = [one.message for one in app.deployments.values() if "Error" in one.message]
        return one_line((messages or [app.message])[0])
    return one_line(str(error))


def _about(settings: Settings, url: str, cards: dict[str, Any]) -> Iterator[str]:
    for role, offered in cards.items():
        yield f"  {role}: {', '.join(dict.fromkeys(card.model_id for card in offered))}"
    for role in settings.serve.models:
        if role not in cards:
            yield f"  {role}: not on offer: the profile {settings.profile!r} has no model for it"
    # A browser cannot send a key to a page.
    open_to = (
        "describes the routes; writing takes a key" if is_loopback(settings.serve.host) else "and all else take a key"
    )
    yield f"{url}/docs {open_to}: rushes keys create NAME --scope write"


def _stay(database: Database, url: str, asked: threading.Event, say: Say) -> None:
    """Say when the service is ready and when it is not, and keep an embedded database alive, until asked to end."""
    before: str | None = None
    with closing(Session(database.url, 0.0)) as session:
        while not asked.is_set():
            ready, checks = probe(url)
            wrong = "; ".join(f"{name}: {said}" for name, said in checks.items() if said != "ok")
            now = f"ready: {url}" if ready else f"not ready: {wrong}"
            if now != before:
                say(now)
                before = now
            with suppress(DatabaseAwayError):
                session.run(lambda conn: conn.execute("SELECT 1"))
            time.sleep(LOOK_S if ready else POLL_S)


def _end_on_sigterm(asked: threading.Event) -> None:
    """SIGTERM ends the service as Ctrl-C does; `asked` says so where the interpreter loses the interrupt."""

    def interrupt(number: int, frame: Any) -> None:
        # In a callback of an import, of which there are thousands at the start, an exception goes nowhere.
        asked.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
