"""`rushes images`: pictures that look alike, as a person asks for them."""

from __future__ import annotations

import json

import pytest

from cluster.db.visual_cards import cluster_pictures
from tests.picture_rows import image_space, unit
from tests.test_cli import rushes
from tests.test_visual import A, groups, image


def test_the_commands_say_what_there_is(db, db_url):
    assert "no picture has a vector yet" in rushes("images", "clusters", url=db_url).stderr
    assert rushes("images", "cluster", url=db_url).returncode == 1
    space = image_space(db)
    image(db, space, A, unit(1))
    image(db, space, "film.mp4", unit(0, 1), unit(1, 0.1))
    assert "2 picture" not in rushes("images", "clusters", url=db_url).stdout
    assert "3 picture(s) to decide" in rushes("images", "cluster", "--dry-run", url=db_url).stdout
    assert "1 picture(s) joined a cluster, 2 lead" in rushes("images", "cluster", url=db_url).stdout
    assert "0 picture(s) joined" in rushes("images", "cluster", url=db_url).stdout
    listed = json.loads(rushes("images", "clusters", "--json", url=db_url).stdout)
    assert [card["frames"] for card in listed] == [2, 1]
    number = str(listed[0]["cluster_id"])
    shown = json.loads(rushes("images", "show", number, "--json", url=db_url).stdout)
    assert {(one["asset"], one["t_ms"]) for one in shown} == {(f"/media/{A}", None), ("/media/film.mp4", 1000)}
    assert shown[0]["thumbnail"].endswith(f"/{shown[0]['thumbnail_sha256']}.jpg")
    assert "film.mp4 0:00:01.0" in rushes("images", "show", number, url=db_url).stdout
    assert "1 of 2 shown" in rushes("images", "show", number, "-n", "1", url=db_url).stdout
    assert "1 of 2 shown" in rushes("images", "clusters", "-n", "1", url=db_url).stdout
    assert "no cluster 99" in rushes("images", "show", "99", url=db_url).stderr
    assert len(cluster_pictures(db, space, int(number), 10)) == 2


def test_the_command_decides_anew_by_another_threshold_and_says_which_holds_for_new_pictures(db, db_url):
    space = image_space(db)
    image(db, space, "film.mp4", unit(1), unit(1, 1))
    assert "1 joined" not in rushes("images", "cluster", url=db_url).stdout
    refused = rushes("images", "cluster", "--threshold", "0.5", url=db_url)
    assert (refused.returncode, "--again" in refused.stderr) == (2, True)
    assert rushes("images", "cluster", "--again", "--threshold", "2", url=db_url).returncode == 2
    dry = rushes("images", "cluster", "--again", "--threshold", "0.5", "--dry-run", url=db_url).stdout
    assert "2 picture(s) in 1 cluster(s)" in dry
    assert len(groups(db)) == 2
    done = rushes("images", "cluster", "--again", "--threshold", "0.5", url=db_url).stdout
    assert "1 kept their number, 1 old ones went" in done
    assert "decided by 0.72 still" in done
    assert len(groups(db)) == 1


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "much"])
def test_a_threshold_is_a_cosine(value, db_url):
    done = rushes("images", "clusters", url=db_url, RUSHES_VISUAL_THRESHOLD=value)
    assert (done.returncode, "visual_threshold" in done.stderr) == (2, True)
