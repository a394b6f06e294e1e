"""Three GPU groups on one card: shares that fit run, shares that do not are refused with their sum."""

from __future__ import annotations

import tempfile

import pytest

from tests.archive import read_call, run
from tests.media_factory import write_wav
from tests.nodes.light import CHAIN

pytestmark = pytest.mark.ray_process
STAGES = (
    ("hear", ("decode", "speech_activity", "transcribe")),
    ("speak", ("diarize", "segments", "voices")),
    ("read", ("texts",)),
)
LENGTHS_S = (2, 6, 3, 5, 4)


@pytest.fixture(scope="module")
def address():
    import ray

    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as folder:
        ray.init(
            "local", num_cpus=3, num_gpus=1, include_dashboard=False, object_store_memory=100 * 2**20,
            log_to_driver=False, logging_level="ERROR", _temp_dir=folder,
        )  # fmt: skip
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture
def clips(tmp_path):
    folder, call = tmp_path / "media", read_call()
    folder.mkdir()
    for length_s in LENGTHS_S:
        write_wav(folder / f"{length_s}.wav", call[length_s * 16_000 :][: length_s * 16_000], 16_000)
    return folder


def shared(share):
    groups = [
        {"name": name, "stages": stages, "actors": 1, "gpu_share": share, "cpus": 0.5, "threads": 1}
        for name, stages in STAGES
    ]
    return {"plan": {"groups": groups}}


def test_three_groups_of_0_4_on_one_card_are_refused_before_anything_starts(address, clips, db, db_url):
    summary = run(db_url, [str(clips)], shared(0.4), chain=CHAIN, address=address, lanes=("speech", "voices", "texts"))
    assert summary.exit_code == 1
    assert any("0.4" in note and "1.2" in note for note in summary.notes), summary.notes
    assert db.execute("SELECT DISTINCT state, generation FROM units WHERE lane = 'speech'").fetchall() == [
        ("pending", 0)
    ]


def test_three_groups_of_0_3_share_it_and_the_longest_recordings_come_first(address, clips, db, db_url):
    summary = run(db_url, [str(clips)], shared(0.3), chain=CHAIN, address=address, lanes=("speech", "voices", "texts"))
    assert (summary.exit_code, summary.runner, summary.ok) == (0, "ray", len(LENGTHS_S)), summary.notes
    taken = db.execute(
        "SELECT duration_ms / 1000 FROM units JOIN assets USING (asset_id) WHERE lane = 'speech' ORDER BY started_at"
    )
    assert [length_s for (length_s,) in taken] == sorted(LENGTHS_S, reverse=True)
