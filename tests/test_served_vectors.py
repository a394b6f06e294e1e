"""The vector that is served is the vector that is stored: one class, two uses."""

from __future__ import annotations

from typing import Any

import numpy as np
from psycopg import sql

from cluster.db.spaces import active_space
from cluster.settings import load_settings
from serve.local import local_models
from tests.api_client import api_over


def test_texts_that_were_ingested_are_served_the_vectors_they_have_in_the_corpus(corpus_url: str, corpus: Any) -> None:
    space = active_space(corpus, "text")
    assert space is not None
    table = sql.Identifier(space.table_name)
    rows = corpus.execute(
        sql.SQL("SELECT text, embedding FROM chunks JOIN {} USING (chunk_id) ORDER BY chunk_id").format(table)
    ).fetchall()
    texts, stored = [row[0] for row in rows], np.stack([row[1].to_numpy() for row in rows])
    models = local_models(load_settings(), ["text"])
    try:
        with api_over(corpus_url, models=models) as api:
            together = _served(api, texts)
            alone = np.concatenate([_served(api, [text]) for text in texts])
    finally:
        models.close()
    assert len(texts) > 1
    assert np.abs(together - stored).max() < 1e-4
    assert np.abs(alone - stored).max() < 1e-4


def _served(api: Any, texts: list[str]) -> np.ndarray:
    answer = api.client.post("/v1/embeddings", json={"model": "text", "input": texts})
    assert answer.status_code == 200, answer.text
    return np.asarray([one["embedding"] for one in answer.json()["data"]], np.float32)
