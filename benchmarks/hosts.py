"""Lose hosts at random moments of a backfill, submit it again, and compare with a run nobody disturbed.

`python -m benchmarks.hosts --runs 20 --seed 1 [--first 7] [--models bundled|light]`. In each run one worker is cut
off from the network, another loses power, then the head does, with the driver on it. A new cluster takes its place
and the same command is given again, while what is left of the old one is still about. Exit code 1 when any corpus
differs, is unsound, charges a file, needed more commands than it may, or was made before every loss came.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.chaos import Verdict, charged_beside, verdict
from benchmarks.chaos_world import Command, Ended
from benchmarks.hosts_world import WORKERS, HostsWorld, await_claims, make_hosts_world
from benchmarks.report import write_result
from cluster.db.dump import differences
from tests.nodes.cluster import Cluster

CLIPS = 10
PATIENCE_S = 300.0
# Three losses, the head being one of them, and whatever comes between.
MOST_COMMANDS = 4
SECTIONS = ("segment",)
LOSSES = ("cut off", "worker killed", "head killed")


@dataclass(frozen=True, slots=True)
class Losses:
    """Which worker is cut off, which one dies and when: after so many claims and seconds. `back` plugs the first in."""

    cut: int
    killed: int
    claims: tuple[int, int, int]
    delays_s: tuple[float, float, float]
    back: bool


@dataclass(slots=True)
class Outcome:
    """One disturbed run."""

    losses: Losses
    struck: list[str] = field(default_factory=list)
    commands: int = 0
    wall_s: float = 0.0
    charges: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def draw(number: int, seed: int, rows: int) -> Losses:
    """The losses of run `number`, the same for the same seed; the head goes while there is work left."""
    chance = random.Random(f"{seed}/{number}")
    cut, killed = chance.sample(range(WORKERS), 2)
    claims = sorted(chance.randint(1, rows) for _ in range(3))
    delays = [round(chance.choice((0.0, 0.2, 1.0)) * chance.random(), 3) for _ in range(3)]
    return Losses(
        cut, killed, (claims[0], claims[1], claims[2]), (delays[0], delays[1], delays[2]), chance.random() < 0.5
    )


def undisturbed(world: HostsWorld) -> tuple[Verdict, float]:
    """The run that all others must equal, and its wall time in seconds; raises when it is not sound itself."""
    url, started = world.database(), time.monotonic()
    cluster = world.cluster()
    try:
        ended = world.submit(cluster, url).wait(PATIENCE_S)
    finally:
        cluster.kill()
    found = verdict(url)
    if ended.code != 3 or found.broken or not all(found.dump.facts[section] for section in SECTIONS):
        raise RuntimeError(f"the undisturbed run is not sound: exit code {ended.code}, {found.broken}: {_said(ended)}")
    return found, time.monotonic() - started


def disturbed(world: HostsWorld, reference: Verdict, losses: Losses) -> Outcome:
    """One run: lose hosts while the first command is at work, repeat it on a new cluster, judge the corpus."""
    outcome, started, url = Outcome(losses), time.monotonic(), world.database()
    old, new = world.cluster(), None
    try:
        first = world.submit(old, url)
        ends = [_lose(outcome, old, first, url)]
        new = world.cluster()
        while not ends[-1].nothing_to_do and len(ends) < MOST_COMMANDS:
            ends.append(world.submit(new, url).wait(PATIENCE_S))
    finally:
        old.kill()
        if new is not None:
            new.kill()
    outcome.wall_s = round(time.monotonic() - started, 1)
    outcome.commands = len(ends) - ends[-1].nothing_to_do
    _judge(outcome, reference, verdict(url), ends)
    return outcome


def _lose(outcome: Outcome, cluster: Cluster, command: Command, url: str) -> Ended:
    losses, workers = outcome.losses, list(cluster.workers)
    head = cluster.head
    assert head is not None
    for name, claims, delay_s in zip(LOSSES, losses.claims, losses.delays_s, strict=True):
        if not await_claims(url, claims, command, PATIENCE_S):
            break
        time.sleep(delay_s)
        match name:
            case "cut off":
                workers[losses.cut].cut_off()
            case "worker killed":
                workers[losses.killed].kill()
            case _:
                if losses.back:
                    workers[losses.cut].plug_in()
                head.kill()
        outcome.struck.append(name)
    return command.wait(PATIENCE_S)


def _judge(outcome: Outcome, reference: Verdict, found: Verdict, ends: Sequence[Ended]) -> None:
    outcome.differences = differences(reference.dump, found.dump)
    outcome.charges = charged_beside(reference, found)
    outcome.problems = [*found.broken, *(f"charged: {one}" for one in outcome.charges)]
    if len(outcome.struck) < len(LOSSES):
        outcome.problems.append(f"the first command ended before more than {len(outcome.struck)} hosts were lost")
    if not ends[-1].nothing_to_do:
        outcome.problems.append(f"something is left to do after {len(ends)} commands")
    for number, end in enumerate(ends[1:], 2):
        if end.code not in (0, 3):
            outcome.problems.append(f"command {number} ended with {end.code}: {_said(end)}")
    if outcome.commands > 2:
        outcome.problems.append(f"{outcome.commands} commands were needed")


def _said(end: Ended) -> str:
    return "; ".join([*end.summary.get("notes", ()), end.words])


def say(number: int, outcome: Outcome) -> None:
    """One line per run, and what is wrong with it."""
    bad = [*outcome.problems, *outcome.differences]
    print(
        f"{'WRONG' if bad else 'equal'} {number}: {', '.join(outcome.struck) or 'nothing struck'} of {outcome.losses};"
        f" {outcome.commands} command(s), {outcome.wall_s} s",
        flush=True,
    )
    for line in bad:
        print(f"    {line}", flush=True)


def summed(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The runs in figures."""
    walls = [outcome.wall_s for outcome in outcomes]
    return {
        "runs": len(outcomes),
        "equal_dumps": sum(not outcome.differences for outcome in outcomes),
        "sound": sum(not outcome.problems and not outcome.differences for outcome in outcomes),
        "hosts_lost": sum(len(outcome.struck) for outcome in outcomes),
        "heads_lost": sum("head killed" in outcome.struck for outcome in outcomes),
        "files_charged": sum(len(outcome.charges) for outcome in outcomes),
        "most_commands": max((outcome.commands for outcome in outcomes), default=0),
        "wall_s": {"min": min(walls), "median": statistics.median(walls), "max": max(walls)} if walls else {},
        "each": [asdict(outcome) for outcome in outcomes],
    }


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--models", choices=("bundled", "light"), default="bundled", help="light: stages that hold none"
    )
    parser.add_argument("--name", default="hosts", help="of the file in benchmarks/results")
    return parser.parse_args(words)


