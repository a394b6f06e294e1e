"""Object stores: who is asked, how patiently, and how one object is read by ranges.

Credentials come from where the store's own tools look for them (AWS: environment, profile, instance role;
Google: application default credentials), never from an address: addresses lie in the database. An address may
say where the store is: `s3://bucket/key?endpoint_override=HOST:PORT&scheme=http&region=eu-west-1`.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import re
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from cluster.errors import UsageError, first_line
from cluster.media.hashing import ChangingError

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileSystem

# A store that says nothing for so long is asked again, then given up; without them a silent one holds a row for ever.
CONNECT_S = 5.0
SILENCE_S = 10.0
# Quick repeats are those of the store's own library, slow ones ours: together about two minutes for one range.
QUICK_ATTEMPTS = 2
ATTEMPTS = 6
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 15.0
RANGE_BYTES = 8 << 20
RANGES_IN_FLIGHT = 4

_S3_OPTIONS = ("region", "scheme", "endpoint_override", "force_virtual_addressing")
_GS_OPTIONS = ("scheme", "endpoint_override", "project_id")
# `sig` and `sas` are those of Azure's shared access signatures.
_SECRET = re.compile(r"key|secret|token|passw|credential|signature|^sig$|^sas$", re.IGNORECASE)
# Keys as they are given out may hold `/`, where an address by its grammar ends what stands before @.
_RAW_KEYS = re.compile(r"(?P<scheme>s3|gs|gcs)://(?!arn:)[^/?#@]*:[^@]*@", re.IGNORECASE)
_DENIED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE_DOES_NOT_MATCH|UNRECOGNIZED_CLIENT"
    r"|MISSING_AUTHENTICATION|TOKEN_EXPIRED|EXPIRED_TOKEN|HTTP status 40[13]|HTTP response code(:| is) 40[13]"
    r"|PermissionDenied|Unauthenticated|PERMISSION_DENIED",
    re.IGNORECASE,
)
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|bucket does not exist", re.IGNORECASE)
_NO_KEY = re.compile(r"NO_SUCH_KEY|RESOURCE_NOT_FOUND|HTTP status 404", re.IGNORECASE)
_SHORTER = re.compile(r"INVALID_RANGE|InvalidRange|HTTP status 416|not satisfiable", re.IGNORECASE)

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Content:
    """What was read of an object: its SHA-256 (hex), bytes, and the store's own mark of it, if it has one."""

    sha256: str
    byte_size: int
    etag: str | None


def names_secret(name: str) -> bool:
    """Whether what stands under such a name in an address's query is a secret."""
    return _SECRET.search(name) is not None


def refuse_secrets(uri: str) -> None:
    """Raise `UsageError` for an address that holds a secret; what is said of it leaves the secret out."""
    keys = _RAW_KEYS.match(uri)
    parts = urlsplit(f"{keys['scheme']}://{uri[keys.end() :]}" if keys else uri)
    held = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if names_secret(name)]
    if keys or ("@" in parts.netloc and not uri.startswith(("abfs", "hdfs", "gs://anonymous@", "gcs://anonymous@"))):
        held.append("what stands before @")
    elif ":" in parts.netloc.rpartition("@")[0]:
        held.append("the password before @")
    if held:
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise UsageError(
            f"{place}: its address holds a secret ({', '.join(held)}), and addresses are stored and shown: give "
            "credentials by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or an "
            "instance role; GOOGLE_APPLICATION_CREDENTIALS) and the address without them"
        )


def filesystem_of(uri: str) -> tuple[FileSystem, str]:
    """The file system of an address and the path in it; `UsageError` for a secret, an unknown option, no bucket."""
    refuse_secrets(uri)
    parts = urlsplit(re.sub("#", "%23", uri))
    if parts.scheme in ("s3", "gs", "gcs") and not parts.netloc:
        raise UsageError(f"{uri} names no bucket: write {parts.scheme}://BUCKET or {parts.scheme}://BUCKET/PREFIX")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    path = f"{parts.netloc.rpartition('@')[2]}{unquote(parts.path)}"
    if parts.scheme == "s3":
        _require_known(uri, options, _S3_OPTIONS)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options.setdefault("endpoint_override", endpoint)
        # only AWS itself has buckets in regions of their own
        bucket = "" if {"endpoint_override", "region"} & options.keys() else parts.netloc
        return _s3(tuple(sorted(options.items())), bucket), path
    if parts.scheme in ("gs", "gcs"):
        _require_known(uri, options, _GS_OPTIONS)
        return _gs(tuple(sorted(options.items())), parts.netloc.startswith("anonymous@")), path
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(uri)


