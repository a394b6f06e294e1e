"""`rushes` with stages that hold no models: `python -m tests.nodes.light ingest ...`.

The rows are those of `benchmarks.replay`; a second of media takes `LIGHT_PACE` seconds (0.05 unless said).
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from unittest.mock import patch

from actors.lanes import whole_chain
from benchmarks.replay import Replay, _makers
from cluster.media import node_cache
from jobs import ingest as main_job

CHAIN = "tests.nodes.light:chain"
READING = "tests.nodes.light:reading"
PACE, ROOM_WAIT = "LIGHT_PACE", "LIGHT_ROOM_WAIT_S"
# The stage that takes the time; the others give their rows at once.
SLOW = ("transcribe", "pictures")


def chain(settings, *, voice_cache=None, threads=1, torch_threads=1):
    """The stages of `whole_chain` with `Replay` in their place; `JobSpec.chain` names this function."""
    real = whole_chain(settings, voice_cache=voice_cache, threads=threads, torch_threads=torch_threads)
    sizes = {kind: settings.model_choice(kind).dimension or 1 for kind in ("voice", "text")}
    s_per_hour = 3600 * float(os.environ.get(PACE, "0.05"))
    return [Replay(stage, s_per_hour if stage.name in SLOW else 0.0, 1.0, _makers(sizes)) for stage in real]


def reading(settings, **asked):
    """The same, but the media are fetched and decoded; a full disk is waited for `LIGHT_ROOM_WAIT_S` seconds."""
    node_cache.ROOM_WAIT_S = float(os.environ.get(ROOM_WAIT, node_cache.ROOM_WAIT_S))
    return [one.stage if one.name == "decode" else one for one in chain(settings, **asked)]


def main():
    """The command line of the product."""
    from jobs.cli.main import main as run

    real = main_job.ingest
    with patch.object(
        main_job, "ingest", lambda settings, options, *rest: real(settings, replace(options, chain=CHAIN), *rest)
    ):
        run()


if __name__ == "__main__":
    sys.exit(main())
