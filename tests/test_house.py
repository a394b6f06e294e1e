"""The house stays small and its floors stay apart."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
FLOORS = ("cluster", "actors", "jobs", "serve")
FILES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def functions():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node, (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_file_is_over_400_lines_and_the_usual_one_is_about_120():
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {str(path) for path, length in lengths.items() if length > 400} == set()
    assert median(lengths.values()) <= 150


def test_no_test_file_is_over_400_lines():
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in (ROOT / "tests").glob("*.py")}
    assert {name for name, length in lengths.items() if length > 400} == set()


def test_every_guarantee_names_tests_that_exist():
    named = re.findall(r"`(?:(test_\w+\.py))?(?:::(test_\w+))?`", (ROOT / "docs/guarantees.md").read_text("utf-8"))
    assert len(named) > 30
    where = ""
    for file, test in named:
        where = file or where
        text = (ROOT / "tests" / where).read_text("utf-8")
        assert not test or f"def {test}(" in text, (where, test)


def test_no_function_is_over_60_lines_and_the_usual_one_is_short():
    found = list(functions())
    assert [f"{path.name}:{node.name} {length}" for path, node, length in found if length > 60] == []
    assert median(length for _, _, length in found) <= 12


def test_everything_is_annotated():
    bare = []
    for path, node, _ in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        if missing or node.returns is None:
            bare.append(f"{path.name}:{node.name} {missing}")
    assert bare == []


def test_help_costs_under_three_tenths_of_a_cpu_second():
    code = (
        "import resource, sys; sys.argv = ['rushes', '--help']\n"
        "from jobs.cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "heavy = {'ray', 'torch', 'psycopg', 'av', 'numpy', 'pyarrow', 'pydantic'} & set(sys.modules)\n"
        "print(used.ru_utime + used.ru_stime, sorted(heavy), file=sys.stderr)\n"
    )
    best = 9.9
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        seconds, _, heavy = done.stderr.strip().splitlines()[-1].partition(" ")
        best = min(best, float(seconds))
        assert heavy == "[]"
    assert best < 0.3


def test_no_file_names_a_machine_or_an_index():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert "://" not in lock
    assert {"requirements.lock", "Makefile", "pyproject.toml", "ray-cluster.yaml"} <= set(listed)
