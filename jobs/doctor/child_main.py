"""The process in which doctor loads models: `python -m jobs.doctor.child_main FD`.

It takes settings, then one request after the other, and answers each with ("ok", facts), ("refused", why and
the way out) or ("failed", what a library said).
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from cluster.errors import RushesError
from cluster.settings import Settings


def main() -> None:
    """Answer until the other end hangs up."""
    link = Connection(int(sys.argv[1]))
    settings = Settings.model_validate(link.recv())
    while True:
        try:
            request = link.recv()
        except (EOFError, OSError):
            return
        try:
            link.send(("ok", _answer(settings, request)))
        except RushesError as error:
            link.send(("refused", str(error)))
        except Exception as error:  # noqa: BLE001 - whatever a library raises is the finding
            first = (str(error).strip().splitlines() or [""])[0]
            link.send(("failed", f"{type(error).__name__}: {first}"))


def _answer(settings: Settings, request: str) -> dict[str, Any]:
    from actors import device

    if request == "devices":
        return asdict(device.devices())
    if request == "cublas":
        from actors.transcribe import preload_cublas

        preload_cublas()
        return {}
    return _load(settings, request)


def _load(settings: Settings, role: str) -> dict[str, Any]:
    """Load the model of `role` for real and let it go; how long it took and where it lay."""
    from actors.device import placement

    stage = stage_of(settings, role)
    began = time.monotonic()
    try:
        stage.load()
        lies = placement(stage)
    finally:
        stage.close()
    return {"load_s": time.monotonic() - began, "device": lies.device, "precision": lies.precision}


def stage_of(settings: Settings, role: str) -> Any:
    """The stage that serves `role`, as a run makes it; nothing is loaded."""
    if role == "reranker":
        from actors.rerank import Reranker

        return Reranker(settings.model_choice(role))
    from actors.lanes import whole_chain
    from jobs.stage_costs import ROLE_OF_STAGE

    return next(stage for stage in whole_chain(settings) if ROLE_OF_STAGE.get(stage.name) == role)


if __name__ == "__main__":
    main()
