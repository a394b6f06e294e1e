"""The service as one Ray Serve application: a thin deployment around each engine, and one ingress.

`build` is what `serve deploy` and `rushes serve` name. Settings travel into replicas as plain values without the
database's address: the ingress reads that on its own node, from RUSHES_DATABASE_URL or the settings file there.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ray
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.db.pool import Corpus
from cluster.environment import MODEL_ENV
from cluster.errors import RushesError, UsageError
from cluster.reservation import check_reservation, serve_shares
from cluster.settings import Settings, load_settings, settings_to_dict
from serve.api import build_api
from serve.engines.base import Answers, Engine, HearingEngine, ItemEngine
from serve.errors import ApiError
from serve.front import OneRequestId, as_bound, offer_over, require_database
from serve.meter import Meter
from serve.models import Heard, HearRequest, ModelCard, Role
from serve.ray_jobs import RayJobs
from serve.ray_metrics import RayMirror, meter_of
from serve.remote import CALLS_PER_REPLICA, RECORDINGS_PER_REPLICA, Recording
from serve.service import Submitter, make_service

APP_NAME = "rushes"
# Enough to stay off a head that offers none, so little that a backfill finds all of them: threads are bounded instead.
CPUS_EACH = 0.01
# Probes of readiness, beside the calls that carry items.
PROBES = 8
# Three failed checks replace a replica. One waits for the batch before it, which is not a sign of death.
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 2.0, 60.0
# By default a thread of a model spins while it waits for the others, on the core that they or the ingress need: on two
# busy cores a short text takes ten times as long.
REPLICA_ENV = {**MODEL_ENV, "OMP_WAIT_POLICY": "PASSIVE"}
# Weights that do not load now will not load the twentieth time.
CONSTRUCTOR_RETRIES = 2
# What is under way may end; longer than that, it is somebody's upload.
SHUTDOWN_S = 10.0
# Far over what the edge admits, so that a full service is told by the edge, in its own words.
REQUESTS_AT_ONCE = 4096
LOGGING = {"enable_access_log": False, "log_level": "WARNING"}

MakeEngine = Callable[[Role, Settings], Engine | None]


class AppArgs(BaseModel):
    """The arguments of the application in a Serve config.

    `config` is a settings file on the nodes; `settings` are set above it and above the environment. Neither may hold
    a secret: Ray shows them to everyone who sees its dashboard.
    """

    model_config = ConfigDict(extra="forbid")

    config: Path | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


def build(args: dict[str, Any]) -> serve.Application:
    """The application of these `AppArgs`, on the cluster that this process is part of.

    Raises `UsageError` for arguments that are none, and what `compose` raises.
    """
    try:
        given = AppArgs.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"args.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if "database_url" in given.settings:
        raise UsageError("no database address in a Serve config: set RUSHES_DATABASE_URL on the nodes")
    settings = load_settings(given.config, **given.settings)
    require_database(settings)
    return compose(settings)


def make_engine(role: Role, settings: Settings) -> Engine | None:
    """The engine of a role, unloaded; None where the profile has no such model."""
    from serve.engines import make

    return make.engine(role, settings)


def compose(
    settings: Settings,
    make: MakeEngine = make_engine,
    running: frozenset[str] | None = None,
    engines: Mapping[Role, Engine] | None = None,
) -> serve.Application:
    """The deployments of these settings, each with its share of a GPU; `running` names the applications there are.

    `engines` are those that `offered` made, where the caller has them: making one may read its weights whole.

    Raises `RushesError` when no model is on offer, and `PlanError` when the cluster has too little of a GPU free.
    """
    engines = offered(settings, make) if engines is None else engines
    shares, plain = _shares(settings, list(engines), running), settings_to_dict(settings)
    replicas = settings.serve.max_replicas
    models = {
        role: _deployment(role, replicas, shares[role]).bind(role, plain, make)
        for role in engines
    }  # fmt: skip
    cards = {role: list(engine.cards()) for role, engine in engines.items()}
    api = cast(Any, Api).options(max_ongoing_requests=REQUESTS_AT_ONCE, max_queued_requests=REQUESTS_AT_ONCE)
    return api.bind(plain, cards, models)


def offered(settings: Settings, make: MakeEngine = make_engine) -> dict[Role, Engine]:
    """The engines, unloaded, of the roles that have a model; `RushesError` when none has."""
    engines = {role: engine for role in dict.fromkeys(settings.serve.models) if (engine := make(role, settings))}
    if not engines:
        roles = ", ".join(settings.serve.models) or "no role"
        raise RushesError(f"nothing to serve: RUSHES_SERVE_MODELS asks for {roles}, the profile has no model for it")
    return engines


def _shares(settings: Settings, roles: Sequence[str], running: frozenset[str] | None) -> dict[str, float]:
    limits = settings.serve
    cards = int(ray.cluster_resources().get("GPU", 0))
    wanting = [role for role in roles if _wants_gpu(settings, role)]
    if not cards or not wanting:
        return dict.fromkeys(roles, 0.0)
    shares = {**dict.fromkeys(roles, 0.0), **serve_shares(wanting, limits.gpu_share, limits.max_replicas)}
    # Replicas of a service that is replaced hold the shares that those of the new one will take.
    if APP_NAME not in (_applications() if running is None else running):
        check_reservation(shares, limits.max_replicas, cards, ray.available_resources().get("GPU", 0.0))
    return shares


def _wants_gpu(settings: Settings, role: str) -> bool:
    models = ("transcriber", "diarizer", "voice") if role == "audio" else (role,)
    return any((choice := settings.optional_choice(model)) and choice.device != "cpu" for model in models)


def _applications() -> frozenset[str]:
    try:
        return frozenset(serve.status().applications)
    except Exception:  # noqa: BLE001 - Serve is not running yet
        return frozenset()


def _deployment(role: Role, replicas: int, gpus: float) -> Any:
    which = cast(Any, Hearing if role == "audio" else Items)
    # Each ingress has its calls under way; what is heard waits inside the engine, in its order.
    calls = RECORDINGS_PER_REPLICA if role == "audio" else CALLS_PER_REPLICA
    return which.options(
        name=role.capitalize(),
        autoscaling_config={"min_replicas": 1, "max_replicas": replicas, "target_ongoing_requests": calls},
        max_ongoing_requests=calls * replicas + PROBES,
        max_queued_requests=calls * replicas + PROBES,
        ray_actor_options={"num_cpus": CPUS_EACH, "num_gpus": gpus, "runtime_env": {"env_vars": REPLICA_ENV}},
    )


class _Replica:
    """One engine in a process of its own."""

    def __init__(self, role: Role, plain: dict[str, Any], make: MakeEngine) -> None:
        settings = Settings.model_validate(plain)
        # Ray sets it from the CPUs that an actor reserves: 1.
        os.environ["OMP_NUM_THREADS"] = str(settings.cpus or len(os.sched_getaffinity(0)))
        _log_to_stderr()
        engine = make(role, settings)
        if engine is None:
            raise RushesError(f"the profile has no model for {role}")
        engine.load()
        self.engine, self.meter = engine, meter_of(engine)

    async def check_health(self) -> None:
        """A real forward; one that fails three times has Serve replace the replica."""
        self.meter.pull()
        await self.engine.check()

    async def alive(self) -> bool:
        """Whether the model works, as `/health/ready` asks it."""
        await self.engine.check()
        return True

    def __del__(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()


_MODEL_OPTIONS: dict[str, Any] = {
    "health_check_period_s": HEALTH_PERIOD_S,
    "health_check_timeout_s": HEALTH_TIMEOUT_S,
    "graceful_shutdown_timeout_s": SHUTDOWN_S,
    "max_constructor_retry_count": CONSTRUCTOR_RETRIES,
    "logging_config": LOGGING,
}


@serve.deployment(**_MODEL_OPTIONS)
class Items(_Replica):
    """A replica of text, image or reranker."""

    async def run(self, items: list[Any]) -> Answers:
        """The answers of the engine, in the order of the items."""
        return await cast(ItemEngine, self.engine).run(items)


@serve.deployment(**_MODEL_OPTIONS)
class Hearing(_Replica):
    """A replica of audio."""

    async def hear(self, recording: Recording, asked: HearRequest) -> Heard | ApiError | None:
        """What is heard; None for a recording on another node that came without its bytes.

        What a request is to blame for is given back: Serve logs all that is raised, with its traceback.
        """
        try:
            return await self._heard(recording, asked)
        except ApiError as error:
            if error.status >= 500:
                raise
            return error

    async def _heard(self, recording: Recording, asked: HearRequest) -> Heard | None:
        engine = cast(HearingEngine, self.engine)
        if recording.content is not None:
            with tempfile.NamedTemporaryFile(suffix=Path(recording.path).suffix) as file:
                file.write(recording.content)
                file.flush()
                return await engine.hear(file.name, asked)
        if recording.node_id != ray.get_runtime_context().get_node_id():
            return None
        return await engine.hear(recording.path, asked)


@serve.deployment(
    ray_actor_options={"num_cpus": CPUS_EACH},
    graceful_shutdown_timeout_s=SHUTDOWN_S,
    max_constructor_retry_count=CONSTRUCTOR_RETRIES,
    backpressure_config={"status_code": 429, "retry_after_s": 1},
    logging_config=LOGGING,
)
@serve.ingress()
class Api:
    """The ingress: the routes, the corpus, and the callers of the models."""

    def __init__(
        self, plain: dict[str, Any], cards: dict[Role, list[ModelCard]], handles: dict[Role, DeploymentHandle]
    ) -> None:
        _log_to_stderr()
        settings = as_bound(Settings.model_validate(plain))
        corpus = Corpus(require_database(settings), size=settings.serve.connections)
        offer = offer_over(settings, cards, handles)
        # Ray's exporter tells of every replica, `/metrics` of the one that answers.
        self.service = make_service(settings, corpus, offer, jobs_of(), Meter(RayMirror()))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What Serve asks for once the parts are there."""
        app = build_api(self.service)
        app.add_middleware(OneRequestId)
        return app


def jobs_of() -> Submitter:
    """Jobs go to the cluster's own queue, at RAY_API_SERVER_ADDRESS."""
    return RayJobs(os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"))


def _log_to_stderr() -> None:
    """Warnings of ours into the process's log, which Ray keeps; Serve writes its own into another."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
