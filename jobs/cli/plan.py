"""`rushes plan`: how work would be laid out, here, on a cluster, or on one that is only described."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.common import Address, AsJson, Config, Lanes, asked_lanes, print_json, settings_from

if TYPE_CHECKING:
    from cluster.settings import Settings
    from jobs.planner import Answer

Nodes = Annotated[
    str | None,
    typer.Option(help="Plan for a cluster in words: h200:4,cpu:2 or h200x8:2 (docs/planning.md).", show_default=False),
]
Prices = Annotated[
    list[str] | None,
    typer.Option("--price", help="Price of a node type per hour, such as h200=3.50; may be repeated."),
]


def plan(
    explain: Annotated[bool, typer.Option("--explain", help="Say why.")] = False,
    hours: Annotated[float | None, typer.Option(min=0, max=1e9, help="Plan this many media hours instead.")] = None,
    nodes: Nodes = None,
    address: Address = None,
    price: Prices = None,
    beside_service: Annotated[
        bool, typer.Option("--beside-service", help="Leave the service its share of a card.")
    ] = False,
    lanes: Lanes = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Which stages share an actor, how many actors, how fast that should be, and what it costs."""
    from jobs.planner import Asked, answer

    settings = settings_from(config)
    found = answer(settings, Asked(asked_lanes(settings, lanes), hours, nodes, address, _prices(price), beside_service))
    if as_json:
        print_json(as_dict(found))
        return
    lines = described(settings, found)
    for line in lines if explain else lines[1 : len(found.plan.groups) + 1] + _short(found):
        typer.echo(line)


def as_dict(found: Answer) -> dict[str, Any]:
    """Everything of the plan; `estimated` are the stages that nobody measured on such hardware."""
    from dataclasses import asdict

    from cluster.plan_explain import finish, told

    return {
        **asdict(found.plan),
        "told": told(found.plan),
        "estimated": list(found.plan.estimated),
        "forecast": asdict(found.forecast),
        "work": asdict(found.work),
        "finish_s": round(finish(found.plan, found.work.media_s / 3600), 1),
        "costs": found.costs(),
        "nodes": [asdict(node) for node in found.nodes],
    }


def described(settings: Settings, found: Answer) -> list[str]:
    """The plan line by line: groups, node types, bounds, finish, costs, the service's share."""
    from cluster.plan import explain
    from cluster.reservation import describe_reservation, serve_shares

    served = settings.serve
    shares = serve_shares(served.models, served.gpu_share, served.max_replicas)
    cards = sum(len(node.gpu_gib) for node in found.nodes)
    return [
        *explain(found.plan, found.work),
        *_finish(found),
        describe_reservation(shares, served.max_replicas, cards),
    ]


def _short(found: Answer) -> list[str]:
    from cluster.plan import explain

    return [explain(found.plan, found.work)[-1], *_finish(found)]


def _finish(found: Answer) -> list[str]:
    from cluster.plan_explain import cost_lines, finish
    from jobs.summary import duration

    if not found.work.assets:
        return []
    hours = found.work.media_s / 3600
    if found.forecast.assets:
        first = found.forecast.describe(found.work.media_s)
    else:
        word = "estimate" if found.plan.estimated else "measured by calibrate"
        first = f"predicted: {hours:g} h of media in {duration(finish(found.plan, hours))}, start-up included ({word})"
    lines = [first, *cost_lines(found.plan, found.kinds, found.prices)]
    if "of_this_work" in found.costs():
        lines[-1] += f"; {found.costs()['of_this_work']:.2f} for this work"
    return lines


def _prices(words: list[str] | None) -> dict[str, float]:
    from cluster.errors import UsageError

    found = {}
    for word in words or ():
        kind, _, text = word.partition("=")
        try:
            found[kind] = float(text)
        except ValueError:
            raise UsageError(f"--price {word!r}: write NODETYPE=PRICE, such as h200=3.50") from None
        if not 0 <= found[kind] < 1e9:
            raise UsageError(f"--price {word!r}: a price is not below 0")
    return found
