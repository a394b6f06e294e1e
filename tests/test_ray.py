"""The same rows come out of Ray Data as out of the inline runner."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from tests.archive import run

pytestmark = pytest.mark.ray


def rows(url):
    with open_connection(url) as conn:
        segments = conn.execute(
            "SELECT a.sha256, idx, start_ms, end_ms, local_speaker, text, words, text_skip_reason, v.skip_reason"
            " FROM segments s JOIN assets a USING (asset_id) JOIN voices v USING (segment_id) ORDER BY 1, 2"
        ).fetchall()
        chunks = conn.execute(
            "SELECT a.sha256, idx, first_segment, last_segment, start_ms, end_ms, text FROM chunks"
            " JOIN assets a USING (asset_id) ORDER BY 1, 2"
        ).fetchall()
        units = conn.execute(
            "SELECT a.sha256, lane, fingerprint, state, outputs FROM units JOIN assets a USING (asset_id) ORDER BY 1, 2"
        ).fetchall()
        voices = conn.execute(
            "SELECT e.embedding FROM voice_vectors_1 e JOIN segments USING (segment_id) JOIN assets a USING (asset_id)"
            " ORDER BY a.sha256, idx",
            binary=True,
        ).fetchall()
        texts = conn.execute(
            "SELECT e.embedding FROM text_vectors_2 e JOIN chunks USING (chunk_id) JOIN assets a USING (asset_id)"
            " ORDER BY a.sha256, idx",
            binary=True,
        ).fetchall()
        assert not any(check_corpus(conn).values())
    return segments, chunks, units, *(np.stack([v.to_numpy() for (v,) in group]) for group in (voices, texts))


def test_ray_and_inline_give_the_same_rows(ingested, media, db_url):
    url, _ = ingested
    summary = run(db_url, [str(media)], {"runner": "ray"})
    assert (summary.runner, summary.ok, summary.failed) == ("ray", 3, 1)
    mine, theirs = rows(url), rows(db_url)
    assert mine[:3] == theirs[:3]
    for one, other in zip(mine[3:], theirs[3:], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
