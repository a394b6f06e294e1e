"""Joining a cluster fails in words, not in minutes."""

from __future__ import annotations

import socket

import pytest

from cluster.errors import RushesError
from jobs.ray_context import knock


def test_an_address_where_nothing_listens_is_named_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        knock(f"127.0.0.1:{port}")
        knock(f"ray://127.0.0.1:{port}")
    with pytest.raises(RushesError, match=f"no Ray cluster at 127.0.0.1:{port}"):
        knock(f"127.0.0.1:{port}")
    knock("auto")
