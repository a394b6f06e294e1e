"""The models in this process, without Ray: for tests, benchmarks and small machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from cluster.errors import RushesError, first_line
from cluster.settings import Settings
from serve.engines.base import Engine, HearingEngine, ItemEngine
from serve.engines.make import engine
from serve.models import Role
from serve.offer import Offer


class LocalModels(Offer):
    """An `Offer` over engines of this process; `close` lets go of them."""

    def __init__(self, settings: Settings, engines: Sequence[Engine]) -> None:
        self.engines = {one.role: one for one in engines}
        hearing = cast("HearingEngine | None", self.engines.get("audio"))
        super().__init__(
            settings,
            [card for one in engines for card in one.cards()],
            {role: cast(ItemEngine, one).run for role, one in self.engines.items() if role != "audio"},
            None if hearing is None else hearing.hear,
            self._check,
        )

    def close(self) -> None:
        """Let go of every model."""
        for one in self.engines.values():
            one.close()

    async def _check(self) -> dict[str, str]:
        found = {}
        for one in self.engines.values():
            try:
                await one.check()
            except Exception as error:  # noqa: BLE001 - whatever it is, the model does not work
                found |= {card.role: first_line(error) for card in one.cards()}
        return found


def local_models(
    settings: Settings, roles: Sequence[Role] | None = None, make: Callable[[Role, Settings], Engine | None] = engine
) -> LocalModels:
    """The models of `roles`, or of `settings.serve.models`, loaded; roles that the profile leaves off are left out.

    Raises `RushesError` for weights that are missing or wrong, and when no role has a model.
    """
    asked = settings.serve.models if roles is None else roles
    engines = [made for role in asked if (made := make(role, settings)) is not None]
    if not engines:
        raise RushesError(f"profile {settings.profile!r} has no model for {', '.join(asked) or 'no role'}")
    for one in engines:
        one.load()
    return LocalModels(settings, engines)
