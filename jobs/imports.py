"""What people and their downloaders know, read into the corpus: speaker turns (RTTM) and side-cars (.info.json)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.db import turns as db
from cluster.db.info import apply_info, sources_like
from cluster.db.report import find_asset
from cluster.db.transcripts import Named, name_assets
from cluster.errors import RushesError, UsageError, os_reason
from cluster.formats.info_json import SUFFIX, Info, read_info, sidecar_of
from cluster.formats.rttm import NamedTurn, Rttm, file_id, parse_rttm

MAX_RTTM_BYTES = 64 * 2**20
# Recognisers and editors round, and a container's length is an estimate.
PAST_END_MS = 5_000
MAX_MS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TurnsFor:
    """The turns a file gives an asset."""

    path: Path
    asset: Named
    turns: Sequence[NamedTurn]


@dataclass(frozen=True, slots=True)
class InfoFor:
    """What a side-car, or a person, says of an asset; `path` is None for a person."""

    path: Path | None
    asset: Named
    info: Info


@dataclass(slots=True)
class Imports:
    """What the files of one call say, checked before anything is written."""

    turns: list[TurnsFor] = field(default_factory=list)
    infos: list[InfoFor] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def collect(conn: Any, paths: Sequence[Path], asset: str | None, said: Info) -> Imports:
    """Read the files and find their assets; `said` (tags, collections) is added to each asset met.

    A folder means every side-car in it that lies beside a registered source; what of it cannot be read is
    listed. Raises `RushesError` for a file that was named and cannot be used.
    """
    named = name_assets(conn)
    only = _only(conn, named, asset)
    found = Imports()
    for path in paths:
        _check_there(path)
        if path.is_dir():
            if only is not None:
                raise UsageError(f"{path} is a folder and --asset is one asset: name one file")
            _add_folder(conn, found, path, named)
        elif path.name.lower().endswith(".rttm"):
            _add_turns(conn, found, path, named, only)
        elif path.name.lower().endswith(SUFFIX):
            _add_info(conn, found, path, named, only)
        else:
            raise UsageError(f"{path}: only folders, .rttm and {SUFFIX} files are imported")
    if said.tags or said.collections:
        met = {item.asset.asset_id: item.asset for item in (*found.turns, *found.infos)}
        targets = [only] if only is not None else list(met.values())
        found.infos.extend(InfoFor(None, target, said) for target in targets)
    return found


def apply(conn: Any, found: Imports, prints: Mapping[str, str]) -> Iterator[tuple[TurnsFor | InfoFor, str]]:
    """Write item by item, each in one transaction; yields what became of it, an error as `failed: ...`."""
    for item in (*found.turns, *found.infos):
        try:
            yield item, _apply(conn, item, prints)
        except RushesError as error:
            found.failures.append(f"{item.asset.name}: {error}")
            yield item, f"failed: {error}"


def _check_there(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{str(path)!r}: its name is not valid UTF-8, rename it") from error
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for long names
        raise UsageError(f"{path} does not exist")
    if not (path.is_dir() or path.is_file()):
        raise UsageError(f"{path} is neither a file nor a folder")


def _apply(conn: Any, item: TurnsFor | InfoFor, prints: Mapping[str, str]) -> str:
    if isinstance(item, InfoFor):
        apply_info(conn, item.asset.asset_id, item.info)
        return "done"
    return db.give_turns(conn, item.asset.asset_id, item.turns, prints)


def _only(conn: Any, named: Sequence[Named], asset: str | None) -> Named | None:
    if asset is None:
        return None
    asset_id = find_asset(conn, asset)["asset_id"]
    return next(item for item in named if item.asset_id == asset_id)


def _add_turns(conn: Any, found: Imports, path: Path, named: Sequence[Named], only: Named | None) -> None:
    rttm = _read_rttm(path)
    if rttm.ignored:
        found.notes.append(f"{path}: {rttm.ignored} line(s) of other types than SPEAKER left out")
    if not rttm.turns:
        found.notes.append(f"{path}: no SPEAKER line, nothing to import")
    if only is not None and len(rttm.turns) > 1:
        raise UsageError(f"{path} is about {len(rttm.turns)} recordings ({', '.join(rttm.turns)}) and --asset is one")
    given = {item.asset.asset_id for item in found.turns}
    for name, turns in rttm.turns.items():
        target = only or _called(conn, named, name, path)
        if target.asset_id in given:
            raise RushesError(f"{path}: another file of this command gives the turns of {target.name} already")
        given.add(target.asset_id)
        _check_length(path, target, turns)
        found.turns.append(TurnsFor(path, target, turns))


def _read_rttm(path: Path) -> Rttm:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_RTTM_BYTES + 1)
        if len(content) > MAX_RTTM_BYTES:
            raise RushesError(f"{path} is larger than {MAX_RTTM_BYTES >> 20} MiB: split it")
        return parse_rttm(content.decode("utf-8-sig").split("\n"), str(path))
    except UnicodeDecodeError as error:
        raise RushesError(f"{path}: byte {error.start + 1} is not UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path}: {os_reason(error)}") from error


def _called(conn: Any, named: Sequence[Named], name: str, path: Path) -> Named:
    """The asset that exports call `name`, else the one with a source of that name."""
    by_export = [item for item in named if file_id(item.name) == name]
    matches = by_export or _by_source(conn, named, name)
    if len(matches) == 1:
        return matches[0]
    what = f"{len(matches)} assets are" if matches else "no asset is"
    raise RushesError(f"{path}: {what} called {name!r}: say which with --asset")


def _by_source(conn: Any, named: Sequence[Named], name: str) -> list[Named]:
    ids = {
        asset_id
        for uri, asset_id in sources_like(conn, "")
        if name in (file_id(Path(uri).stem), file_id(Path(uri).name))
    }
    return [item for item in named if item.asset_id in ids]


def _check_length(path: Path, target: Named, turns: Sequence[NamedTurn]) -> None:
    last_ms = max(turn.end_ms for turn in turns)
    length_ms = min(MAX_MS - PAST_END_MS, MAX_MS if target.duration_ms is None else target.duration_ms)
    if last_ms > length_ms + PAST_END_MS:
        raise RushesError(
            f"{path}: a turn ends at {last_ms / 1000:.3f} s, but {target.name} is {length_ms / 1000:.3f} s long: "
            "it is about another recording, or --asset names the wrong one"
        )


def _add_info(conn: Any, found: Imports, path: Path, named: Sequence[Named], only: Named | None) -> None:
    try:
        info = read_info(path)
    except OSError as error:
        raise UsageError(f"{path}: {os_reason(error)}") from error
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - sources keep their symlinks
    start = str(absolute)[: -len(SUFFIX)]
    ids = {asset_id for uri, asset_id in sources_like(conn, start) if sidecar_of(Path(uri)) == absolute}
    targets = [only] if only is not None else [item for item in named if item.asset_id in ids]
    if not targets:
        raise RushesError(f"{path} lies beside no registered source: ingest the recording first, or say --asset")
    found.infos.extend(InfoFor(path, target, info) for target in targets)


def _add_folder(conn: Any, found: Imports, folder: Path, named: Sequence[Named]) -> None:
    absolute = Path(os.path.abspath(folder))  # noqa: PTH100 - sources keep their symlinks
    by_id = {item.asset_id: item for item in named}
    beside: dict[Path, list[int]] = {}
    for uri, asset_id in sources_like(conn, f"{str(absolute).rstrip('/')}/"):
        beside.setdefault(sidecar_of(Path(uri)), []).append(asset_id)
    strangers = 0
    for path in sorted(path for path in absolute.rglob(f"*{SUFFIX}") if path.is_file()):
        ids = sorted(set(beside.get(path, ())))
        strangers += not ids
        if not ids:
            continue
        try:
            info = read_info(path)
        except RushesError as error:
            found.failures.append(str(error))
        except OSError as error:
            found.failures.append(f"{path}: {os_reason(error)}")
        else:
            found.infos.extend(InfoFor(path, by_id[asset_id], info) for asset_id in ids)
    if strangers:
        found.notes.append(f"{folder}: {strangers} side-car(s) beside no registered source left out")
