"""Kill something at a chosen moment, run the same command again, and compare with a run nobody disturbed.

`python -m benchmarks.chaos --runs 27 --seed 1 [--kinds driver,actor] [--runner worker|ray|inline]`. A run is
drawn from (seed, kind, number) alone: `--first 7 --runs 1` repeats the eighth. Exit code 1 when any corpus
differs, is unsound, charges a file for what was not its fault, or needed more commands than it may.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psycopg

from benchmarks.chaos_blow import Blow, Kind, Struck, draw, strike
from benchmarks.chaos_world import Ended, World, make_world
from benchmarks.report import write_result
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.dump import Dump, canonical_dump, differences

CLIPS = 5
PATIENCE_S = 240.0
MOST_COMMANDS = 4
# A run that leaves one of them empty shows nothing.
SECTIONS = ("segment", "frame", "near duplicate", "visual member")
# A file that ends its process, or seems to, is charged an attempt; nothing else is a file's fault.
CHARGED = (Kind.ACTOR, Kind.DECODE_CHILD)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a corpus says, which rules it breaks, and which failures its history holds."""

    dump: Dump
    broken: list[str]
    charges: Counter[tuple[str, ...]]


@dataclass(slots=True)
class Outcome:
    """One disturbed run; `struck` is None when its command ended before the blow."""

    blow: Blow
    struck: Struck | None
    commands: int = 0
    wall_s: float = 0.0
    orphans: int = 0
    charges: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def verdict(url: str) -> Verdict:
    """Judge one database by itself."""
    with open_connection(url) as conn:
        broken = [f"{count} {name}" for name, count in check_corpus(conn).items() if count]
        for name, query in _RULES.items():
            broken += [f"{count} {name}" for (count,) in conn.execute(query.encode()) if count]
        return Verdict(canonical_dump(conn), broken, _charges(conn))


_RULES = {
    "done unit(s) with attempts": "SELECT count(*) FROM units WHERE state = 'done' AND attempts > 0",
    "run(s) left running": "SELECT count(*) FROM runs WHERE state = 'running'",
}


def _charges(conn: psycopg.Connection[Any]) -> Counter[tuple[str, ...]]:
    rows = conn.execute("SELECT coalesce(uri, ''), coalesce(lane, ''), failure, stage FROM failures")
    return Counter(rows.fetchall())


def charged_beside(reference: Verdict, found: Verdict) -> list[str]:
    """The failures in `found` that the reference does not have: file, lane, cause and stage."""
    return [" ".join((Path(uri).name, *rest)) for uri, *rest in (found.charges - reference.charges).elements()]


def undisturbed(world: World) -> tuple[Verdict, float]:
    """The run that all others must equal, and its wall time in seconds; raises when it is not sound itself."""
    with world.database() as url:
        started = time.monotonic()
        ended = world.start(url).wait(PATIENCE_S)
        wall_s = time.monotonic() - started
        found = verdict(url)
    if ended.code != 3 or found.broken or not all(found.dump.facts[section] for section in SECTIONS):
        raise RuntimeError(f"the undisturbed run is not sound: exit code {ended.code}, {found.broken}: {ended.words}")
    return found, wall_s


def disturbed(world: World, reference: Verdict, blow: Blow) -> Outcome:
    """One run: disturb the first command, repeat it until nothing is left to do, judge the corpus."""
    folder = Path(mkdtemp(prefix="fault-", dir=world.root))
    fault, started = blow.fault(folder), time.monotonic()
    with world.database() as url:
        first = world.start(url, fault)
        try:
            outcome = Outcome(blow, strike(world, blow, first, url, folder, PATIENCE_S))
            ends = _until_nothing(world, url, fault, first.wait(PATIENCE_S))
        finally:
            orphans = first.end()
        outcome.orphans = orphans
        outcome.wall_s = time.monotonic() - started
        outcome.commands = len(ends) - ends[-1].nothing_to_do
        outcome.problems = _complaints(blow.kind, ends)
        _compare(outcome, reference, verdict(url))
    return outcome


def _until_nothing(world: World, url: str, fault: str, first: Ended) -> list[Ended]:
    ends = [first]
    while not ends[-1].nothing_to_do and len(ends) < MOST_COMMANDS:
        command = world.start(url, fault)
        try:
            ends.append(command.wait(PATIENCE_S))
        finally:
            command.end()
    return ends


def _complaints(kind: Kind, ends: Sequence[Ended]) -> list[str]:
    told = [] if ends[-1].nothing_to_do else [f"something is left to do after {len(ends)} commands"]
    for number, end in enumerate(ends):
        mine = number == 0 and kind is Kind.DRIVER
        if end.code not in (0, 3) and not mine:
            told.append(f"command {number + 1} ended with {end.code}: {end.words}")
    if kind is not Kind.DRIVER and len(ends) > 2:
        told.append(f"the job did not resume by itself: {len(ends)} commands")
    return told


