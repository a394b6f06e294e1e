"""A job followed over lost lines and a lost head, and submitted again only where that may help."""

from __future__ import annotations

import pytest

from jobs.cli import backfill
from jobs.ray_job_client import HeadAwayError, JobState, TakenError
from jobs.submission import Submission, job_id_of
from jobs.supervise import UnderWayError, Waits, follow, next_job_id, submit, supervise

KEY = "0123456789ab"
SUBMISSION = Submission(("--lanes=speech",), KEY, {"env_vars": {}}, "http://head:8265")


class Cluster:
    """A dashboard that plays one script per job: what each attempt prints and how it ends."""

    def __init__(self, *ends):
        self.ends, self.known, self.printed, self.now = list(ends), {}, {}, 0.0
        self.away, self.slept = [], []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    @property
    def waits(self):
        return Waits(away_s=100, first_pause_s=10, longest_pause_s=15, poll_s=5, sleep=self.sleep, now=lambda: self.now)

    def _answer(self):
        if self.away and self.away[0] > self.now:
            raise HeadAwayError("no dashboard answers.")
        self.away = []

    def submit(self, entrypoint, job_id, runtime_env):
        self._answer()
        if job_id in self.known:
            raise TakenError("taken")
        assert entrypoint == "python -m jobs.cli.main ingest --lanes=speech"
        printed, end = self.ends.pop(0)
        self.printed[job_id] = printed
        self.known[job_id] = (JobState(job_id, "running"), end)

    def jobs(self):
        self._answer()
        return [state for state, _ in self.known.values()]

    def find(self, job_id):
        self._answer()
        return self.known.get(job_id, (None, None))[0]

    def logs(self, job_id):
        return self.printed[job_id]

    def tail(self, job_id, show):
        self._answer()
        _, end = self.known[job_id]
        if callable(end):
            return end(self, job_id, show)
        show(self.printed[job_id])
        self.known[job_id] = (JobState(job_id, *end), None)


def failed(code, words=""):
    return (words, ("failed", code))


def run(cluster, retries=3):
    shown, said = [], []
    job_id = next_job_id(cluster, KEY)
    submit(cluster, SUBMISSION, job_id)
    code = supervise(cluster, SUBMISSION, job_id, retries, shown.append, said.append, cluster.waits)
    return code, "".join(shown), said


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (("succeeded", 0), 0),
        (("failed", 2), 2),
        (("failed", 3), 3),
        (("failed", 130), 130),
        (("stopped", -15), 130),
    ],
)
def test_what_ends_for_good_is_not_tried_again(end, code):
    cluster = Cluster(("said\n", end))
    assert run(cluster) == (code, "said\n", [])
    assert cluster.slept == []


def test_what_may_pass_is_tried_again_after_longer_and_longer_pauses():
    cluster = Cluster(failed(1, "error: one\n"), failed(1, "error: two\n"), failed(137), ("", ("succeeded", 0)))
    code, shown, said = run(cluster)
    assert (code, shown) == (0, "error: one\nerror: two\n")
    assert list(cluster.known) == [job_id_of(KEY, number) for number in (1, 2, 3, 4)]
    first, second, third = cluster.slept
    assert 5 <= first <= 10
    assert 7.5 <= second <= 15
    assert 7.5 <= third <= 15
    assert "attempt 2 of 4" in said[0]
    assert "signal 9" in " ".join(said)


def test_retries_are_bounded():
    cluster = Cluster(*(failed(1, f"error: {word}\n") for word in ("a cat", "a dog", "an owl", "a pig")))
    code, _, said = run(cluster, retries=2)
    assert (code, len(cluster.known)) == (1, 3)
    assert "the last of 3 attempt(s)" in said[-1]
    assert run(Cluster(failed(1, "error: x\n")), retries=0)[0] == 1


def test_the_same_failure_twice_in_a_row_ends_it_whatever_its_ids_and_times():
    cluster = Cluster(
        failed(1, "x\nerror: run 7f3a9c01 lost 12 rows\n"), failed(1, "y\nerror: run 11bc9d22 lost 9 rows\n")
    )
    code, _, said = run(cluster)
    assert (code, len(cluster.known)) == (1, 2)
    assert "failed like the one before it (error: run 11bc9d22 lost 9 rows)" in said[-1]


