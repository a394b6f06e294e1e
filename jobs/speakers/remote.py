"""A plain function here, or as one task of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from cluster.errors import RushesError

T = TypeVar("T")


def run_at(address: str | None, function: Callable[..., T], *values: Any) -> T:
    """`function(*values)`, on the Ray cluster at `address` if one is given.

    The function is one of a module, and its values and result are picklable. Its errors come back as they are.
    """
    if address is None:
        return function(*values)
    from jobs.ray_context import ray_session

    with ray_session(address=address, cpus=1, niceness=0, object_store_bytes=0):
        import ray

        try:
            return ray.get(ray.remote(num_cpus=1, max_retries=0)(function).remote(*values))
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, RushesError) else error from error
