"""`rushes bench`: how fast a model is on this device, and whether the device is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, print_json, settings_from
from jobs.cli.config import Profile

if TYPE_CHECKING:
    from jobs.device_bench import Speed

What = Annotated[str, typer.Argument(help="text, voice, asr or image.", show_default=False)]


def bench(
    what: What,
    profile: Profile = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Measure a role's model on this device and show that the device is used; exit 1 if another one was."""
    from cluster.errors import RushesError
    from jobs.device_bench import bench as run_bench

    speed = run_bench(settings_from(config, profile=profile), what)
    if as_json:
        print_json(as_dict(speed))
    for line in () if as_json else describe(speed):
        typer.echo(line)
    if refusal := speed.refusal():
        raise RushesError(refusal)


def as_dict(speed: Speed) -> dict[str, Any]:
    """Everything measured, rates per second as median and as measured."""
    from dataclasses import asdict

    return {**asdict(speed), "median_rates": speed.median_rates(), "proved": speed.refusal() is None}


def describe(speed: Speed) -> list[str]:
    """Model, device, times, speed and proof, a line each."""
    choice, placed = speed.choice, speed.placed
    device = speed.gpu if placed.device == "cuda" else f"{speed.cpu}, {speed.threads} thread(s)"
    return [
        f"{choice.role}, profile {choice.profile}: {choice.weights}",
        f"device {placed.device}: {device}; precision {placed.precision}, {_batch(choice)}",
        f"loaded in {speed.load_s:.2f} s, first call {speed.warm_up_s:.2f} s",
        *(_rate(unit, values, speed.median_rates()[unit]) for unit, values in speed.rates.items()),
        f"sample: {speed.sample}, {speed.times} time(s) in each measurement",
        f"proof: {_proof(speed)}",
    ]


def _batch(choice: Any) -> str:
    if choice.role == "image":
        return f"{max(1, choice.batch_pixels // choice.image_size**2)} pictures in a call"
    return f"batch size {choice.batch_size}"


def _rate(unit: str, values: list[float], middle: float) -> str:
    measured = ", ".join(f"{value:.1f}" for value in values)
    name = "x realtime" if unit == "media seconds" else f"{unit} per second"
    return f"speed: {middle:.1f} {name} (median of {measured})"


def _proof(speed: Speed) -> str:
    from statistics import median

    placed, uses = speed.placed, speed.uses
    size = f"{placed.parameters / 1e6:.1f} M parameters" if placed.parameters else "the model"
    parts = [f"{placed.share:.0%} of {size} on {placed.device}"]
    if placed.device == "cuda":
        parts.append(f"{max(use.device_gib or 0.0 for use in uses):.2f} GiB of device memory at the peak")
        busy = [use.busy for use in uses if use.busy is not None]
        parts.append(f"device busy {median(busy):.0%}" if busy else "device busy: not known without nvidia-ml-py")
    parts.append(f"{median(use.cpu_s / use.wall_s for use in uses):.2f} CPU seconds per second")
    return ", ".join(parts)
