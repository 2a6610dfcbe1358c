"""Change the numerical core in one place at a time and count the changes that its tests notice.

    python tools/mutate.py [--mutants 200] [--seed 0] [--jobs 2] [MODULE ...]

A mutant has one other operator, comparison or constant; it is killed if a test fails. The quickest tests run
first. Survivors are printed. The exit status is 1 if fewer than 85 % are killed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import dask.array  # noqa: F401  heavy libraries are imported once: each mutant is tested in a fork
import hypothesis.strategies  # noqa: F401
import numba  # noqa: F401
import pytest
import skimage.metrics  # noqa: F401
import sklearn.ensemble  # noqa: F401
import torch

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "src" / "napari_ensir" / "ensemble"
MODULES = (*CORE.glob("estimators/*.py"), *CORE.glob("combine/*.py"), CORE / "statistics" / "binning.py")
TESTS = (
    *("combine", "estimators", "statistics/test_binning.py", "statistics/test_statistics.py"),
    *("test_fit.py", "lut/test_load.py"),
    *("arrays/test_blocks.py", "compare/test_baselines.py", "scoring/test_cross_validation.py"),
)
OPTIONS = (
    "-x",
    "-q",
    "-c",
    os.devnull,
    f"--rootdir={ROOT}",
    "--import-mode=importlib",
    "--hypothesis-seed=0",
)
PROCESSOR_SECONDS = 120  # of a mutant, which may never end
GOAL = 0.85

SPEED = {
    "CHECK_EVERY": "iterations between two checks for the end of a loop that changes nothing after its end",
    "COMPACT_BELOW": "share of running bin sets below which the others are removed from the arrays",
    "NUMPY_GROUP": "size of the groups of bin sets that numpy solves together",
    "TORCH_GROUP": "the same in torch",
    "RUN_LEVELS": "size of the runs that are divided among threads",
    "_BATCH": "bin sets solved at once",
    "_ROUNDS": "bound of a loop that ends earlier",
    "DENSE_ENTRIES": "size above which keys are searched instead of a dense table",
}
"""Constants that change time and memory but no result: expressions with them are not changed."""

_PAIRS = (
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)),
    *((ast.And, ast.Or), (ast.BitAnd, ast.BitOr), (ast.LShift, ast.RShift), (ast.Mod, ast.FloorDiv)),
    *((ast.Add, ast.Sub), (ast.Mult, ast.Div)),
)
SWAPS: dict[type, Any] = dict(_PAIRS) | {second: first for first, second in _PAIRS} | {ast.Pow: ast.Mult}


def changes_only_speed(node: ast.AST) -> bool:
    """Return whether a node is an expression with a constant in :data:`SPEED`, or assigns to one."""
    kinds = ast.BinOp | ast.Compare | ast.Assign
    names = (each.id for each in ast.walk(node) if isinstance(each, ast.Name))
    return isinstance(node, kinds) and not SPEED.keys().isdisjoint(names)


def code_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that compute: no annotations, decorators, error messages or typing-only imports."""
    for name, field in ast.iter_fields(node):
        for child in field if isinstance(field, list) else [field]:
            skipped = name in {"annotation", "returns", "decorator_list"}
            message = isinstance(child, ast.Raise | ast.JoinedStr)
            typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            if isinstance(child, ast.AST) and not (skipped or message or typing or changes_only_speed(child)):
                yield child
                yield from code_nodes(child)


def change(node: ast.AST) -> bool:
    """Change a node in place; return whether it can be changed."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS:
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value = 2 * node.value + 1
    else:
        return False
    return True


def mutants_of(path: Path) -> Iterator[tuple[Path, int]]:
    """Yield the path and the numbers of the nodes that can be changed."""
    for number, node in enumerate(code_nodes(ast.parse(path.read_text("utf-8")))):
        if change(copy.deepcopy(node)):
            yield path, number


def write_mutant(path: Path, number: int) -> tuple[str, str]:
    """Return the description and the source of a mutant."""
    tree = ast.parse(path.read_text("utf-8"))
    node = list(code_nodes(tree))[number]
    before = ast.unparse(node)
    change(node)
    place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
    return f"{place}: {before} -> {ast.unparse(node)}", ast.unparse(tree)


class Quickest:
    """Plugin of pytest that runs the quickest tests first; it measures them when it has no durations yet."""

    def __init__(self, path: Path) -> None:
        self.path, self.durations = path, Counter[str]()
        if path.exists():
            self.durations |= Counter(json.loads(path.read_text("utf-8")))

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort the tests."""
        items.sort(key=lambda item: self.durations[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the duration of a phase."""
        self.durations[report.nodeid] += report.duration  # type: ignore[assignment]

    def pytest_sessionfinish(self) -> None:
        """Keep the durations."""
        if not self.path.exists():
            self.path.write_text(json.dumps(self.durations), "utf-8")


def start_tests(mutant: tuple[Path, int] | None, durations: Path) -> int:
    """Run the tests in a fork, where the source of a module is that of the mutant; return its process id."""
    if child := os.fork():
        return child
    if mutant:
        path, (_, source) = mutant[0], write_mutant(*mutant)
        original = SourceFileLoader.get_code

        def get_code(self: SourceFileLoader, name: str) -> Any:
            return compile(source, path, "exec") if Path(self.path) == path else original(self, name)

        SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
        resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    status = 3
    try:
        tests = [str(ROOT / "tests" / "ensemble" / test) for test in TESTS]
        status = int(pytest.main([*OPTIONS, *tests], plugins=[Quickest(durations)]))
    finally:
        os._exit(status)


def main() -> None:
    """Test a sample of all mutants."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("modules", nargs="*", type=Path, default=MODULES)
    options = parser.parse_args()
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "_hypothesis_pytestplugin"}
    torch.set_num_threads(1)
    sys.dont_write_bytecode = False  # each fork reads the tests as pytest has rewritten them
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    durations = Path(tempfile.mkdtemp()) / "durations.json"
    if os.waitpid(start_tests(None, durations), 0)[1]:
        sys.exit("the tests fail without a change")
    found = [mutant for path in options.modules for mutant in mutants_of(path.resolve())]
    waiting = random.Random(options.seed).sample(found, min(options.mutants, len(found)))
    total, killed = Counter(path.name for path, *_ in waiting), Counter[str]()
    running: dict[int, tuple[Path, int]] = {}
    while waiting or running:
        while waiting and len(running) < options.jobs:
            running[start_tests(waiting[-1], durations)] = waiting.pop()
        child, status = os.wait()
        path, number = running.pop(child)
        killed[path.name] += status != 0
        print("." if status else f"\nsurvived: {write_mutant(path, number)[0]}", end="", flush=True)
    print()
    for name, count in sorted(total.items()):
        print(f"{killed[name]:4d} of {count:4d} killed in {name}")
    share = killed.total() / total.total()
    print(f"{killed.total()} of {total.total()} killed ({share:.0%}); there are {len(found)} mutants")
    sys.exit(share < GOAL)


if __name__ == "__main__":
    main()
