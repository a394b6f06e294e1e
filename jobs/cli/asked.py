"""The words of one command for another one, which takes them, checks them and hands them on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from typer.models import ArgumentInfo, OptionInfo

from cluster.errors import UsageError


@dataclass(frozen=True, slots=True)
class Word:
    """A parameter of a command: its name, how it is spelled (empty: an argument), and whether it takes several.

    `least` is the smallest number it may be.
    """

    name: str
    flag: str
    several: bool
    kind: type
    least: float | None = None

    def spell(self, value: Any) -> Iterator[str]:
        """The value on a command line."""
        for one in value if self.several else [value]:
            if self.kind is bool:
                yield self.flag
            else:
                yield f"{self.flag}={one}" if self.flag else str(one)

    def check(self, value: Any) -> Any:
        """A value that a file gives, as the command line would give it; `UsageError` for one of another kind."""
        values = [value] if self.several and not isinstance(value, list) else value
        each = values if self.several else [values]
        if all(type(one) is self.kind for one in each):
            if self.least is not None and min(each) < self.least:
                raise UsageError(f"{self.name} = {value!r}: write {self.least} or more")
            return values
        wanted = {str: "text", int: "a whole number", bool: "true or false"}[self.kind]
        raise UsageError(f"{self.name} = {value!r}: write {wanted}{', or a list of them' if self.several else ''}")


def words_of(command: Callable[..., Any], without: Collection[str]) -> dict[str, Word]:
    """The parameters of a command by name, but for those of `without`."""
    return {name: _word(one) for name, one in _parameters(command).items() if name not in without}


def spelled(words: Mapping[str, Word], asked: Mapping[str, Any]) -> list[str]:
    """What was asked as a command line; the arguments come last, after `--`."""
    said = [(word, asked[name]) for name, word in words.items() if asked.get(name) not in (None, False, [])]
    options = [text for word, value in said if word.flag for text in word.spell(value)]
    arguments = [text for word, value in said if not word.flag for text in word.spell(value)]
    return [*options, *(["--", *arguments] if arguments else [])]


def asking(other: Callable[..., Any], without: Collection[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that takes the words of `other` besides its own, as a mapping in its first parameter."""
    shared = {name: one for name, one in _parameters(other).items() if name not in without}

    def of(command: Callable[..., None]) -> Callable[..., None]:
        own = list(_parameters(command).values())[1:]

        def called(**given: Any) -> None:
            command({name: given.pop(name) for name in shared}, **given)

        parameters = [*shared.values(), *own]
        called.__doc__ = command.__doc__
        called.__signature__ = inspect.Signature(parameters)  # pyrefly: ignore[missing-attribute]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return of


def _parameters(command: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    found: Sequence[inspect.Parameter] = list(inspect.signature(command, eval_str=True).parameters.values())
    return {one.name: one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in found}


def _word(parameter: inspect.Parameter) -> Word:
    kind, info = get_args(parameter.annotation)
    plain = next(one for one in (get_args(kind) or (kind,)) if one is not type(None))
    several = getattr(plain, "__origin__", None) is list
    inner = get_args(plain)[0] if several else plain
    flag = "" if isinstance(info, ArgumentInfo) else _flag(parameter.name, info)
    return Word(parameter.name, flag, several, inner, info.min)


def _flag(name: str, info: OptionInfo) -> str:
    given = info.default if isinstance(info.default, str) else None
    return given or f"--{name.replace('_', '-')}"
