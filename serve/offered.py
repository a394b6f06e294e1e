"""Which model a request means."""

from __future__ import annotations

from collections.abc import Collection

from serve.errors import InvalidError, NotFoundError
from serve.models import ModelCard, Models


def find_card(models: Models, name: str, roles: Collection[str] | None = None) -> ModelCard:
    """The model on offer with this id or role, among `roles` where they are given.

    Raises `NotFoundError` for a model that is not on offer, `InvalidError` for one of another role.
    """
    cards = models.cards()
    named = [card for card in cards if name in (card.model_id, card.role)]
    for card in named:
        if roles is None or card.role in roles:
            return card
    fitting = ", ".join(f"{card.model_id} ({card.role})" for card in cards if roles is None or card.role in roles)
    if named:
        raise InvalidError(
            f"model: {named[0].model_id} is a {named[0].role}; here serve {fitting or 'none'}", param="model"
        )
    raise NotFoundError(
        f"model: {name[:200]!r} is not on offer here; there are {fitting or 'none'}",
        param="model",
        code="model_not_found",
    )