def _require_known(uri: str, options: dict[str, str], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            raise UsageError(f"{uri}: unknown option {name!r} in the address; known: {', '.join(known)}")


@lru_cache(maxsize=64)
def _s3(options: tuple[tuple[str, str], ...], bucket: str) -> FileSystem:
    """One client for all who ask the same store, so that they share its connections."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    given = dict(options)
    virtual = given.pop("force_virtual_addressing", "").lower() in ("1", "true")
    if bucket and (region := _region(bucket)):
        given["region"] = region
    return S3FileSystem(
        **given,
        force_virtual_addressing=virtual,
        connect_timeout=CONNECT_S,
        request_timeout=SILENCE_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=QUICK_ATTEMPTS),
    )


def _region(bucket: str) -> str | None:
    """The region of an AWS bucket; None, which leaves it to the environment, when AWS does not tell."""
    from pyarrow.fs import resolve_s3_region

    try:
        return resolve_s3_region(bucket)
    except OSError:
        return None


@lru_cache(maxsize=8)
def _gs(options: tuple[tuple[str, str], ...], anonymous: bool) -> FileSystem:
    from pyarrow.fs import GcsFileSystem

    given = dict(options)
    return GcsFileSystem(anonymous=anonymous, retry_time_limit=timedelta(seconds=3 * SILENCE_S), **given)


def patiently(uri: str, ask: Callable[[], T]) -> T:
    """What `ask` gives; trouble that may pass is waited out with exponential backoff and jitter.

    Raises `FileNotFoundError` and `PermissionError` at once, `ChangingError` for an object that became shorter,
    and `ConnectionError` when patience ends.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ask()
        except OSError as error:
            _raise_for_good(uri, error)
            if attempt == ATTEMPTS:
                raise ConnectionError(f"{uri}: {first_line(error)} ({ATTEMPTS} attempts)") from error
            logger.info("%s: %s; asked again", uri, first_line(error))
        delay_s = min(FIRST_DELAY_S * 2 ** (attempt - 1), LONGEST_DELAY_S)
        time.sleep(delay_s * (1 - random.random() / 2))
    raise AssertionError("unreachable")


def _raise_for_good(uri: str, error: OSError) -> None:
    """Raise what no second attempt mends, in words that say what is missing."""
    text = str(error)
    if isinstance(error, ChangingError):
        raise error
    if _NO_BUCKET.search(text):
        raise FileNotFoundError(errno.ENOENT, "there is no such bucket", uri) from error
    if isinstance(error, FileNotFoundError) or _NO_KEY.search(text):
        raise FileNotFoundError(errno.ENOENT, "the object store has no such object", uri) from error
    if isinstance(error, PermissionError) or _DENIED.search(text):
        why = "the object store denies it: check the credentials, and what they may list and read"
        raise PermissionError(errno.EACCES, why, uri) from error
    if _SHORTER.search(text):
        raise ChangingError(f"{uri} changed while it was read") from error


def whole_seconds(mtime_ns: int | None) -> int | None:
    """A time of change (ns) in whole seconds: a listing knows it finer than a look at one object does."""
    return None if mtime_ns is None else mtime_ns // 10**9 * 10**9


def look(filesystem: FileSystem, path: str, uri: str) -> tuple[int, str | None]:
    """Bytes and mark of an object, by one request; raises as `patiently`."""
    with patiently(uri, lambda: filesystem.open_input_file(path)) as file:
        return file.size(), _etag(file)


def read(filesystem: FileSystem, path: str, uri: str, target: BinaryIO, reserve: Callable[[int], None]) -> Content:
    """Copy an object into `target`, hashed as it arrives; a few ranges are on their way at a time.

    `reserve` is told the size before the first byte. A range that breaks off is asked for again, alone. Raises
    `ChangingError` for an object that was replaced meanwhile, else as `patiently`.
    """
    with patiently(uri, lambda: filesystem.open_input_file(path)) as file:
        size, etag = file.size(), _etag(file)
        reserve(size)
        digest = hashlib.sha256()
        with closing(_pieces(file, uri, size)) as pieces:
            for piece in pieces:
                digest.update(piece)
                target.write(piece)
    # Ranges of two contents may be of the same size; one range is of one content.
    if size > RANGE_BYTES and look(filesystem, path, uri) != (size, etag):
        raise ChangingError(f"{uri} changed while it was read")
    return Content(digest.hexdigest(), size, etag)


def _pieces(file: NativeFile, uri: str, size: int) -> Generator[bytes]:
    starts = iter(range(0, size, RANGE_BYTES))
    asked: deque[Future[bytes]] = deque()
    pool = ThreadPoolExecutor(RANGES_IN_FLIGHT, thread_name_prefix="ranges")
    try:
        while True:
            while len(asked) < RANGES_IN_FLIGHT and (start := next(starts, None)) is not None:
                asked.append(pool.submit(_range, file, uri, start, min(RANGE_BYTES, size - start)))
            if not asked:
                return
            yield asked.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _range(file: NativeFile, uri: str, start: int, size: int) -> bytes:
    data = patiently(uri, lambda: file.read_at(size, start))
    if len(data) != size:
        raise ChangingError(f"{uri} changed while it was read")
    return data


def _etag(file: NativeFile) -> str | None:
    """The store's mark of the content as it is now: `ETag`, where there is one."""
    with suppress(AttributeError, NotImplementedError, OSError):
        for name, value in (file.metadata() or {}).items():
            if (name.decode() if isinstance(name, bytes) else name).lower() == "etag":
                return value.decode("utf-8", "replace").strip('"')
    return None
