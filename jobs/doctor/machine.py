"""What the machine brings: Python, Ray, CPUs and GPUs against the plan, FFmpeg, disk."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.doctor import Found
from cluster.errors import RushesError, StageError
from cluster.settings import Settings

if TYPE_CHECKING:
    from cluster.plan import Plan

PYTHON_FROM = (3, 11)
DISK_FAILS_BELOW_BYTES = 1 << 30
DISK_WARNS_BELOW_BYTES = 5 << 30
NOMINAL_HOURS = 100
DECODE_DEADLINE_S = 60.0
INSTALL = "run `make install` again"


def python_version() -> Found:
    """Whether the interpreter is new enough."""
    text = f"Python {sys.version.partition(' ')[0]} at {sys.executable}"
    if sys.version_info[:2] < PYTHON_FROM:
        return Found("FAIL", text, "use Python 3.11 or later: `make install PYTHON=python3.11`")
    return Found("ok", text)


def ray_version() -> Found:
    """Whether Ray imports, in the version that this program is tested with."""
    try:
        import ray
    except ImportError as error:
        return Found("FAIL", f"Ray does not import: {error}", INSTALL)
    pinned = pinned_version("ray")
    if pinned is not None and ray.__version__ != pinned:
        return Found("FAIL", f"Ray {ray.__version__} is installed, {pinned} is pinned", INSTALL)
    return Found("ok", f"Ray {ray.__version__}")


def pinned_version(package: str) -> str | None:
    """The version of `package` that rushes asks for; None when rushes is not installed."""
    try:
        asked = importlib.metadata.requires("rushes") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    pins = (re.match(rf"{package}(\[.*?\])?==([\w.]+)", line) for line in asked)
    return next((pin[2] for pin in pins if pin), None)


def nominal_plan(settings: Settings, gpu_gib: tuple[float, ...]) -> Plan:
    """The plan of 100 hours of media on this machine; `PlanError` when it does not fit."""
    from dataclasses import replace

    from actors.lanes import lanes_on
    from cluster.plan import Work, make_plan
    from jobs.runners import this_node
    from jobs.spec import chain_names

    node = replace(this_node(settings), gpu_gib=gpu_gib)
    work = Work(NOMINAL_HOURS * 3600.0, NOMINAL_HOURS)
    # The server's limit is a check of its own.
    return make_plan(
        work, [node], chain_names(settings, lanes_on(settings)), runner=settings.runner, max_connections=1_000_000
    )


def resources(settings: Settings, plan: Plan, gpu_gib: tuple[float, ...]) -> Found:
    """CPUs, memory and GPUs beside what the plan takes of them."""
    from jobs.runners import this_node

    node = this_node(settings)
    cards = f"{len(gpu_gib)} GPU(s) of {min(gpu_gib):.0f} GiB" if gpu_gib else "no GPU"
    has = f"{node.cpus} CPU(s), {node.memory_gib:.1f} GiB, {cards}"
    takes = " + ".join(f"{group.actors} {group.name} x {group.gib_each} GiB" for group in plan.groups)
    text = f"{has}; {NOMINAL_HOURS} h would run as {plan.runner}: {takes}, {plan.hours_per_hour:.0f} h/h"
    if node.cpus > (os.cpu_count() or node.cpus):
        return Found("warn", f"{text}: the machine has {os.cpu_count()} CPU(s)", "lower RUSHES_CPUS")
    host_gib = sum(group.actors * group.gib_each for group in plan.groups)
    if host_gib > node.memory_gib:
        return Found("warn", f"{text}: more memory than there is", "use fewer CPUs (RUSHES_CPUS)")
    return Found("ok", text)


def ffmpeg(settings: Settings) -> Found:
    """Whether FFmpeg's libraries load, know the codecs of archives, and decode in the child process."""
    from cluster.media.libraries import AUDIO_CODECS, VIDEO_CODECS, library_versions, missing_decoders

    versions = library_versions()
    text = f"PyAV {versions['PyAV']}, libavcodec {versions['libavcodec']}, libavformat {versions['libavformat']}"
    if silent := missing_decoders(AUDIO_CODECS):
        return Found("FAIL", f"{text}: cannot decode {', '.join(silent)}", "install the wheel of av (`make install`)")
    try:
        text += _decoded(settings)
    except (OSError, RuntimeError, StageError) as error:
        fix = "raise RUSHES_DECODE_MEMORY_BYTES, or install the wheel of av again (`make install`)"
        return Found("FAIL", f"{text}: a known good recording is not decoded: {error}", fix)
    if unseen := missing_decoders(VIDEO_CODECS):
        return Found("warn", f"{text}: cannot decode {', '.join(unseen)}", "install the wheel of av (`make install`)")
    return Found("ok", text)


def _decoded(settings: Settings) -> str:
    from cluster.media.child import MediaChild
    from cluster.types import SAMPLE_RATE_HZ
    from jobs.demo import call_path

    child = MediaChild(settings.decode_memory_bytes)
    try:
        sound = child.decode(call_path(), 0, DECODE_DEADLINE_S)
    finally:
        child.close()
    return f"; decoded {len(sound.samples) / SAMPLE_RATE_HZ:.0f} s of sound"


def disk(settings: Settings) -> Found:
    """Whether the data directory has room."""
    place = _nearest(settings.data_dir)
    free_bytes = shutil.disk_usage(place).free
    text = f"{free_bytes / 2**30:.1f} GiB free at {place}"
    fix = "make room, or set RUSHES_DATA_DIR to a larger disk"
    if free_bytes < DISK_FAILS_BELOW_BYTES:
        return Found("FAIL", text, fix)
    return Found("warn", text, fix) if free_bytes < DISK_WARNS_BELOW_BYTES else Found("ok", text)


def store(settings: Settings) -> Found:
    """Whether the data directory takes files; one that does not exist yet is not made."""
    place = settings.data_dir
    try:
        if not place.exists():
            return _could_be_made(place)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Found("FAIL", f"{place} takes no files: {error.strerror or error}", _OTHER_PLACE)
    return Found("ok", f"{place} takes files")


_OTHER_PLACE = "set RUSHES_DATA_DIR to a folder that you may write to"


def _could_be_made(place: Path) -> Found:
    parent = _nearest(place)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return Found("FAIL", f"{place} does not exist and cannot be made in {parent}", _OTHER_PLACE)
    return Found("ok", f"{place} is made at first use")


def _nearest(place: Path) -> Path:
    """The folder itself, or the nearest one above that exists."""
    for path in (place, *place.absolute().parents):
        try:
            if path.exists():
                return path
        except PermissionError:
            continue
    raise RushesError(f"{place} lies nowhere: {_OTHER_PLACE}")
