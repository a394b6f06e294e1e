"""The corpus for many requests at once: cancelled work ends, and its connection serves the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from cluster.db.pool import Corpus


@pytest.fixture
def corpus(db_url: str) -> Iterator[Corpus]:
    made = Corpus(db_url, size=1)
    yield made
    made.close()


@pytest.mark.anyio
async def test_work_that_is_cancelled_between_two_statements_ends_at_the_next(corpus: Corpus) -> None:
    def work(conn: Any) -> None:
        conn.execute("SELECT 1")
        time.sleep(0.5)
        conn.execute("SELECT pg_sleep(30)")

    task = asyncio.ensure_future(corpus.run(work))
    await asyncio.sleep(0.3)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    began_s = time.monotonic()
    await corpus.check()
    assert time.monotonic() - began_s < 5
