"""Which device a loaded model is on, and what shows that it was used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster.watcher import Watcher

DRIVER = Path("/proc/driver/nvidia/version")
SAMPLE_EVERY_S = 0.05
# Packages of which a stage may hold objects that hold the model.
_WRAPPERS = ("actors", "faster_whisper", "pyannote")


@dataclass(frozen=True, slots=True)
class Devices:
    """The GPUs that torch and ctranslate2 can use, and whether a driver is there at all."""

    names: tuple[str, ...]
    memory_gib: tuple[float, ...]
    ctranslate2_gpus: int
    has_driver: bool


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model lies: `cuda` or `cpu`, what share of it, in which precision; None where nobody knows."""

    device: str
    share: float
    precision: str
    parameters: int | None


@dataclass(frozen=True, slots=True)
class Use:
    """What a stretch of work cost; the GPU's figures are None without one, `busy` also without NVML."""

    wall_s: float
    cpu_s: float
    device_gib: float | None
    busy: float | None


def devices() -> Devices:
    """What is there; a first small kernel shows that torch's CUDA works, which may raise what torch raises."""
    import ctranslate2
    import torch

    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    if cards:
        assert float(torch.ones(2, device="cuda").sum()) == 2.0
    return Devices(
        tuple(card.name for card in cards),
        tuple(card.total_memory / 2**30 for card in cards),
        ctranslate2.get_cuda_device_count(),
        DRIVER.exists(),
    )


def cpu_name() -> str:
    """The processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")


def gpu_name() -> str | None:
    """The first GPU's name; None without one."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def placement(stage: Any) -> Placement:
    """Where the models that `stage` holds lie; the device is that of most of their parameters."""
    modules, engines = _models(stage)
    if engines:
        on_cuda = [engine.device == "cuda" for engine in engines]
        share, device = _majority(sum(on_cuda), len(on_cuda))
        return Placement(device, share, engines[0].compute_type, None)
    tensors = [tensor for module in modules for tensor in module.parameters()]
    if not tensors:
        raise ValueError(f"{type(stage).__name__} holds no model: load it first")
    total = sum(tensor.numel() for tensor in tensors)
    share, device = _majority(sum(tensor.numel() for tensor in tensors if tensor.is_cuda), total)
    return Placement(device, share, str(tensors[0].dtype).removeprefix("torch."), total)


def device_used_gib() -> float | None:
    """Memory of the first GPU that is taken, by anybody; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info(0)
    return (total - free) / 2**30


class Sampler(Watcher):
    """Looks at the first GPU every 50 ms while the block runs; without one it sees nothing.

    A look is a moment of `time.monotonic()`, the GiB that are taken by anybody, and the device's busy share where
    NVML tells.
    """

    every_s = SAMPLE_EVERY_S

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[tuple[float, float, float | None]] = []

    def look(self) -> bool:
        """See the class."""
        taken_gib = device_used_gib()
        if taken_gib is None:
            return False
        busy = _utilization()
        self.looks.append((time.monotonic(), taken_gib, busy[0] / 100 if busy else None))
        return True

    def peak_gib(self, since: float = 0.0, till: float = float("inf")) -> float | None:
        """The most that was taken between two moments; None without a look."""
        return max((taken for at, taken, _ in self.looks if since <= at <= till), default=None)

    def busy(self, since: float = 0.0, till: float = float("inf")) -> float | None:
        """The mean busy share between two moments; None where nobody knows."""
        found = [busy for at, _, busy in self.looks if busy is not None and since <= at <= till]
        return sum(found) / len(found) if found else None


class Meter:
    """Measures the block it is wrapped around; `use` is there afterwards."""

    def __init__(self, idle_gib: float | None) -> None:
        """`idle_gib` is what was taken on the GPU before the model was loaded; None without one."""
        self._idle_gib = idle_gib
        self._sampler = Sampler()
        self.use = Use(0.0, 0.0, None, None)

    def __enter__(self) -> Self:
        if self._idle_gib is not None:
            self._sampler.__enter__()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        wall_s, cpu_s = time.perf_counter() - self._wall, time.process_time() - self._cpu
        if self._idle_gib is None:
            self.use = Use(wall_s, cpu_s, None, None)
            return
        self._sampler.__exit__(kind, error, traceback)
        peak_gib = max(self._idle_gib, self._sampler.peak_gib() or 0.0)
        self.use = Use(wall_s, cpu_s, peak_gib - self._idle_gib, self._sampler.busy())


def _utilization() -> list[int]:
    import torch

    try:
        return [torch.cuda.utilization(0)]
    except (ImportError, RuntimeError):
        return []


def _majority(on_cuda: int, total: int) -> tuple[float, str]:
    share = on_cuda / total
    return (share, "cuda") if share >= 0.5 else (1 - share, "cpu")


def _models(stage: Any) -> tuple[list[Any], list[Any]]:
    """The torch modules and the ctranslate2 models below `stage`, each once."""
    import torch

    modules, engines = [], []
    for thing in _below(stage, torch.nn.Module):
        (modules if isinstance(thing, torch.nn.Module) else engines).append(thing)
    return modules, engines


def _below(stage: Any, module_class: type[Any]) -> Iterator[Any]:
    seen: set[int] = set()
    waiting = [stage]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        package = type(thing).__module__.partition(".")[0]
        if isinstance(thing, module_class) or (package == "ctranslate2" and hasattr(thing, "compute_type")):
            yield thing
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, list | tuple):
            waiting += thing
        elif package in _WRAPPERS:
            waiting += getattr(thing, "__dict__", {}).values()
