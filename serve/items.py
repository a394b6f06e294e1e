"""What a request wants embedded: words, token ids or pictures, told apart and checked item by item."""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from serve.errors import InvalidError, TooLargeError

# Ids travel as 32-bit integers; whether the tokenizer has one the model says.
MOST_TOKEN_ID = 2**31 - 1
_ADDRESSES = ("http://", "https://")
_URI = "data:image/"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Words:
    """Texts, for the text model or the image model."""

    texts: list[str]
    of_pictures: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of the text model's own tokenizer."""

    ids: list[list[int]]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Encoded pictures (JPEG, PNG, ...)."""

    files: list[bytes]


def items_of(given: Any, role: str, modality: str | None, max_items: int) -> Words | Tokens | Pictures:
    """The items of `input` for the model of this role; `InvalidError` names the first that cannot be one.

    Raises `TooLargeError` for more than `max_items`.
    """
    if modality == "image" and role != "image":
        raise InvalidError(f"modality: image, but the model is that of {role}s", param="modality")
    if isinstance(given, str):
        return _of_strings([given], role, modality, "input".format)
    if not isinstance(given, list) or not given:
        raise InvalidError("input: give a text, or a list of at least one item", param="input")
    if _is_id(given[0]):
        return Tokens([_ids(given, "input", role)])
    if len(given) > max_items:
        raise TooLargeError(f"input: {len(given)} items, {max_items} are taken in one request", param="input")
    if isinstance(given[0], list):
        return Tokens([_ids(ids, f"input[{number}]", role) for number, ids in enumerate(given)])
    return _of_strings(given, role, modality, "input[{}]".format)


def nonblank(given: Any, name: str) -> str:
    """A text with something in it."""
    if not isinstance(given, str):
        raise InvalidError(f"{name}: {_kind(given)}, where a text belongs", param=name)
    if not given or given.isspace():
        raise InvalidError(f"{name}: the text is empty", param=name)
    return given


def _of_strings(given: list[Any], role: str, modality: str | None, name: Callable[[int], str]) -> Words | Pictures:
    texts = [nonblank(item, name(number)) for number, item in enumerate(given)]
    if role == "image" and modality != "text" and (modality == "image" or texts[0].startswith(_URI)):
        return Pictures([_picture(text, name(number)) for number, text in enumerate(texts)])
    for number, text in enumerate(texts):
        is_address = role == "image" and modality != "text" and _is_address(text)
        if is_address or text.startswith(_URI):
            raise InvalidError(f"{name(number)}: {_misplaced(text, role, modality)}", param=name(number))
    return Words(texts, of_pictures=role == "image")


def _misplaced(text: str, role: str, modality: str | None) -> str:
    if _is_address(text):
        return "an address, and nothing is fetched: send a picture as data:image/...;base64,..."
    if role != "image":
        return f"a picture, and the model is that of {role}s: choose the image model"
    return "a picture where words belong" if modality == "text" else "a picture, where the first item is words"


def _picture(text: str, name: str) -> bytes:
    if not text.startswith(_URI):
        raise InvalidError(
            f"{name}: {'an address, and nothing is fetched' if _is_address(text) else 'no picture'}: "
            "send data:image/...;base64,...",
            param=name,
        )
    head, comma, payload = text.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError
        file = a2b_base64(payload, strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise InvalidError(f"{name}: the data URI holds no base64 (data:image/...;base64,...)", param=name) from error
    if not file:
        raise InvalidError(f"{name}: the data URI is empty", param=name)
    return file


def _ids(given: Any, name: str, role: str) -> list[int]:
    if role != "text":
        raise InvalidError(f"{name}: token ids, which the {role} model does not take", param=name)
    if not isinstance(given, list) or not given:
        found = "no token ids" if isinstance(given, list) else f"{_kind(given)}, where token ids belong"
        raise InvalidError(f"{name}: {found}", param=name)
    # In one go: a request may hold hundreds of thousands.
    if set(map(type, given)) == {int} and min(given) >= 0 and max(given) <= MOST_TOKEN_ID:
        return given
    number = next(at for at, item in enumerate(given) if not _is_id(item) or not 0 <= item <= MOST_TOKEN_ID)
    shown = given[number] if _is_id(given[number]) else _kind(given[number])
    raise InvalidError(f"{name}[{number}]: {shown} is no token id", param=f"{name}[{number}]")


def _is_address(text: str) -> bool:
    return text[:8].lower().startswith(_ADDRESSES)


def _is_id(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _kind(item: Any) -> str:
    if item is None:
        return "null"
    names = {bool: "a truth value", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(item), "an object")
