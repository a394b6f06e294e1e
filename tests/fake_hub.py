"""A model hub with one repository, in the shapes that huggingface_hub asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def hub(repo: str, revision: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths of the files it was asked for; `.bin` files count as large ones."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.wfile.write(self.answer())

        def answer(self):
            path = self.path.partition("?")[0]
            if path == f"/api/models/{repo}/tree/{revision}":
                return self.head(json.dumps([listed(*file) for file in files.items()]).encode())
            name = path.removeprefix(f"/{repo}/resolve/{revision}/")
            if name not in files:
                self.send_error(404)
                return b""
            if self.command == "GET":
                asked.append(name)
            return self.head(files[name], ETag=f'"{blob_name(name, files[name])}"', **{"X-Repo-Commit": revision})

        def head(self, content, **headers):
            self.send_response(200)
            for header, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            return content

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def blob_name(name, content):
    return hashlib.sha256(content).hexdigest() if name.endswith(".bin") else git_sha1(content)


def listed(name, content):
    large = {"lfs": {"oid": blob_name(name, content), "size": len(content), "pointerSize": 130}}
    entry = {"type": "file", "path": name, "size": len(content), "oid": git_sha1(content)}
    return entry | (large if name.endswith(".bin") else {})