def record(asked: argparse.Namespace, reference_s: float, outcomes: Sequence[Outcome]) -> bool:
    """Write what the runs so far came to; whether all of them are sound."""
    figures = summed(outcomes)
    write_result(
        asked.name,
        {
            "seed": asked.seed,
            "first": asked.first,
            "models": asked.models,
            "hosts": f"a head without work of its own and {WORKERS} workers of 2 CPUs, network namespaces of a machine",
            "corpus": f"{CLIPS} recordings of 5 to 8 s of one call, one of them a film; a film without sound, a broken"
            " one; three pictures, two of them the same at two sizes",
            "undisturbed_s": round(reference_s, 1),
            **figures,
        },
    )
    return figures["sound"] == figures["runs"]


def main() -> int:
    """Every run against one undisturbed run; the result is written after each, because twenty take half an hour."""
    asked = parse(sys.argv[1:])
    # Ended from outside, it still takes its hosts and its server with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    outcomes, sound = [], True
    with make_hosts_world(asked.models, CLIPS) as world:
        reference, reference_s = undisturbed(world)
        print(f"undisturbed: {reference_s:.1f} s, {len(reference.dump.facts['segment'])} segments", flush=True)
        for number in range(asked.first, asked.first + asked.runs):
            outcomes.append(disturbed(world, reference, draw(number, asked.seed, CLIPS)))
            say(number, outcomes[-1])
            sound = record(asked, reference_s, outcomes)
    return int(not sound)


if __name__ == "__main__":
    sys.exit(main())
