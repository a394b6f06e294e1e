"""The service on Ray Serve, with engines that have no weights: what one process cannot show."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.db.connect import open_connection
from cluster.db.migrate import migrate
from cluster.plan import PlanError
from cluster.settings import Settings, load_settings
from tests.archive import read_call, run
from tests.fake_engines import SLOW, make_fake
from tests.fake_models import vector_of
from tests.media_factory import write_wav
from tests.pg_server import OwnServer, own_server

pytestmark = pytest.mark.ray_process
PATIENCE_S = 60.0
IN_FLIGHT = 64


@dataclass
class Served:
    """A service on a Ray of 4 CPUs and one GPU, none of which need be there."""

    url: str
    settings: Settings
    server: OwnServer
    traces: Path

    def ask(self, path: str, body: Any = None, timeout_s: float = PATIENCE_S) -> tuple[int, Any, dict[str, str]]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return answer.status, json.load(answer), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error), dict(error.headers)

    def embed(self, *texts: str) -> tuple[int, Any, dict[str, str]]:
        return self.ask("/v1/embeddings", {"model": "text", "input": list(texts)})

    def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < deadline, self.ask("/health/ready")
            time.sleep(0.1)

    def until_ready(self) -> None:
        self.until(lambda: self.ask("/health/ready")[0] == 200)


def free_port() -> int:
    with closing(socket.socket()) as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    import ray
    from ray import serve

    from serve.app import APP_NAME, LOGGING, compose

    port = free_port()
    with own_server() as server, tempfile.TemporaryDirectory(prefix="serve-", dir="/tmp") as folder:
        with open_connection(server.url) as conn:
            migrate(conn)
        server.disown()
        os.environ["RUSHES_DATABASE_URL"] = server.url
        settings = load_settings(
            None, data_dir=folder, serve={"models": "text,reranker", "port": port, "in_flight": IN_FLIGHT}
        )
        ray.init(
            "local", num_cpus=4, num_gpus=1, include_dashboard=False, object_store_memory=150 * 2**20,
            log_to_driver=False, logging_level="ERROR", _temp_dir=folder,
        )  # fmt: skip
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=LOGGING)
            serve.run(compose(settings, make_fake), name=APP_NAME, route_prefix="/", logging_config=LOGGING)
            found = Served(f"http://127.0.0.1:{port}", settings, server, Path(folder))
            found.until_ready()
            yield found
        finally:
            serve.shutdown()
            ray.shutdown()
            os.environ.pop("RUSHES_DATABASE_URL")


def vectors(body: Any) -> np.ndarray:
    return np.asarray([one["embedding"] for one in body["data"]], np.float32)


def test_routes_answer_through_the_proxy_with_the_engines_own_vectors(served: Served) -> None:
    texts = [f"text {number}" for number in range(IN_FLIGHT)]
    status, body, headers = served.embed(*texts)
    assert status == 200, body
    np.testing.assert_allclose(vectors(body), [vector_of(text) for text in texts], atol=1e-6)
    assert headers["x-request-id"]
    status, body, _ = served.ask("/v1/rerank", {"model": "reranker", "query": "q", "documents": ["a", "b"]})
    assert (status, len(body["results"])) == (200, 2)
    assert served.embed()[0] == 422
    assert served.ask("/v1/nothing")[1]["error"]["code"] == "not_found"


def test_each_deployment_holds_its_share_of_the_reservation(served: Served) -> None:
    import ray

    reserved = served.settings.serve.gpu_share
    assert ray.available_resources()["GPU"] == pytest.approx(1 - reserved, abs=0.001)


def test_a_client_that_hangs_up_ends_the_work_in_the_replica(served: Served) -> None:
    with pytest.raises(TimeoutError):
        served.ask("/v1/embeddings", {"model": "text", "input": SLOW}, timeout_s=1.0)
    served.until((served.traces / "cancelled").exists)
    assert served.embed("after")[0] == 200


def test_a_full_service_says_so_at_once_and_when_to_come_back(served: Served) -> None:
    refused = threading.Event()

    def fill() -> None:
        # Again and again: one that came first may wait for the slow ones until they are given up.
        while not refused.is_set():
            with suppress(TimeoutError):
                served.ask("/v1/embeddings", {"model": "text", "input": [SLOW] * IN_FLIGHT}, timeout_s=3.0)

    holder = threading.Thread(target=fill)
    holder.start()
    try:
        answers = []
        served.until(lambda: answers.append(served.embed("one more")) or answers[-1][0] == 429)
        _, body, headers = answers[-1]
        assert body["error"]["type"] == "rate_limit_error"
        assert int(headers["retry-after"]) >= 1
    finally:
        refused.set()
        holder.join()
    served.until(lambda: served.embed("and after")[0] == 200)


def test_a_replica_killed_under_load_costs_at_most_what_was_in_flight(served: Served) -> None:
    stop, lock = threading.Event(), threading.Lock()
    seen: Counter[int] = Counter()
    wrong: list[Any] = []

    def load(client: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            texts = [f"{client} {number} {part}" for part in range(1 + number % 3)]
            status, body, _ = served.embed(*texts)
            with lock:
                seen[status] += 1
                if status == 200:
                    right = np.allclose(vectors(body), [vector_of(text) for text in texts], atol=1e-6)
                else:
                    right = status in (429, 503) and "message" in body["error"]
                if not right:
                    wrong.append((status, body))

    clients = [threading.Thread(target=load, args=(client,)) for client in range(6)]
    for client in clients:
        client.start()
    try:
        served.until(lambda: seen[200] > 50)
        (first,) = pids(served)
        os.kill(first, signal.SIGKILL)
        before = seen[200]
        served.until(lambda: len(pids(served)) == 2)
        served.until(lambda: seen[200] > before + 50)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert wrong == []
    assert seen[503] <= len(clients)
    served.until_ready()


def pids(served: Served) -> list[int]:
    return [int(trace.name.rpartition("-")[2]) for trace in served.traces.glob("text-*")]


def test_a_database_that_went_away_is_told_and_found_again(served: Served) -> None:
    served.server.stop()
    served.until(lambda: served.ask("/health/ready")[0] == 503)
    assert served.ask("/health/live")[0] == 200
    status, body, headers = served.ask("/v1/runs")
    assert (status, body["error"]["code"]) == (503, "unavailable")
    assert int(headers["retry-after"]) >= 1
    assert served.embed("needs no database")[0] == 200
    served.server.start()
    served.server.disown()
    served.until_ready()
    assert served.ask("/v1/runs")[0] == 200


def test_a_backfill_takes_what_the_service_leaves_of_the_card(served: Served, tmp_path: Path) -> None:
    import ray

    write_wav(tmp_path / "a.wav", read_call()[6 * 16_000 :][: 8 * 16_000], 16_000)
    address = ray.get_runtime_context().gcs_address
    store = str(tmp_path / "store")
    summary = run(
        served.server.url, [str(tmp_path / "a.wav")], {"store": store}, lanes=("speech",), address=address
    )  # fmt: skip
    assert (summary.runner, summary.ok, summary.failed) == ("ray", 1, 0)
    assert served.embed("still here")[0] == 200


def test_sums_that_do_not_fit_are_refused_with_the_arithmetic(served: Served, tmp_path: Path) -> None:
    import ray

    from serve.app import compose

    @ray.remote(num_cpus=0, num_gpus=0.6)
    class Other:
        def here(self) -> bool:
            return True

    other = Other.remote()
    assert ray.get(other.here.remote())
    write_wav(tmp_path / "b.wav", read_call()[: 4 * 16_000], 16_000)
    address = ray.get_runtime_context().gcs_address
    summary = run(served.server.url, [str(tmp_path / "b.wav")], {}, lanes=("speech",), address=address)
    assert (summary.exit_code, summary.failed) == (1, 0)
    assert re.search(r"0\.45 \+ 0\.45 = 0\.90 of backfill beside the 0\.8\d* of 1 GPU", str(summary.notes))
    with pytest.raises(PlanError, match=r"text 0\.25 \+ reranker 0 = 0\.25 of a GPU, and 0\.15\d* of 1 GPU"):
        compose(served.settings, make_fake, running=frozenset())
    ray.kill(other)
