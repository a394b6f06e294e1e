"""What the ingress is made of, beside its routes: the database, the door, and the models behind their handles."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, cast

from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.errors import RushesError
from cluster.settings import Settings
from serve.access import is_loopback
from serve.models import ModelCard, Role
from serve.offer import Caller, Offer
from serve.remote import Probe, Watch, ask, hearing_caller, item_caller


class OneRequestId:
    """Leaves the request's id in the answer to Serve, which puts it there once more."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""

        async def send_without(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
            await send(message)

        await self.app(scope, receive, send_without)


def require_database(settings: Settings) -> str:
    """The address of the database; `RushesError` without one, for an embedded server lives with its command."""
    if settings.database_url is None:
        raise RushesError("the service finds no database: set RUSHES_DATABASE_URL in the environment of the nodes")
    return settings.database_url.get_secret_value()


def bound_to() -> tuple[str, int]:
    """The host and port that Serve really listens at."""
    from ray.serve.context import _get_global_client

    # Serve has no public name for it.
    options = cast(Any, _get_global_client()).http_config
    return options.host or "0.0.0.0", options.port


def as_bound(settings: Settings) -> Settings:
    """The settings with the host that Serve listens at: who may read without a key depends on it."""
    host, _ = bound_to()
    if is_loopback(host) == is_loopback(settings.serve.host):
        return settings
    return settings.model_copy(update={"serve": settings.serve.model_copy(update={"host": host})})


def offer_over(
    settings: Settings, cards: Mapping[Role, Sequence[ModelCard]], handles: Mapping[Role, DeploymentHandle]
) -> Offer:
    """The models behind these handles, as the routes ask for them."""
    replicas = settings.serve.max_replicas
    callers: dict[Role, Caller] = {
        role: item_caller(role, handle, replicas) for role, handle in handles.items() if role != "audio"
    }
    hear = hearing_caller(handles["audio"], replicas) if "audio" in handles else None
    probes: dict[str, tuple[Sequence[str], Probe]] = {
        role: ([card.role for card in cards[role]], lambda role=role, handle=handle: ask(role, handle.alive))
        for role, handle in handles.items()
    }
    every = [card for role in handles for card in cards[role]]
    return Offer(settings, every, callers, hear, Watch(probes).troubles)