def test_a_driver_that_is_killed_twice_says_nothing_that_repeats():
    cluster = Cluster(failed(-9, "loading\n"), failed(137, "loading\n"), ("", ("succeeded", 0)))
    assert run(cluster)[0] == 0


def test_a_job_that_ray_cannot_start_is_told_in_rays_words():
    end = ("failed", None, "Runtime env setup failed\nno such package")
    cluster = Cluster(("", end), ("", end))
    code, _, said = run(cluster)
    assert code == 1
    assert "no such package" in said[-1]


def test_the_same_selection_is_refused_while_it_runs_and_numbered_after_it():
    cluster = Cluster(failed(3), failed(3))
    run(cluster)
    assert next_job_id(cluster, KEY) == job_id_of(KEY, 2)
    submit(cluster, SUBMISSION, job_id_of(KEY, 2))
    with pytest.raises(UnderWayError, match=f"running as {job_id_of(KEY, 2)}: .*rushes runs cancel"):
        next_job_id(cluster, KEY)
    with pytest.raises(UnderWayError, match=f"submitted as {job_id_of(KEY, 2)}"):
        submit(cluster, SUBMISSION, job_id_of(KEY, 2))
    assert next_job_id(cluster, "f" * 12) == job_id_of("f" * 12, 1)


def broken_line(cluster, job_id, show):
    """The line ends in the middle of a word; the next one begins with the first line again."""
    show("one\ntw")
    cluster.away = [cluster.now + 30]
    cluster.known[job_id] = (JobState(job_id, "running"), ("succeeded", 0))
    raise HeadAwayError("the line broke.")


def test_after_a_lost_line_nothing_is_shown_twice_and_nothing_is_missing():
    code, shown, said = run(Cluster(("one\ntwo\nthree\n", broken_line)))
    assert (code, shown) == (0, "one\ntwo\nthree\n")
    assert len([line for line in said if "waiting up to 100 s" in line]) == 1


def head_lost(cluster, job_id, show):
    """The head goes and comes back without memory."""
    show("one\n")
    cluster.away = [cluster.now + 30]
    cluster.known.clear()
    raise HeadAwayError("the line broke.")


def test_a_job_that_was_lost_with_its_head_is_submitted_under_a_new_id():
    cluster = Cluster(("one\n", head_lost), ("two\n", ("succeeded", 0)))
    code, shown, said = run(cluster)
    assert (code, shown) == (0, "one\ntwo\n")
    assert list(cluster.known) == [job_id_of(KEY, 2)]
    assert any("lost with its cluster" in line for line in said)


def head_gone(cluster, job_id, show):
    cluster.away = [float("inf")]
    raise HeadAwayError("no dashboard answers.")


def test_a_head_that_stays_away_ends_the_wait_with_the_way_out():
    cluster = Cluster(("", head_gone))
    with pytest.raises(HeadAwayError, match=r"away for 1\d\d s.*rushes runs logs.*run the same command"):
        run(cluster)
    assert cluster.now >= 100


def line_ends_early(cluster, job_id, show):
    show("one\n")
    cluster.known[job_id] = (JobState(job_id, "failed", 1), None)


def test_the_last_words_are_fetched_when_the_line_ends_before_them():
    cluster = Cluster(("one\nerror: late\n", line_ends_early))
    submit(cluster, SUBMISSION, job_id_of(KEY, 1))
    shown = []
    end = follow(cluster, job_id_of(KEY, 1), shown.append, print, cluster.waits)
    assert ("".join(shown), end.cause) == ("one\nerror: late\n", "error: late")


def interrupted(cluster, job_id, show):
    raise KeyboardInterrupt


def test_an_interrupt_leaves_the_job_and_says_how_to_reach_it(capsys):
    cluster, job_id = Cluster(("", interrupted)), job_id_of(KEY, 1)
    assert backfill._run(cluster, SUBMISSION, job_id, 3, False) == 130
    assert cluster.find(job_id).active
    said = capsys.readouterr().err
    assert f"the job goes on without this command: follow it with `rushes runs logs {job_id} --follow`" in said


def test_no_wait_returns_once_the_job_is_submitted(capsys):
    cluster, job_id = Cluster(("", interrupted)), job_id_of(KEY, 1)
    assert backfill._run(cluster, SUBMISSION, job_id, 3, True) == 0
    assert cluster.find(job_id).active
