"""What Ray waits for in silence raises where the driver waits."""

from __future__ import annotations

import socket
import threading
import time
from types import SimpleNamespace

import pytest

from jobs import ray_watch
from jobs.ray_watch import HeadLostError, NoRoomError, watched


def cluster(address, actors=()):
    """A Ray that has these actors and its head at `address`."""
    found = {
        number: {"JobID": "1", "ActorClassName": "MapWorker(x)", "State": state, "Address": {"IPAddress": where}}
        for number, (state, where) in enumerate(actors)
    }
    context = SimpleNamespace(gcs_address=address, get_job_id=lambda: "1")
    return SimpleNamespace(
        get_runtime_context=lambda: context,
        _private=SimpleNamespace(state=SimpleNamespace(actors=lambda: found)),
    )


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    monkeypatch.setattr(ray_watch, "EVERY_S", 0.05)


def wait_in_main_thread():
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(0.01)
    pytest.fail("nobody raised")


def test_a_head_that_is_gone_raises_in_the_thread_that_waits_for_rows():
    door = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{door.getsockname()[1]}"
    threading.Timer(0.1, door.close).start()
    with pytest.raises(HeadLostError, match=f"head of the Ray cluster at {address}"), watched(cluster(address), 0.3):
        wait_in_main_thread()


def test_a_head_that_is_away_for_less_than_the_wait_is_no_news():
    door = socket.create_server(("127.0.0.1", 0))
    port = door.getsockname()[1]
    with watched(cluster(f"127.0.0.1:{port}"), head_wait_s=20.0):
        door.close()
        time.sleep(0.3)
        door = socket.create_server(("127.0.0.1", port))
        time.sleep(0.3)
    door.close()


def test_actors_that_never_find_a_node_raise_with_their_number():
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"127.0.0.1:{door.getsockname()[1]}"
        actors = [("ALIVE", "10.0.0.1"), ("PENDING_CREATION", "")]
        with (
            pytest.raises(NoRoomError, match="1 of 2 actors have waited"),
            watched(cluster(address, actors), room_wait_s=0.3),
        ):
            wait_in_main_thread()


def test_once_all_have_begun_one_that_lives_is_enough():
    ended, counts = threading.Event(), iter([(0, 2), *[(1, 1)] * 8])

    def count():
        found = next(counts, None)
        if found is None:
            ended.set()
        return found or (0, 2)

    ray_watch._watch_room(count, 0.1, ended)
    assert ended.is_set()


def test_a_ray_that_ends_meanwhile_is_no_trace_on_the_terminal_and_no_end_of_the_watch(monkeypatch):
    ended, counts, told = threading.Event(), iter([(1, 0), None, None, *[(1, 0)] * 60]), []
    monkeypatch.setattr(ray_watch, "_tell", told.append)

    def count():
        found = next(counts)
        if found is None:
            raise RuntimeError("Ray has not been started yet")
        return found

    ray_watch._watch_room(count, 0.3, ended)
    assert [type(error) for error in told] == [NoRoomError]
