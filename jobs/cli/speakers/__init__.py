"""`rushes speakers`: people across files."""

from __future__ import annotations

import typer

from jobs.cli.speakers import clusters, decisions, identify, labels, people, voices

app = typer.Typer(no_args_is_help=True, help="People across files: cluster, label, recognise, undo.")
app.command("cluster")(clusters.cluster)
app.command("clusters")(clusters.clusters)
app.command("identify")(identify.identify)
app.command("calibrate")(identify.calibrate)
app.command("rank")(identify.rank)
app.command("label")(labels.label)
app.command("enroll")(labels.enroll)
app.command("voices")(voices.voices)
app.command("merge")(decisions.merge)
app.command("split")(decisions.split)
app.command("rename")(decisions.rename)
app.command("undo")(decisions.undo)
app.command("history")(decisions.history)
app.command("list")(people.list_people)
app.command("show")(people.show)
app.command("unknown")(people.unknown)
app.command("forget")(people.forget)
