"""The service under load, beside infinity-emb with the same model in the same run.

`python -m benchmarks.serve --infinity VENV/bin/infinity_emb`: the packaged MiniLM is served by `rushes serve run` (in
HAProxy mode and with the default proxy, one after the other) and by infinity-emb (`pip install
'infinity-emb[server,torch]'` into an environment of its own). The same second process asks them the same texts in
closed loops, one server after the other in every cell, so that what else the machine does strikes all.
`benchmarks.serve_search` and `benchmarks.serve_overload` measure search and overload.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.load import Load, run_load
from benchmarks.report import at_least, at_most, write_result
from cluster.settings import load_settings
from cluster.weights import locate

SEED = 11
ROOT = Path(__file__).parents[1]
CONCURRENCY = (1, 8, 32)
LIST_ITEMS = 32
START_S = 180.0
OVER_INFINITY, BATCHER_OVER_RAW = 1.2, 1.25


def sentences(count: int) -> list[str]:
    """Sentences of these documents, seeded: 3 to 60 words, as questions and passages are."""
    text = " ".join(
        re.sub(r"[`|*#>\[\]]", " ", path.read_text("utf-8")) for path in sorted((ROOT / "docs").glob("*.md"))
    )
    found = [" ".join(one.split()) for one in re.split(r"(?<=[.:;])\s", text)]
    fitting = [one for one in found if 3 <= len(one.split()) <= 60]
    order = random.Random(SEED)
    return [f"{order.choice(fitting)} {number}" for number in range(count)]


def bodies(model: str, items: int, encoding: str = "float") -> list[str]:
    """Request bodies with `items` texts each; no text comes twice in a cell, so that nothing can be remembered."""
    texts = sentences(256 * items)
    groups = [texts[start : start + items] for start in range(0, len(texts), items)]
    return [
        json.dumps({"model": model, "input": group[0] if items == 1 else group, "encoding_format": encoding})
        for group in groups
    ]


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def serving(command: Sequence[str], health: str, env: dict[str, str], log: Path) -> Iterator[None]:
    """A server as a child, from when `health` answers 200 until the block ends."""
    with log.open("wb") as said:
        child = subprocess.Popen(command, env={**os.environ, **env}, stdout=said, stderr=said, start_new_session=True)
    try:
        deadline_s = time.monotonic() + START_S
        while not _answers(health):
            if child.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{command[0]} does not serve: {log.read_text('utf-8', 'replace')[-2000:]}")
            time.sleep(0.5)
        yield
    finally:
        os.killpg(child.pid, signal.SIGINT)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextmanager
def ours(root: Path, *flags: str, models: str = "text") -> Iterator[str]:
    """The address of `rushes serve run`, with a corpus of its own under `root`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jobs.cli.main", "serve", "run", "--port", str(port), "--models", models, *flags]
    env = {"RUSHES_DATA_DIR": str(root)}
    with serving(command, f"{url}/health/ready", env, root / f"serve{'-'.join(flags)}.log"):
        yield url


