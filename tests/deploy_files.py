"""The deployment files as tests read them: filled in, parsed, and their commands one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.check import PLACEHOLDER

ROOT = Path(__file__).parents[1]
RAY_FILES = ("ray-cluster.yaml", "deploy/ray-cluster-gcp.yaml", "deploy/ray-cluster-onprem.yaml")
KUBERNETES_FILES = tuple(f"deploy/kuberay/{name}.yaml" for name in ("settings", "cluster", "job", "service"))
COMPOSE = "deploy/compose.yaml"
EVERY_FILE = (*RAY_FILES, *KUBERNETES_FILES, COMPOSE)


def filled(name: str) -> str:
    """The text of a file with something in each place that a person fills in."""
    values = {"FILL_IN_REGION": "eu-central-1", "FILL_IN_IMAGE": "ami-0123456789abcdef0"}
    text = (ROOT / name).read_text("utf-8")
    return PLACEHOLDER.sub(lambda found: values.get(found[0], "filled-in"), text)


def parsed(name: str) -> list[Any]:
    """The documents of a file, filled in."""
    return list(yaml.safe_load_all(filled(name)))


def values(tree: Any, key: str) -> Iterator[Any]:
    """Every value that stands under `key`, at any depth."""
    if isinstance(tree, dict):
        if key in tree:
            yield tree[key]
        for inner in tree.values():
            yield from values(inner, key)
    elif isinstance(tree, list):
        for inner in tree:
            yield from values(inner, key)


def commands(tree: Any) -> Iterator[list[str]]:
    """Every `rushes ...` and `ray ...` that a parsed file or a script runs, as words."""
    if isinstance(tree, dict):
        for inner in tree.values():
            yield from commands(inner)
    elif isinstance(tree, list) and tree[:1] in (["rushes"], ["ray"]):
        yield [str(word) for word in tree]
    elif isinstance(tree, list):
        for inner in tree:
            yield from commands(inner)
    elif isinstance(tree, str):
        for line in re.split(r"\n|;|&&|\|\|", tree):
            found = re.search(r"(?:^|[\s/])(rushes|ray) ([a-z-]+( .*)?)$", line.strip())
            if found and not line.strip().startswith("#"):
                yield [found[1], *found[2].split()]


def node_gib(machine: str) -> float:
    """Memory of the machine types in the files, GiB, after the clouds' lists."""
    return {"g6e.8xlarge": 256.0, "c7i.8xlarge": 64.0, "a2-highgpu-1g": 85.0, "n2-standard-32": 128.0}[machine]


def gib(quantity: str) -> float:
    """`16Gi` of Kubernetes as GiB."""
    assert quantity.endswith("Gi"), quantity
    return float(quantity[:-2])
