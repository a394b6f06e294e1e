"""What only a card can show of the stages, each with its numbers. On a CPU the same code runs and proves less.

A check returns what it saw with `passed`, None where this device cannot tell. The models are the bundled ones, with
real weights, and a small CLIP at random.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from actors.device import placement
from actors.images import Images
from actors.speech_activity import SpeechActivity
from actors.texts import Texts
from actors.transcribe import Transcribe
from actors.voices import Voices
from benchmarks.corpus import recordings
from benchmarks.gpu_child import Child
from benchmarks.gpu_whisper import SCRIPT
from cluster.profiles import HALF, ModelChoice
from cluster.settings import load_settings
from cluster.types import SAMPLE_RATE_HZ, audio_array, rows_table, with_column
from tests.tiny_clip import tiny_choice, tiny_clip

STAGES = ("texts", "voices", "images", "transcribe")
ROLE = {"texts": "text", "voices": "voice", "images": "image", "transcribe": "transcriber"}
# Vectors of one model on two devices, and of one device under other batches.
TOLERANCE, BATCH_TOLERANCE = 1e-3, 1e-3
ALIKE = 0.9
LEAVE_GIB = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)
VOICE_S = 5
# What the halved batches are compared with is done in so many times smaller ones.
PARTS = 64


class Probe:
    """A loaded stage and something for it to do: vectors, or the words of the recogniser."""

    def __init__(self, name: str, device: str, folder: Path, items: int) -> None:
        """`items` is how much it gets to do, and what one call may hold."""
        self.name, self.items = name, items
        choice = _choice(name, device, folder, items)
        self.stage: Any = {"texts": Texts, "voices": Voices, "images": Images, "transcribe": Transcribe}[name](choice)
        self.stage.load()

    @property
    def budget(self) -> Any:
        return self.stage._encoder.budget if self.name == "voices" else self.stage._budget

    def run(self) -> Any:
        """Vectors of shape (items, dimension), or a text."""
        if self.name == "texts":
            sentences = SCRIPT.read_text("utf-8").splitlines()
            return self.stage.embed_documents([sentences[i % len(sentences)] for i in range(self.items)])
        if self.name == "images":
            size = self.stage.choice.image_size
            pictures = np.random.default_rng(7).integers(0, 256, (16, size, size, 3), np.uint8)
            return self.stage.embed_pictures(np.resize(pictures, (self.items, size, size, 3)))
        sound = recordings()[0]
        if self.name == "voices":
            length, room = VOICE_S * SAMPLE_RATE_HZ, len(sound) - VOICE_S * SAMPLE_RATE_HZ
            starts = [number * 16_001 % room for number in range(self.items)]
            return self.stage.embed_waveforms([sound[start : start + length] for start in starts])
        return self._heard(np.tile(sound, self.items))

    def _heard(self, sound: Any) -> str:
        activity = SpeechActivity()
        activity.load()
        table = rows_table([{"asset_id": 1, "lanes": ["speech"]}])
        table = with_column(table, "audio", audio_array([sound]))
        done = self.stage.process(with_column(table, "speech", [activity.regions(sound)]))
        return " ".join(word["text"] for word in done["words"][0].as_py())


def _choice(name: str, device: str, folder: Path, items: int) -> ModelChoice:
    if name == "images":
        path = tiny_clip(folder / f"clip-{device}")
        return tiny_choice(path, device=device, batch_pixels=items * 32 * 32)
    fields = {ROLE[name]: {"device": device, "batch_size": items}}
    return load_settings(None, **fields).model_choice(ROLE[name])


def vectors(name: str, device: str, folder: Path, items: int) -> Any:
    """What the stage says on the device; for another process."""
    return Probe(name, device, folder, items).run()


def difference(one: Any, other: Any) -> float:
    """The largest difference of two vectors' places, or what two texts do not share."""
    if isinstance(one, str):
        return 1 - SequenceMatcher(None, one.split(), other.split(), autojunk=False).ratio()
    return float(np.abs(one - other).max())