@contextmanager
def infinity(binary: str, root: Path) -> Iterator[str]:
    """The address of infinity-emb with the same weights and its own defaults."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    folder = str(locate(load_settings(None).model_choice("text").weights))
    command = [
        binary, "v2", "--model-id", folder, "--served-model-name", "text", "--port", str(port), "--host", "127.0.0.1",
    ]  # fmt: skip
    env = {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
    with serving(command, f"{url}/health", env, root / "infinity.log"):
        yield url


def cell(urls: dict[str, str], concurrency: int, items: int, seconds: float, rounds: int) -> dict[str, Any]:
    """One load on every server in turn, `rounds` times; of each the round in the middle by throughput."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in urls}
    asked = bodies("text", items)
    for _ in range(rounds):
        for name, url in urls.items():
            path = "/embeddings" if name == "infinity" else "/v1/embeddings"
            found[name].append(run_load(Load(url + path, asked, concurrency, seconds, items)))
    middle = {
        name: sorted(results, key=lambda one: one["items_per_s"])[len(results) // 2] for name, results in found.items()
    }
    return {"concurrency": concurrency, "items_a_request": items, **middle}


def compare(binary: str, root: Path, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Every cell in both proxy modes; infinity is measured beside each."""
    cells = []
    for mode, flags in (("haproxy", ("--haproxy",)), ("default_proxy", ())):
        with ExitStack() as stack:
            urls = {"infinity": stack.enter_context(infinity(binary, root))}
            urls["rushes"] = stack.enter_context(ours(root, *flags))
            for items in (1, LIST_ITEMS):
                for concurrency in CONCURRENCY:
                    one = {"mode": mode, **cell(urls, concurrency, items, seconds, rounds)}
                    one["throughput_over_infinity"] = _ratio(one, lambda told: told["items_per_s"])
                    one["p95_over_infinity"] = _ratio(one, lambda told: told["ms"]["200"]["p95"])
                    cells.append(one)
                    print(json.dumps({name: one[name] for name in one if not isinstance(one[name], dict)}), flush=True)
    return cells


def _ratio(one: dict[str, Any], figure: Any) -> float:
    return round(figure(one["rushes"]) / figure(one["infinity"]), 3)


def encodings(url: str, seconds: float) -> dict[str, Any]:
    """Float against base64, lists of 256 texts, one request at a time."""
    texts = sentences(256)
    found = {}
    for name in ("float", "base64"):
        body = json.dumps({"model": "text", "input": texts, "encoding_format": name})
        told = run_load(Load(f"{url}/v1/embeddings", [body], 1, seconds, len(texts)))
        found[name] = {"answer_bytes": told["answer_bytes"], "p50_ms": told["ms"]["200"]["p50"]}
    return found


def encoding_cpu() -> dict[str, Any]:
    """CPU milliseconds of putting 256 vectors of 1,536 floats into an answer, the best of several."""
    import numpy as np

    from serve import encode

    vectors = np.random.default_rng(SEED).standard_normal((256, 1536)).astype(np.float32)
    found: dict[str, Any] = {}
    for name in ("float", "base64"):
        spent = []
        for _ in range(7):
            began = time.process_time()
            body = encode.answer({"data": [{"embedding": row} for row in encode.encoded(vectors, name)]}).body
            spent.append((time.process_time() - began) * 1000)
        found[name] = {"cpu_ms": round(min(spent), 2), "bytes": len(body)}
    began = time.process_time()
    plain = json.dumps({"data": [{"embedding": row} for row in vectors.tolist()]})
    found["stdlib_json"] = {"cpu_ms": round((time.process_time() - began) * 1000, 2), "bytes": len(plain)}
    return found


def batcher_over_raw(rounds: int = 5) -> dict[str, Any]:
    """Wall time of 256 texts through the batcher over that of `SentenceTransformer.encode`, in one process."""
    import asyncio

    from serve.engines.base import TextIn
    from serve.engines.make import text_engine

    settings = load_settings(None)
    engine = text_engine(settings)
    engine.load()
    texts = sentences(256)
    items = [TextIn(text, "document") for text in texts]
    model, size = engine._texts._loaded(), engine.choice.batch_size
    ratios = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        model.encode(texts, batch_size=size, show_progress_bar=False, convert_to_numpy=True)
        raw_s = time.perf_counter() - began
        began = time.perf_counter()
        asyncio.run(engine.run(items))
        ratios.append((time.perf_counter() - began) / raw_s)
    engine.close()
    ratios = sorted(ratios[1:])
    return {"texts": len(texts), "rounds": rounds, "ratio": round(statistics.median(ratios), 3),
            "range": [round(ratios[0], 3), round(ratios[-1], 3)]}  # fmt: skip


def main() -> None:
    """Everything about embeddings, into `serve.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--infinity", required=True, help="the program infinity_emb of another environment")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        os.environ["RUSHES_DATA_DIR"] = str(root)
        batcher = batcher_over_raw()
        cells = compare(asked.infinity, root, asked.seconds, asked.rounds)
        with ours(root, "--haproxy") as url:
            encoded = encodings(url, asked.seconds)
    production = [one for one in cells if one["mode"] == "haproxy"]
    write_result(
        "serve",
        {
            "model": load_settings(None).model_choice("text").weights,
            "texts": f"sentences of docs/*.md, 3 to 60 words, seed {SEED}; singles, and lists of {LIST_ITEMS}",
            "beside": subprocess.run(
                [str(Path(asked.infinity).parent / "python"), "-c",
                 "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in "
                 "('infinity-emb','torch','sentence-transformers')), sep=', ')"],
                capture_output=True, text=True, check=True).stdout.strip(),
            "seconds_a_round": asked.seconds,
            "rounds": asked.rounds,
            "cells": cells,
            "batcher_over_raw_model": batcher,
            "float_and_base64": {"lists_of_256_texts": encoded, "256_vectors_of_1536": encoding_cpu()},
            "targets": {
                **{
                    f"throughput, {one['items_a_request']} a request, {one['concurrency']} at a time": at_least(
                        OVER_INFINITY, one["throughput_over_infinity"])
                    for one in production
                },
                **{
                    f"p95, {one['items_a_request']} a request, {one['concurrency']} at a time": at_most(
                        1.0, one["p95_over_infinity"])
                    for one in production
                },
                "batcher_over_raw_model": at_most(BATCHER_OVER_RAW, batcher["ratio"]),
            },
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
