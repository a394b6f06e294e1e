"""Any sequence of decisions: the state is what the standing ones come to, and an undo restores what was before."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, given, settings

from cluster.db.check import check_corpus
from cluster.db.spaces import get_space
from cluster.db.speakers import events
from cluster.db.speakers.actions import label, merge, rename, split, undo
from cluster.db.speakers.means import fill_means
from cluster.db.speakers.names import derive_speakers
from cluster.db.speakers.state import refresh
from cluster.errors import RushesError
from tests.corpus_rows import new_run
from tests.people import archive, at, everything, put_in_cluster

ME = "me"
FILES: dict[str, list[str | None]] = {
    "a.wav": ["anna", "bob", "anna", None],
    "b.wav": ["bob", "anna", "carla", "anna"],
    "c.wav": ["anna", "carla"],
    "d.wav": ["carla", "bob", "anna", "bob"],
}
NAMES = st.sampled_from(["Anna", "Bob", "Carla", "anna", "Dora"])
PLACES = st.tuples(st.sampled_from(sorted(FILES)), st.integers(0, 3))
STEPS = st.one_of(
    st.tuples(st.just("label"), NAMES, PLACES),
    st.tuples(st.just("label"), NAMES, PLACES),
    st.tuples(st.just("segment"), NAMES, PLACES),
    st.tuples(st.just("nobody"), PLACES),
    st.tuples(st.just("merge"), NAMES, NAMES),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("split"), NAMES, NAMES, PLACES),
    st.tuples(st.just("undo"), st.integers(1, 30)),
    st.tuples(st.just("undo"), st.integers(1, 30)),
    st.tuples(st.just("identify"), NAMES, PLACES),
    st.tuples(st.just("rank")),
)


class World:
    """A small archive with two clusters, and the steps by name."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.ids = ids = archive(conn, FILES)
        put_in_cluster(conn, [(ids["a.wav"], 0), (ids["b.wav"], 1), (ids["c.wav"], 0), (ids["d.wav"], 2)])
        put_in_cluster(conn, [(ids["a.wav"], 1), (ids["b.wav"], 0), (ids["d.wav"], 1), (ids["c.wav"], 1)])
        self.first_event = 0

    def do(self, kind: str, *values: Any) -> int | None:
        """The number of the event; None for a step of the machine."""
        if kind == "label":
            return label(self.conn, values[0], [self.place(values[1])], ME).event_id
        if kind == "segment":
            return label(self.conn, values[0], [self.place(values[1], "segment")], ME).event_id
        if kind == "nobody":
            return label(self.conn, None, [self.place(values[0])], ME).event_id
        if kind == "split":
            return split(self.conn, values[0], values[1], [self.place(values[2])], ME).event_id
        if kind == "undo":
            return undo(self.conn, self.first_event + values[0], ME).event_id
        if kind in ("merge", "rename"):
            return {"merge": merge, "rename": rename}[kind](self.conn, *values, ME).event_id
        return self.identify(*values) if kind == "identify" else self.rank()

    def place(self, place: tuple[str, int], scope: str = "speaker") -> events.Target:
        name, segment = place
        return at(self.conn, self.ids[name], segment % len(FILES[name]), scope)

    def identify(self, name: str, place: tuple[str, int]) -> None:
        """As recognition does it: an accepted match that is decided upon, and the labels that it rests on."""
        target, run_id = self.place(place), new_run(self.conn)
        self.conn.execute(
            "INSERT INTO identifications (asset_id, local_speaker, space_id, speaker_id, score, tau, is_accepted,"
            " run_id) SELECT %(asset)s, s.local_speaker, 1, p.root_id, 0.9, 0.8, true, %(run)s"
            " FROM segments s, speakers p"
            " WHERE asset_id = %(asset)s AND start_ms = %(start)s AND s.local_speaker IS NOT NULL"
            " AND lower(name) = lower(%(name)s) AND is_used ON CONFLICT DO NOTHING",
            {"asset": target.asset_id, "start": target.start_ms, "name": name, "run": run_id},
        )
        self.conn.execute(
            "INSERT INTO recognised_from SELECT i.run_id, i.speaker_id, mark_id FROM identifications i"
            " JOIN speakers p ON p.root_id = i.speaker_id JOIN standing_marks m ON m.speaker_id = p.speaker_id"
            " WHERE i.run_id = %s AND scope = 'speaker'",
            (run_id,),
        )
        refresh(self.conn, [target.asset_id])

    def rank(self) -> None:
        """Whoever ranks people fills in the means that are missing."""
        with self.conn.transaction():
            fill_means(self.conn, get_space(self.conn, 1))


def means(conn: Any) -> dict[int, tuple[int, Any]]:
    rows = conn.execute("SELECT speaker_id, voices, mean FROM speaker_means_1")
    return {row[0]: (row[1], row[2].to_numpy()) for row in rows}


