"""The same rows come out of Ray Data as out of the inline runner."""

from __future__ import annotations

import pytest

from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.dump import canonical_dump, differences
from tests.archive import run

pytestmark = pytest.mark.ray


def test_ray_and_inline_give_the_same_rows(ingested, media, db_url):
    url, _ = ingested
    summary = run(db_url, [str(media)], {"runner": "ray"})
    assert (summary.runner, summary.ok, summary.failed) == ("ray", 4, 1)
    with open_connection(url) as inline, open_connection(db_url) as ray:
        assert not any(check_corpus(ray).values())
        mine, theirs = canonical_dump(inline), canonical_dump(ray)
    assert differences(mine, theirs) == []
    assert mine.facts["segment"]
    assert mine.facts["frame"]
    assert mine.vectors["voice vector"]
