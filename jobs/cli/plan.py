"""`rushes plan`: how the pending work would be laid out."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli.common import AsJson, Config, Lanes, asked_lanes, corpus, print_json, settings_from


def plan(
    explain: Annotated[bool, typer.Option("--explain", help="Say why.")] = False,
    hours: Annotated[float | None, typer.Option(min=0, max=1e9, help="Plan this many media hours instead.")] = None,
    lanes: Lanes = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Which stages share an actor, how many actors, and how fast that should be."""
    from dataclasses import asdict

    from actors.lanes import fingerprints
    from cluster.db import ledger
    from cluster.db.register import all_asset_ids
    from cluster.plan import Work, make_plan
    from cluster.plan import explain as explain_plan
    from cluster.reservation import describe_reservation, serve_shares
    from jobs.execution import work_of
    from jobs.forecast import foretell, informed
    from jobs.runners import this_node
    from jobs.spec import chain_names

    settings = settings_from(config)
    wanted = asked_lanes(settings, lanes)
    with corpus(config) as conn:
        row = conn.execute("SHOW max_connections").fetchone()
        ids, prints = all_asset_ids(conn), fingerprints(settings)
        with conn.transaction(force_rollback=True):
            ledger.ensure_units(conn, ids, prints, list(prints))
            rows, _ = ledger.pending_rows(conn, ledger.Selection(ids), prints, wanted)
        work = work_of(rows)
        if hours is not None:
            work = Work(hours * 3600, max(1, round(hours)))
        node = this_node(settings)
        made = make_plan(
            work,
            [node],
            chain_names(settings, wanted),
            runner=settings.runner,
            max_connections=int(row[0]),
        )
        forecast = foretell(conn, settings, prints, wanted, made)
    made = informed(made, forecast)
    if as_json:
        print_json({**asdict(made), "forecast": asdict(forecast)})
        return
    lines = [*explain_plan(made, work), *([forecast.describe(work.media_s)] if work.assets else [])]
    served = settings.serve
    shares = serve_shares(served.models, served.gpu_share, served.max_replicas)
    lines.append(describe_reservation(shares, served.max_replicas, len(node.gpu_gib)))
    for line in lines if explain else lines[1:-1]:
        typer.echo(line)
