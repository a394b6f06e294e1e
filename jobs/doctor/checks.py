"""The checks in their order, and what they share."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import cached_property, partial
from typing import Any, Self

from cluster.db.doctor import DatabaseVisit
from cluster.doctor import Check, Found
from cluster.errors import RushesError
from cluster.node_check import cache
from cluster.plan import Plan
from cluster.settings import Settings, settings_to_dict
from jobs.doctor import machine, models
from jobs.doctor.child import LoaderChild

NO_DEVICES: dict[str, Any] = {"names": (), "memory_gib": (), "ctranslate2_gpus": 0, "has_driver": False}


class Doctor:
    """Holds the database visit and the loader while the checks run; closed, nothing is left of it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stack = ExitStack()
        self.visit = self._stack.enter_context(closing(DatabaseVisit(settings)))
        self.child = self._stack.enter_context(closing(LoaderChild(settings_to_dict(settings))))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @cached_property
    def devices(self) -> dict[str, Any]:
        """The GPUs, asked once; a CUDA that does not work counts as none here and is told by its own check."""
        try:
            return self.child.ask("devices")
        except RushesError as error:
            return {**NO_DEVICES, "error": str(error)}

    @cached_property
    def plan(self) -> Plan:
        """The plan of a nominal amount of work on this machine."""
        return machine.nominal_plan(self.settings, tuple(self.devices["memory_gib"]))

    def checks(self) -> list[Check]:
        """Every check, in order."""
        settings, visit = self.settings, self.visit
        return [
            Check("python", machine.python_version),
            Check("ray", machine.ray_version),
            Check("resources", self._resources),
            Check("ffmpeg", partial(machine.ffmpeg, settings)),
            *(
                Check(f"{role} model", partial(models.loads, settings, role, self.child), required=role != "reranker")
                for role in models.roles_of(settings)
            ),
            Check("cuda libraries", self._cuda_libraries),
            Check("database", visit.reach),
            Check("server version", visit.version, ("database",)),
            Check("pgvector", visit.pgvector, ("database",)),
            Check("schema", visit.schema, ("database",)),
            Check("indexes", visit.indexes, ("schema",), required=False),
            Check("connections", self._connections, ("database", "resources")),
            Check("disk", partial(machine.disk, settings)),
            Check("store", partial(machine.store, settings)),
            Check("node cache", partial(cache, settings), required=False),
            Check("clock", visit.clock, ("database",), required=False),
            Check("hub token", partial(models.hub_token, settings)),
        ]

    def _resources(self) -> Found:
        return machine.resources(self.settings, self.plan, tuple(self.devices["memory_gib"]))

    def _cuda_libraries(self) -> Found:
        if "error" in self.devices:
            fix = "install a driver that is new enough for the installed torch, or set CUDA_VISIBLE_DEVICES="
            return Found("FAIL", f"CUDA does not work: {self.devices['error']}", fix)
        return models.cuda_libraries(self.settings, self.devices, self.child)

    def _connections(self) -> Found:
        return self.visit.connections(self.plan.connections)
