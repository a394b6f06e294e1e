"""`Models` over callers of any kind: admission, and answers as the routes want them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from cluster.settings import Settings
from serve.engines.base import Answers, Item, PairIn, PictureIn, TextIn
from serve.engines.items import INVALID
from serve.errors import ApiError, BusyError, InvalidError, TooLargeError, UnavailableError
from serve.models import Embedded, Heard, HearRequest, ModelCard, Purpose, Role, Scored, TextItem

Caller = Callable[[Sequence[Any]], Awaitable[Answers]]
Hear = Callable[[str, HearRequest], Awaitable[Heard]]
Troubles = Callable[[], Awaitable[dict[str, str]]]


class Offer:
    """What `serve.models.Models` says; `callers` run items, wherever their model is."""

    def __init__(
        self,
        settings: Settings,
        cards: Sequence[ModelCard],
        callers: Mapping[Role, Caller],
        hear: Hear | None,
        troubles: Troubles,
    ) -> None:
        self._settings, self._cards = settings, list(cards)
        self._callers, self._hear, self._troubles = callers, hear, troubles
        self._in_flight: dict[Role, int] = dict.fromkeys(callers, 0)

    def cards(self) -> Sequence[ModelCard]:
        """What is on offer."""
        return self._cards

    async def embed_texts(self, items: Sequence[TextItem], purpose: Purpose) -> Embedded:
        """Text vectors; a text over the model's limit is cut at its end."""
        answers = await self._ask("text", [TextIn(item, purpose) for item in items], "input")
        return Embedded(answers.values, answers.tokens, answers.timing)

    async def embed_pictures(self, files: Sequence[bytes]) -> Embedded:
        """Image vectors of encoded pictures."""
        answers = await self._ask("image", [PictureIn(file) for file in files], "input")
        return Embedded(answers.values, answers.tokens, answers.timing)

    async def embed_words_of_pictures(self, texts: Sequence[str]) -> Embedded:
        """Vectors of the image space for words."""
        answers = await self._ask("image", [PictureIn(text) for text in texts], "input")
        return Embedded(answers.values, answers.tokens, answers.timing)

    async def rerank(self, query: str, passages: Sequence[str]) -> Scored:
        """How well each passage answers; an error names `documents[i]`."""
        answers = await self._ask("reranker", [PairIn(query, passage) for passage in passages], "documents")
        return Scored(answers.values[:, 0], answers.tokens, answers.timing)

    async def hear(self, path: str, asked: HearRequest) -> Heard:
        """What is said and who says it, in the media file at `path` of this process's own node."""
        if self._hear is None:
            raise self._absent("audio")
        return await self._hear(path, asked)

    async def troubles(self) -> dict[str, str]:
        """Role -> why its model does not work now; empty when all do."""
        return await self._troubles()

    async def _ask(self, role: Role, items: Sequence[Item], field: str) -> Answers:
        if role not in self._callers:
            raise self._absent(role)
        self._admit(role, len(items))
        self._in_flight[role] += len(items)
        try:
            answers = await self._callers[role](items)
        finally:
            self._in_flight[role] -= len(items)
        if answers.errors:
            raise _told(answers, field)
        return answers

    def _admit(self, role: Role, count: int) -> None:
        limits, busy = self._settings.serve, self._in_flight[role]
        if count > limits.max_items:
            raise TooLargeError(
                f"{count} items are more than the {limits.max_items} of one request: send fewer at once"
            )
        # a long list comes in when nothing else is there, or it never would
        if busy and busy + count > limits.in_flight:
            raise BusyError(
                f"the {role} model has {busy} items in flight and takes {limits.in_flight}: {count} more do not fit now"
            )

    def _absent(self, role: Role) -> UnavailableError:
        return UnavailableError(_way_out(role, self._settings), code="model_not_offered")


def _told(answers: Answers, field: str) -> ApiError:
    """The first item that the model cannot take, else the first that it failed on."""
    number = min(answers.errors, key=lambda at: (answers.statuses.get(at) != INVALID, at))
    name = f"{field}[{number}]"
    message = f"{name}: {answers.errors[number]}"
    if answers.statuses.get(number) == INVALID:
        return InvalidError(message, param=name)
    return ApiError(message, param=name, code="model_failed")


def _way_out(role: Role, settings: Settings) -> str:
    if role == "audio" or role not in settings.serve.models:
        return f"this service offers no {role} model: add {role} to RUSHES_SERVE_MODELS"
    return (
        f"profile {settings.profile_of(role)!r} has no {role} model: set RUSHES_{role.upper()}_PROFILE=speed, or "
        f"RUSHES_{role.upper()}_WEIGHTS, and start the service again"
    )