def out_of_memory(name: str, device: str, folder: Path, items: int) -> dict[str, Any]:
    """Memory is taken away until a batch does not fit: it must halve and say the same."""
    probe = Probe(name, device, folder, items)
    full = probe.budget.size
    probe.budget.size = max(1, full // PARTS)
    wanted = probe.run()
    held = []
    for leave_gib in LEAVE_GIB:
        probe.budget.size = full
        held.append(_leave(device, leave_gib))
        found = probe.run()
        if probe.stage.halvings:
            off = difference(wanted, found)
            passed = off <= (1 - ALIKE if isinstance(found, str) else BATCH_TOLERANCE)
            sizes = {"size_before": full, "size_after": probe.budget.size, "halvings": probe.stage.halvings}
            return {"passed": passed, "left_gib": leave_gib, **sizes, "difference": off}
    return {"passed": None, "why": f"a full batch of {items} fits {LEAVE_GIB[-1]} GiB"}


def _leave(device: str, gib: float) -> Any:
    """What must be held so that the process finds no more than this much free."""
    import torch

    if device == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info()
        return torch.empty(max(0, free_bytes - int(gib * 2**30)), dtype=torch.uint8, device="cuda")
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + int(gib * 2**30), most))
    return None


def same_as_cpu(name: str, device: str, folder: Path, items: int) -> dict[str, Any]:
    """The same model and the same content on the device and on the CPU."""
    off = difference(vectors(name, "cpu", folder, items), vectors(name, device, folder, items))
    return {"passed": off <= (1 - ALIKE if name == "transcribe" else TOLERANCE), "difference": off}


def second_process(name: str, device: str, folder: Path, items: int, till_s: float) -> dict[str, Any]:
    """Two processes with the same stage on the card at the same time."""
    children = [Child(vectors, name, device, folder / str(number), items) for number in range(2)]
    try:
        one, other = (child.result(till_s) for child in children)
    finally:
        for child in children:
            child.end()
    off = difference(one, other)
    return {"passed": off <= (1 - ALIKE if name == "transcribe" else BATCH_TOLERANCE), "difference": off}


def cublas(device: str, folder: Path) -> dict[str, Any]:
    """The recogniser finds cuBLAS 12 beside torch's 13, and works."""
    said = Probe("transcribe", device, folder, 1).run()
    maps = Path("/proc/self/maps").read_text("utf-8").splitlines()
    loaded = sorted({line.split()[-1] for line in maps if "libcublas.so" in line})
    twelve = any("libcublas.so.12" in path for path in loaded)
    return {
        "passed": twelve and bool(said) if device == "cuda" else None,
        "libraries": loaded,
        "words": len(said.split()),
    }


def precision(choice: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """A model runs in the precision that its profile names on a card, and in full on a CPU."""
    model = ModelChoice.from_dict(choice)
    stage: Any = Transcribe(model, None, threads) if model.role == "transcriber" else Texts(model, threads)
    stage.load()
    found, asked = placement(stage), model.precision
    if model.role == "transcriber":
        passed = found.precision.startswith(asked)
    else:
        passed = found.precision == (asked if asked in HALF and found.device == "cuda" else "float32")
    return {"passed": passed, "asked": asked, "found": found.precision, "device": found.device}


def placed(figures: Mapping[str, Mapping[str, Any]], device: str) -> dict[str, Any]:
    """Every model that was measured lay on the device as a whole."""
    found = {name: one["placed"] for name, one in figures.items() if one.get("placed")}
    right = [one["device"] == device and one["share"] == 1.0 for one in found.values()]
    return {"passed": all(right) if right else None, "stages": found}


Check = tuple[str, Callable[..., dict[str, Any]], Sequence[Any]]


def checks(device: str, folder: Path, quick: bool) -> list[Check]:
    """Name, function and arguments of every check that runs in a process of its own."""
    many = {"texts": 256, "voices": 32, "images": 4000, "transcribe": 4} if quick else {
        "texts": 8192, "voices": 2048, "images": 400_000, "transcribe": 96,
    }  # fmt: skip
    few = {"texts": 30, "voices": 8, "images": 16, "transcribe": 2}
    return [
        ("cublas_12", cublas, (device, folder / "cublas")),
        *((f"same_as_cpu.{name}", same_as_cpu, (name, device, folder / "same", few[name])) for name in STAGES),
        *((f"out_of_memory.{name}", out_of_memory, (name, device, folder / "memory", many[name])) for name in STAGES),
    ]
