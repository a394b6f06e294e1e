"""The models on a card: rates, memory, shares against one model at a time, and what only a card can show.

`python -m benchmarks.gpu [--quick] [--minutes 25] [--out FOLDER]` on a machine with a GPU, the repository and its lock;
it needs no Ray, no database and no hub. Without a GPU it says so and ends. `--device cpu --quick` runs the same code
with small models, to see that it works: its figures mean nothing and are written only where `--out` or BENCH_RESULTS
says. Weights come from the hub cache where they are, else they are random (`benchmarks.gpu_models`).

- `checks`: memory that ends, CUDA beside the CPU, precision, cuBLAS, two processes, where the models lie;
- `stages`: every stage alone in a process of its own, and its rows for the table `stage_rates`;
- `groups`: hearing, speaking and looking, each alone; all in one process; side by side; twice side by side.

A step that fails is recorded and the others go on. What is done is written after each step.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.device import Sampler, cpu_name, device_used_gib, devices, gpu_name
from benchmarks import report
from benchmarks.gpu_checks import checks, placed, precision, second_process
from benchmarks.gpu_child import in_child
from benchmarks.gpu_groups import FUSED, GROUPS, SHARED, TWICE, Setup, Stock, arrange
from benchmarks.gpu_media import FULL, QUICK, WHAT, Length, build_media, rows
from benchmarks.gpu_models import PROFILES, Models, prepare
from benchmarks.gpu_stages import BEFORE, Trial, measure_stage
from cluster.settings import settings_to_dict
from jobs.stage_costs import ROLE_OF_STAGE, stage_identities

LOOKED = ("pictures", "images")
LEAST_S, QUICK_LEAST_S = 5.0, 0.2
# A step is not begun with less than this left, and none takes more than its part.
LEAST_LEFT_S, STEP_S = 15.0, 420.0


class Bench:
    """The run: its document so far, the time that is left, where it writes."""

    def __init__(self, device: str, quick: bool, minutes: float, folder: Path, written: bool) -> None:
        self.device, self.quick, self.folder, self.written = device, quick, folder, written
        self.ends_s = time.monotonic() + minutes * 60
        self.cpus = len(os.sched_getaffinity(0))
        self.length: Length = QUICK if quick else FULL
        self.document: dict[str, Any] = {
            "device": device,
            "card": card(device),
            "media": {"what": WHAT, "assets": self.length.assets, "asset_s": self.length.asset_s,
                      "picture": list(self.length.size)},
        }  # fmt: skip

    @property
    def till_s(self) -> float:
        """When the step that begins now must have ended, by `time.monotonic()`."""
        return min(self.ends_s, time.monotonic() + STEP_S)

    @property
    def media_s(self) -> float:
        return self.length.assets * self.length.asset_s

    def step(self, place: str, call: Callable[[], Any]) -> Any:
        """`call()` recorded at `place` (names joined by slashes); its error, or that time was over, as well."""
        value, began_s = None, time.monotonic()
        if self.ends_s - began_s < LEAST_LEFT_S:
            recorded: Any = {"skipped": "the time was over"}
        else:
            try:
                recorded = value = call()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a result
                logging.getLogger(__name__).warning("%s: %s", place, error)
                recorded = {"error": f"{type(error).__name__}: {error}"}
        where, *inner = place.split("/")
        held = self.document
        for name in (where, *inner[:-1]) if inner else ():
            held = held.setdefault(name, {})
        held[inner[-1] if inner else where] = recorded
        print(f"{place}: {time.monotonic() - began_s:.1f} s", flush=True)
        self.write()
        return value

    def write(self) -> None:
        """What there is so far; `write_result` prints, and a partial document need not be seen."""
        if self.written:
            with contextlib.redirect_stdout(io.StringIO()):
                report.write_result("gpu", self.document)


def card(device: str) -> dict[str, Any] | None:
    """The GPU as torch and ctranslate2 see it; None for a CPU."""
    if device == "cpu":
        return None
    found = devices()
    return {"name": found.names[0], "gib": round(found.memory_gib[0], 1), "cards": len(found.names),
            "ctranslate2_cards": found.ctranslate2_gpus}  # fmt: skip


def run_checks(bench: Bench) -> None:
    """Every check in a process of its own."""
    folder = bench.folder / "checks"
    for name, function, arguments in checks(bench.device, folder, bench.quick):
        bench.step(f"checks/{name}", lambda f=function, a=arguments: in_child(bench.till_s - time.monotonic(), f, *a))
    bench.step("checks/second_process", lambda: second_process("texts", bench.device, folder, 64, bench.till_s))


def run_profile(bench: Bench, profile: str, media: list[Path]) -> None:
    """Stages, then groups, of one profile."""
    models = _prepared(bench, profile)
    if models is None:
        return
    spoken, looked = (rows(media, bench.length.asset_s, root) for root in ("speech", "frames"))
    setup = Setup(settings_to_dict(models.settings), models.random, bench.cpus, bench.folder / profile)
    figures = {}
    for name in BEFORE:
        trial = Trial(
            name, setup.settings, models.random, looked if name in LOOKED else spoken, max(1, bench.cpus // 2),
            QUICK_LEAST_S if bench.quick else LEAST_S,
        )  # fmt: skip
        found = bench.step(f"profiles/{profile}/stages/{name}", lambda trial=trial: watched_stage(bench, trial))
        if found is not None:
            figures[name] = found
    bench.step(f"profiles/{profile}/stage_rates", lambda: stage_rates(models, figures))
    bench.step(f"checks/placement.{profile}", lambda: placed(figures, bench.device))
    for role in ("transcriber", "text"):
        told = models.settings.model_choice(role).to_dict()
        seconds = bench.till_s - time.monotonic()
        bench.step(f"checks/precision.{profile}.{role}", lambda t=told, s=seconds: in_child(s, precision, t, 1))
    run_groups(bench, f"profiles/{profile}/groups", setup, Stock.of(setup.folder / "stock", spoken, looked))


def _prepared(bench: Bench, profile: str) -> Models | None:
    found: list[Models] = []

    def call() -> Mapping[str, str]:
        found.append(prepare(profile, bench.folder / "models", bench.device, bench.cpus, bench.quick))
        return found[0].origin

    bench.step(f"profiles/{profile}/weights", call)
    return found[0] if found else None


def watched_stage(bench: Bench, trial: Trial) -> dict[str, Any]:
    """The stage's own figures with what was seen of the card meanwhile."""
    idle_gib = device_used_gib() if bench.device == "cuda" else None
    with _sampler(bench) as sampler:
        found = in_child(bench.till_s - time.monotonic(), measure_stage, trial)
    at = found.pop("at")
    peak_gib = sampler.peak_gib(at["started"], at["worked"])
    found["device_gib"] = None if peak_gib is None or idle_gib is None else peak_gib - idle_gib
    found["device_busy"] = sampler.busy(at["warm"], at["worked"])
    return _rounded(found)


