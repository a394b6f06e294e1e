"""The corpus as Prometheus sees it: read from the database at a scrape, at most every few seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cluster.db.metrics import Figure, corpus_figures
from cluster.db.pool import Corpus, PoolBusyError
from serve.models import Models

KEEP_S = 15.0
# Three such times are less than Prometheus waits for an answer by default.
LIMIT_S = 3.0

logger = logging.getLogger("rushes.serve")


class CorpusFigures(Collector):
    """What was read last. A database that is away takes its own figures away, and never the scrape."""

    def __init__(self, keep_s: float = KEEP_S, limit_s: float = LIMIT_S) -> None:
        self._keep_s, self._limit_s = keep_s, limit_s
        self._figures: Sequence[Figure] = ()
        self._fresh_until_s = 0.0
        self._one = asyncio.Lock()

    async def refresh(self, corpus: Corpus, models: Models) -> None:
        """Read them again unless they are fresh."""
        async with self._one:
            if time.monotonic() < self._fresh_until_s:
                return
            began_s = time.monotonic()
            ready = {"database": await self._is_there(corpus), **{card.role: True for card in models.cards()}}
            ready |= dict.fromkeys(await self._troubles(models), False)
            found = await self._corpus(corpus) if ready["database"] else ()
            parts = [Figure("rushes_ready", READY, float(is_ready), {"part": part}) for part, is_ready in ready.items()]
            self._figures = [*parts, Figure("rushes_database_requests", IN_USE, float(corpus.in_use)), *found]
            # What takes long is read less often, so that the database never has much to do for it.
            now_s = time.monotonic()
            self._fresh_until_s = now_s + self._keep_s * (1 + now_s - began_s)

    async def _is_there(self, corpus: Corpus) -> bool:
        try:
            async with asyncio.timeout(self._limit_s):
                await corpus.check()
        except PoolBusyError:
            return True
        except Exception as error:  # noqa: BLE001 - whatever it is, the database cannot be used
            logger.warning("the database cannot be used: %s", type(error).__name__)
            return False
        return True

    async def _troubles(self, models: Models) -> Iterable[str]:
        try:
            async with asyncio.timeout(self._limit_s):
                return await models.troubles()
        except Exception as error:  # noqa: BLE001 - models that cannot be asked are not ready
            logger.warning("the models cannot be asked how they are: %s", type(error).__name__)
            return [card.role for card in models.cards()]

    async def _corpus(self, corpus: Corpus) -> Sequence[Figure]:
        try:
            async with asyncio.timeout(self._limit_s):
                return await corpus.run(corpus_figures)
        except Exception as error:  # noqa: BLE001 - a scrape tells what it can
            logger.warning("no figures of the corpus: %s", type(error).__name__)
            return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """What was read last, as Prometheus takes it."""
        families: dict[str, GaugeMetricFamily] = {}
        for figure in self._figures:
            family = families.setdefault(
                figure.name, GaugeMetricFamily(figure.name, figure.help, labels=list(figure.labels))
            )
            family.add_metric(list(figure.labels.values()), figure.value)
        return families.values()


READY = "Whether the database and each model work: 1, or 0."
IN_USE = "Requests of this process that use a database connection or wait for one."
