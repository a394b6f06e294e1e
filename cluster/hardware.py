"""Node types: the cards that are common, and clusters described in words (`h200:4,cpu:2`)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cluster.errors import UsageError
from cluster.plan_types import ACCELERATOR_LABEL, Node

# A node without a card.
CPU = "cpu"
DRIVER = Path("/proc/driver/nvidia/gpus")
MOST_NODES = 256


@dataclass(frozen=True, slots=True)
class Kind:
    """A node type: one card, and the CPUs and memory that come with it; `speed` is relative to an H100."""

    name: str
    cpus: int
    memory_gib: float
    card_gib: float = 0.0
    accelerator_types: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    speed: float = 0.0


@cache
def table() -> dict[str, Any]:
    """The file of node types and costs as it stands; not to be written to."""
    return tomllib.loads((Path(__file__).parent / "hardware.toml").read_text("utf-8"))


@cache
def kinds() -> dict[str, Kind]:
    """Name -> node type, as shipped."""
    return {name: _kind(name, fields) for name, fields in table()["kinds"].items()}


def _kind(name: str, fields: dict[str, Any]) -> Kind:
    return Kind(
        name,
        fields["cpus"],
        fields["memory_gib"],
        fields.get("card_gib", 0.0),
        tuple(fields.get("accelerator_types", ())),
        tuple(fields.get("products", ())),
        fields.get("speed", 0.0),
    )


def kind_of(card: str) -> str:
    """The node type of a card by Ray's accelerator type or by the name its driver tells; empty for an unknown one."""
    for kind in kinds().values():
        if card in kind.accelerator_types:
            return kind.name
    # `NVIDIA L40S` begins with `L4` as well: the longest name that fits counts.
    bare = re.sub(r"^NVIDIA\s+", "", card.strip())
    fits = [(len(name), kind.name) for kind in kinds().values() for name in kind.products if bare.startswith(name)]
    return max(fits, default=(0, ""))[1]


def known() -> str:
    """The names of the node types, for a message."""
    return ", ".join(kinds())


def check_prices(prices: Iterable[str]) -> None:
    """Raise `UsageError` for a price of a node type that nobody knows."""
    unknown = [name for name in prices if name not in kinds()]
    if unknown:
        raise UsageError(f"a price for {', '.join(unknown)}: no such node type; known: {known()}")


def parse_nodes(text: str) -> list[Node]:
    """`KIND[xCARDS][:COUNT[:CPUS[:GIB]]]`, comma-separated, as nodes; raises `UsageError`.

    `h200:4` is four nodes of one H200, `h200x8:2` two nodes of eight; CPUs and memory are those of the table,
    times the cards, unless they are given.
    """
    nodes: list[Node] = []
    for word in (word.strip() for word in text.split(",")):
        nodes += _nodes(word, len(nodes))
    return nodes


@cache
def _pattern() -> re.Pattern[str]:
    # By the names that there are: `rtx4090` is no node of 4,090 cards.
    names = "|".join(map(re.escape, kinds()))
    return re.compile(
        rf"(?P<kind>{names})(x(?P<cards>\d+))?(:(?P<count>\d+))?(:(?P<cpus>\d+))?(:(?P<gib>\d+(\.\d+)?))?"
    )


def _nodes(word: str, before: int) -> list[Node]:
    found = _pattern().fullmatch(word.lower())
    if found is None:
        raise UsageError(
            f"no node type {word!r}: write KIND[xCARDS][:COUNT[:CPUS[:GIB]]], such as h200:4 or h200x8:2; "
            f"known: {known()}"
        )
    kind = kinds()[found["kind"]]
    cards, count = int(found["cards"] or 1), int(found["count"] or 1)
    cpus = int(found["cpus"]) if found["cpus"] else kind.cpus * cards
    memory_gib = float(found["gib"]) if found["gib"] else kind.memory_gib * cards
    if not kind.card_gib and found["cards"]:
        raise UsageError(f"{word!r}: a {kind.name} node has no cards; give its CPUs as {kind.name}:{count}:{cpus}")
    if min(cards, count, cpus) < 1 or memory_gib <= 0 or before + count > MOST_NODES or cards > 64:
        raise UsageError(
            f"{word!r}: nodes, cards, CPUs and GiB start at 1, with {MOST_NODES} nodes and 64 cards a node at most"
        )
    gpus = (float(kind.card_gib),) * cards if kind.card_gib else ()
    return [
        Node(cpus, memory_gib, gpus, kind=kind.name, name=f"{kind.name}-{number}")
        for number in range(before + 1, before + count + 1)
    ]


def labels_for(named: Iterable[str], cards_there: Iterable[str]) -> dict[str, str]:
    """Ray's label selector for these node types; `cpu` means every node whose card is none of `cards_there`."""
    wanted = set(named)
    if wanted == {CPU}:
        return {ACCELERATOR_LABEL: f"!in({_accelerators(cards_there)})"} if set(cards_there) - {CPU} else {}
    return {ACCELERATOR_LABEL: f"in({_accelerators(wanted)})"}


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with `labels` is one that a selector of `labels_for` means, as Ray reads it."""
    return all(_selects(wanted, labels.get(name, "")) for name, wanted in selector.items())


def _selects(wanted: str, label: str) -> bool:
    bare = wanted.removeprefix("!")
    named = bare.removeprefix("in(").removesuffix(")").split(",") if bare.startswith("in(") else [bare]
    return (label in named) != wanted.startswith("!")


def _accelerators(named: Iterable[str]) -> str:
    return ",".join(sorted(name for kind in named if kind != CPU for name in kinds()[kind].accelerator_types))


def local_card() -> str:
    """The name of this machine's first card as its driver tells it; empty without one. Needs no torch."""
    for file in sorted(DRIVER.glob("*/information")):
        try:
            lines = file.read_text("utf-8").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return ""
