"""Checks in order, each with what was found and the way out; what a failed one makes pointless is skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from cluster.errors import RushesError

State = Literal["ok", "warn", "FAIL", "skipped"]


@dataclass(frozen=True, slots=True)
class Found:
    """What one check found; `fix` is a command or a setting, for everything but `ok`."""

    state: State
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: it runs when none of the checks named in `needs` failed or was skipped."""

    name: str
    look: Callable[[], Found]
    needs: tuple[str, ...] = ()
    required: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a check; `fix` is empty when there is nothing to mend."""

    name: str
    state: State
    required: bool
    found: str
    fix: str


def examine(checks: Iterable[Check]) -> Iterator[Finding]:
    """Each check's finding as soon as it is there; a check that raises is a finding too."""
    states: dict[str, State] = {}
    for check in checks:
        missing = next((name for name in check.needs if states.get(name, "ok") in ("FAIL", "skipped")), None)
        found = _looked(check) if missing is None else Found("skipped", f"needs {missing}")
        states[check.name] = found.state
        yield Finding(check.name, found.state, check.required, found.text, found.fix)


def failed(findings: Iterable[Finding]) -> bool:
    """Whether anything that is required failed."""
    return any(finding.required and finding.state == "FAIL" for finding in findings)


def failure(error: RushesError) -> Found:
    """A failed check in the words of `error`, whose way out follows its last colon."""
    text, _, way_out = str(error).rpartition(": ")
    return Found("FAIL", text, way_out) if text else Found("FAIL", str(error))


def _looked(check: Check) -> Found:
    try:
        return check.look()
    except RushesError as error:
        return failure(error)
    except Exception as error:  # noqa: BLE001 - the next checks must still run
        return Found("FAIL", f"{type(error).__name__}: {error}", "report this as a fault of `rushes doctor`")
