"""What the service takes of the cards: one reservation, split over its models by a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cluster.plan_types import SHARE_UNITS, Node, PlanError
from cluster.settings import Settings

# Role of the service -> its part of the service's share, and its peak GiB on a card. Assumptions, as those of `Rates`.
SERVE_WEIGHTS: Mapping[str, int] = {"text": 2, "image": 2, "reranker": 1, "audio": 5}
SERVE_GIB: Mapping[str, float] = {"text": 0.5, "image": 1.0, "reranker": 0.5, "audio": 2.5}


def serve_shares(roles: Sequence[str], gpu_share: float, replicas: int = 1) -> dict[str, float]:
    """Role -> the share of a GPU that one replica takes, when `replicas` of each take `gpu_share` together.

    `PlanError` with the sum where a share would be none at all; all are 0 without a reservation.
    """
    units, weights = round(gpu_share * SHARE_UNITS), sum(SERVE_WEIGHTS[role] for role in roles)
    if not units or not roles:
        return dict.fromkeys(roles, 0.0)
    each = units // replicas
    shares = {role: each * SERVE_WEIGHTS[role] // weights for role in roles}
    shares[max(roles, key=SERVE_WEIGHTS.__getitem__)] += each - sum(shares.values())
    if not all(shares.values()):
        raise PlanError(
            f"{gpu_share:g} of a GPU for {replicas} replica(s) of {', '.join(roles)} leaves some less than "
            f"{1 / SHARE_UNITS:g} each: raise RUSHES_SERVE_GPU_SHARE, or serve fewer models"
        )
    return {role: share / SHARE_UNITS for role, share in shares.items()}


def check_reservation(shares: Mapping[str, float], replicas: int, cards: int, free: float) -> None:
    """Raise `PlanError` with the sum when the service's shares do not fit in what is free of the cards."""
    needed = sum(shares.values()) * replicas
    if needed > free + 1e-6:
        parts = " + ".join(f"{role} {share:g}" for role, share in shares.items())
        times = f"{replicas} x ({parts})" if replicas > 1 else parts
        raise PlanError(
            f"the service takes {times} = {needed:g} of a GPU, and {free:g} of {cards} GPU(s) is free: stop what holds "
            "the rest, or lower RUSHES_SERVE_GPU_SHARE"
        )


def describe_reservation(shares: Mapping[str, float], replicas: int, cards: int) -> str:
    """What the service takes of the cards, in one line."""
    if not cards or not any(shares.values()):
        return "service: no share of a GPU; its models take the CPUs that are idle"
    parts = " + ".join(f"{role} {share:g}" for role, share in shares.items())
    total = sum(shares.values()) * replicas
    times = f"{replicas} x ({parts})" if replicas > 1 else parts
    return f"service: {times} = {total:g} of a GPU; a backfill beside it (--address) takes the other {1 - total:g}"


def reserved(settings: Settings) -> tuple[float, float]:
    """The share of a card that the service of these settings takes in all, and the GiB of its models on it."""
    served = settings.serve
    shares = serve_shares(served.models, served.gpu_share, served.max_replicas)
    return round(sum(shares.values()) * served.max_replicas, 4), sum(SERVE_GIB[role] for role in served.models)


def beside_models(settings: Settings, nodes: Sequence[Node]) -> list[Node]:
    """The nodes, with the memory that the service's models take on cards of which a part is held."""
    gib = sum(SERVE_GIB[role] for role in settings.serve.models)
    return [replace(node, held_gib=gib if node.gpus_held else 0.0) for node in nodes]
