"""Waiting for another thread or process to stand still, in tests of who waits for whom."""

from __future__ import annotations

import threading
import time
from typing import Any


def until_it_waits(conn: Any, thread: threading.Thread) -> None:
    """Until something on the server waits for a lock; an error when `thread` ended instead."""
    while conn.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone() is None:
        assert thread.is_alive(), "the thread ended and waits for nothing"
        time.sleep(0.01)