def state(conn: Any) -> dict[str, Any]:
    """All that decisions come to, without the numbers that a repetition gives anew."""
    found: dict[str, Any] = everything(conn)
    return {**found, "segments": [row[:2] for row in found["segments"]]}


def from_scratch(conn: Any) -> dict[str, Any]:
    """What the standing events alone come to: everything else is taken away, and they are recorded once more."""
    log = conn.execute("SELECT event_id, kind, speaker_id, into_id, name FROM standing_events ORDER BY 1").fetchall()
    marks = conn.execute(
        "SELECT event_id, asset_id, start_ms, end_ms, scope, speaker_id FROM speaker_marks ORDER BY mark_id"
    ).fetchall()
    with conn.transaction(force_rollback=True):
        conn.execute("DELETE FROM speaker_events")
        conn.execute("UPDATE speakers SET is_used = false, merged_into = NULL, root_id = NULL, name = first_name")
        conn.execute(
            "UPDATE local_speakers SET speaker_id = NULL, method = NULL, score = NULL, margin = NULL, tau = NULL"
        )
        conn.execute("UPDATE cluster_members SET speaker_id = NULL, score = NULL, margin = NULL, tau = NULL")
        for number, kind, speaker_id, into_id, name in log:
            again = events.record(conn, kind, ME, speaker_id=speaker_id, into_id=into_id, name=name)
            for _, asset_id, start_ms, end_ms, scope, who in [mark for mark in marks if mark[0] == number]:
                events.add_mark(conn, again, events.Target(asset_id, start_ms, end_ms, scope), who)
        people = [row[0] for row in conn.execute("SELECT speaker_id FROM speakers")]
        derive_speakers(conn, people)
        refresh(conn, [row[0] for row in conn.execute("SELECT asset_id FROM assets")])
        return state(conn)


def check(conn: Any) -> None:
    """What must hold after every step."""
    twice = conn.execute(
        "SELECT asset_id FROM local_speakers l JOIN speakers p USING (speaker_id) GROUP BY asset_id, root_id"
        " HAVING count(*) > 1 AND bool_or(method <> 'human')"
    ).fetchall()
    assert twice == [], "the machine gave one name to two voices of an asset"
    overridden = conn.execute(
        "SELECT 1 FROM local_speakers l JOIN segments s USING (asset_id, local_speaker) JOIN speaker_marks m"
        "  ON m.asset_id = l.asset_id AND m.start_ms = s.start_ms AND m.scope = 'speaker'"
        " JOIN standing_marks USING (mark_id) WHERE l.method IS DISTINCT FROM 'human'"
        "  OR l.speaker_id IS DISTINCT FROM m.speaker_id"
    ).fetchall()
    assert overridden == [], "a standing word of a person does not count"
    assert not conn.execute(
        "SELECT 1 FROM segment_speakers JOIN speakers USING (speaker_id) WHERE NOT is_used OR merged_into IS NOT NULL"
    ).fetchall(), "somebody who is nobody speaks"
    assert not any(check_corpus(conn).values())
    stored = means(conn)
    with conn.transaction(force_rollback=True):
        conn.execute("DELETE FROM speaker_means_1")
        fill_means(conn, get_space(conn, 1))
        fresh = means(conn)
    assert stored.keys() <= fresh.keys(), "a mean of somebody who is nobody"
    for speaker_id, (voices, mean) in stored.items():
        assert voices == fresh[speaker_id][0], "a mean is stale"
        np.testing.assert_allclose(mean, fresh[speaker_id][1], atol=1e-6)


def tried(world: World, step: tuple[Any, ...]) -> int | None:
    """The number of the event; None when the step is refused, which changes nothing, or the machine's."""
    before = state(world.conn)
    try:
        return world.do(*step)
    except RushesError:
        assert state(world.conn) == before
        return None


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=4, max_size=14))
def _any_sequence(world: World, steps: list[tuple[Any, ...]]) -> None:
    conn = world.conn
    with conn.transaction(force_rollback=True):
        world.first_event = conn.execute("SELECT last_value FROM speaker_events_event_id_seq").fetchone()[0] - 1
        for step in steps:
            before = everything(conn)
            event = tried(world, step)
            check(conn)
            if event is not None:
                after = everything(conn)
                taken = undo(conn, event, ME).event_id
                assert everything(conn) == before, "an undo at once restores what was before"
                check(conn)
                undo(conn, taken, ME)
                assert everything(conn) == after, "and taking that back what was after"
        assert state(conn) == from_scratch(conn)


def test_any_sequence_of_decisions_comes_to_what_its_standing_events_say(db: Any) -> None:
    world = World(db)
    _any_sequence(world)