def _compare(outcome: Outcome, reference: Verdict, found: Verdict) -> None:
    outcome.differences = differences(reference.dump, found.dump)
    outcome.charges = charged_beside(reference, found)
    outcome.problems += found.broken
    if outcome.charges and outcome.blow.kind not in CHARGED:
        outcome.problems.append(f"charged: {'; '.join(outcome.charges)}")


def run_kind(world: World, reference: Verdict, kind: Kind, numbers: Sequence[int], seed: int) -> list[Outcome]:
    """Every run of one kind; a blow that comes too late is struck again, sooner."""
    outcomes = []
    for number in numbers:
        blow = draw(kind, number, seed, CLIPS, world.runner)
        outcome = disturbed(world, reference, blow)
        if outcome.struck is None:
            say(number, seed, outcome)
            outcome = disturbed(world, reference, blow.sooner())
        say(number, seed, outcome)
        outcomes.append(outcome)
    return outcomes


def say(number: int, seed: int, outcome: Outcome) -> None:
    """One line per run, and what is wrong with it."""
    blow, bad = outcome.blow, [*outcome.problems, *outcome.differences]
    state = "WRONG" if bad else "equal" if outcome.struck else "missed"
    print(
        f"{state} {blow.kind} {number} seed {seed}: {blow.point} visit {blow.visit}, {outcome.commands} command(s),"
        f" {outcome.wall_s:.1f} s, {len(outcome.charges)} charge(s)",
        flush=True,
    )
    for line in [*bad, *([str(blow)] if bad else [])]:
        print(f"    {line}", flush=True)


def summed(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The runs of one kind in figures."""
    hit = [outcome for outcome in outcomes if outcome.struck is not None]
    return {
        "runs": len(hit),
        "missed": len(outcomes) - len(hit),
        "equal_dumps": sum(not outcome.differences for outcome in hit),
        "sound": sum(not outcome.problems and not outcome.differences for outcome in hit),
        "commands_needed": _counted(outcome.commands for outcome in hit),
        "points_hit": _counted(outcome.blow.point.value for outcome in hit),
        "struck_from_within": sum(outcome.blow.exact for outcome in hit),
        "charges": _counted(charge for outcome in hit for charge in outcome.charges),
        "orphans_left": sum(outcome.orphans for outcome in hit),
        "wall_s": _spread([outcome.wall_s for outcome in hit]),
        "kill_delay_s": _spread([outcome.struck.delay_s for outcome in hit if outcome.struck]),
    }


def _counted(values: Any) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    named = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, 3) for name, value in named.items()}


def failed(outcomes: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """The kinds in which a run went wrong, or no blow landed."""
    return [
        kind
        for kind, runs in outcomes.items()
        if any(run.problems or run.differences for run in runs) or not any(run.struck for run in runs)
    ]


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=27, help="runs per kind; 27 meet every point")
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(Kind), help="some of %(default)s")
    parser.add_argument("--runner", choices=("worker", "ray", "inline"), default="worker")
    parser.add_argument("--name", default="chaos", help="of the file in benchmarks/results")
    asked = parser.parse_args(words)
    asked.kinds = [Kind(kind) for kind in asked.kinds.split(",")]
    if asked.runner == "inline" and {Kind.ACTOR, Kind.WRITER} & set(asked.kinds):
        parser.error("with --runner inline the stages run in the driver: leave actor and writer out of --kinds")
    return asked


def main() -> int:
    """The matrix: every kind, one after the other, against one undisturbed run."""
    asked = parse(sys.argv[1:])
    numbers = range(asked.first, asked.first + asked.runs)
    # Ended from outside, it still takes its server and commands with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with make_world(asked.runner, CLIPS) as world:
        reference, reference_s = undisturbed(world)
        print(f"undisturbed: {reference_s:.1f} s, {len(reference.dump.facts['segment'])} segments", flush=True)
        outcomes = {kind: run_kind(world, reference, kind, numbers, asked.seed) for kind in asked.kinds}
    bad = failed(outcomes)
    write_result(
        asked.name,
        {
            "runner": asked.runner,
            "seed": asked.seed,
            "corpus": f"{CLIPS} recordings of 6 to 10 s of one call, one of them a film; a film without sound, a broken"
            " one; three pictures, two of them the same at two sizes",
            "undisturbed_s": round(reference_s, 2),
            "kinds": {kind: summed(runs) for kind, runs in outcomes.items()},
            "wrong": bad,
        },
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
