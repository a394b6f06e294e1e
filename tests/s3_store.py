"""A real S3-compatible server in this process, with every request on record and faults on demand."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

BUCKET = "archive"
ENV = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Asked(NamedTuple):
    """One request: its method, the key (empty: the bucket), the bytes it asked for, None without a range."""

    method: str
    key: str
    start: int | None
    end: int | None


@dataclass
class S3Store:
    """`fault` looks at each request and names what happens to it: a status, reset, cut, stall or nothing."""

    backend: Any = None
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    fault: Callable[[Asked], str | None] = lambda asked: None
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def env(self) -> dict[str, str]:
        return {**ENV, "AWS_ENDPOINT_URL": self.url}

    @property
    def reads(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == "GET" and asked.start is not None]

    def put(self, key: str, content: bytes, age_s: float = 3600.0) -> str:
        """Write an object as it was written so long ago; its address."""
        made = self.backend.put_object(BUCKET, key, content)
        made.last_modified -= timedelta(seconds=age_s)
        return f"s3://{BUCKET}/{key}"

    def get(self, key: str) -> bytes:
        return self.backend.get_object(BUCKET, key).value

    def names(self) -> list[str]:
        return list(self.backend.buckets[BUCKET].keys.keys())

    def delete(self, key: str) -> None:
        self.backend.delete_object(BUCKET, key)


@contextmanager
def s3_store() -> Iterator[S3Store]:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = S3Store(backend=s3_backends[DEFAULT_ACCOUNT_ID]["aws"])
    store.backend.create_bucket(BUCKET, "us-east-1")
    app = DomainDispatcherApplication(create_backend_app)

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *words: Any) -> None:
            pass

        def make_environ(self) -> Any:
            return {**super().make_environ(), "test.socket": self.connection}

    server = make_server("127.0.0.1", 0, _watched(app, store), threaded=True, request_handler=Handler)
    store.url = f"http://127.0.0.1:{server.server_port}"
    # a connection that is reset is no error here
    server.log = lambda *words: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield store
    finally:
        store.over.set()
        server.shutdown()
        server.server_close()
        store.backend.reset()


def _watched(app: Any, store: S3Store) -> Any:
    def serve(environ: Any, start_response: Any) -> Any:
        start, _, end = environ.get("HTTP_RANGE", "").removeprefix("bytes=").partition("-")
        key = environ["PATH_INFO"].lstrip("/").partition("/")[2]
        asked = Asked(environ["REQUEST_METHOD"], key, int(start) if start else None, int(end) if end else None)
        store.asked.append(asked)
        fault = store.fault(asked)
        if fault is not None and fault.isdigit():
            start_response(f"{fault} Refused", [("Content-Type", "application/xml"), ("Content-Length", "0")])
            return [b""]
        if fault == "reset":
            environ["test.socket"].shutdown(socket.SHUT_RDWR)
            return [b""]
        body = b"".join(app(environ, start_response))
        return _broken(body, fault, environ["test.socket"], store) if fault else [body]

    return serve


def _broken(body: bytes, fault: str, connection: socket.socket, store: S3Store) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    if fault == "stall":
        store.over.wait()
    connection.shutdown(socket.SHUT_RDWR)