def stage_rates(models: Models, figures: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows that these figures would be in the table of that name.

    Random weights have no identity; a stage whose model lies on the card is the card's.
    """
    random = {stage for stage, role in ROLE_OF_STAGE.items() if role in models.random}
    known = {name: one for name, one in stage_identities(models.settings).items() if name not in random}
    return [
        {
            "hardware": gpu_name() if (one["placed"] or {}).get("device") == "cuda" else cpu_name(), "stage": name,
            "identity": known.get(name), "s_per_media_hour": one["s_per_media_hour"], "load_s": one["load_s"],
            "host_gib": one["host_gib"], "device_gib": one["device_gib"] or 0.0, "media_s": one["media_s"],
            "assets": one["assets"],
        }
        for name, one in figures.items()
    ]  # fmt: skip


def run_groups(bench: Bench, place: str, setup: Setup, stock: Stock) -> None:
    """Each group alone, then every way of putting them on the card."""
    hear = bench.step(f"{place}/hear", lambda: arranged(bench, setup, stock, {"hear": 1}))
    if hear is not None:
        heard = Stock({**stock.files, "heard": hear.pop("heard")})
        bench.step(f"{place}/speak", lambda: arranged(bench, setup, heard, {"speak": 1}))
    bench.step(f"{place}/look", lambda: arranged(bench, setup, stock, {"look": 1}))
    for name, counts in (("fused", FUSED), ("shared", SHARED), ("shared_twice", TWICE)):
        bench.step(f"{place}/{name}", lambda counts=counts: arranged(bench, setup, stock, counts))


def arranged(bench: Bench, setup: Setup, stock: Stock, counts: Mapping[str, int]) -> dict[str, Any]:
    """An arrangement's figures; `hours_per_hour` are unique hours of video through the stages that are named."""
    idle_gib = device_used_gib() if bench.device == "cuda" else None
    threads = max(1, bench.cpus // sum(counts.values()))
    with _sampler(bench) as sampler:
        found = arrange(replace(setup, threads=threads), stock, counts, bench.till_s)
    at, heard, stage_s = (found.pop(name) for name in ("at", "heard", "stage_s"))
    peak_gib = sampler.peak_gib(0.0, at["worked"])
    hour = 3600 / bench.media_s
    return {
        "processes": dict(counts), "threads_each": threads, "stages": [name for one in counts for name in GROUPS[one]],
        **_rounded(
            {**found, "hours_per_hour": bench.media_s / found["wall_s"], "s_per_media_hour": found["wall_s"] * hour,
             "stage_s_per_media_hour": {name: seconds * hour for name, seconds in stage_s.items()},
             "device_gib": None if peak_gib is None or idle_gib is None else peak_gib - idle_gib,
             "device_busy": sampler.busy(at["began"], at["worked"])}
        ), **({"heard": heard} if counts == {"hear": 1} else {}),
    }  # fmt: skip


def _sampler(bench: Bench) -> contextlib.AbstractContextManager[Sampler]:
    return Sampler() if bench.device == "cuda" else contextlib.nullcontext(Sampler())


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def run(bench: Bench, profiles: tuple[str, ...] = PROFILES) -> dict[str, Any]:
    """Everything, as far as the time goes; the document."""
    run_checks(bench)
    media: list[Path] = []
    bench.step("media_made", lambda: media.extend(build_media(bench.folder / "media", bench.length)))
    for profile in profiles if media else ():
        run_profile(bench, profile, media)
    return bench.document


def main(words: list[str] | None = None) -> None:
    """Run and write `results/gpu.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--quick", action="store_true", help="small models, little media")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=25.0, help="no step begins afterwards")
    parser.add_argument("--out", type=Path, help="write the results to this folder")
    asked = parser.parse_args(words)
    if asked.device == "cuda" and gpu_name() is None:
        print("no GPU here: nothing is measured (--device cpu --quick tries the code)")
        return
    if asked.out is not None:
        report.RESULTS = asked.out
    written = asked.device == "cuda" or asked.out is not None or bool(os.environ.get(report.VARIABLE))
    with tempfile.TemporaryDirectory(prefix="rushes-gpu-") as folder:
        _own_settings(Path(folder))
        bench = Bench(asked.device, asked.quick, asked.minutes, Path(folder), written)
        run(bench)


def _own_settings(folder: Path) -> None:
    """Neither the environment nor the settings file of the person who runs this decides anything."""
    for name in [name for name in os.environ if name.startswith("RUSHES_")]:
        del os.environ[name]
    os.environ["XDG_CONFIG_HOME"] = str(folder)


if __name__ == "__main__":
    main()
