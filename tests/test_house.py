"""How the house is built: one direction of dependence, a light front door, rooms of a size to be read."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "napari_ensir"
FILES = sorted(PACKAGE.rglob("*.py"))
TOOLKITS = ("napari", "qtpy", "magicgui", "superqt", "PyQt6", "PySide6", "vispy")
INNER = ("ensemble", "restorers")
OUTER = ("napari_ensir.viewer", "napari_ensir.cli")
HEAVY = ("dask", "matplotlib", "napari", "numba", "numpy", "qtpy", "scipy", "skimage", "torch", "zarr")
LOOSE = {"__init__.py", "devices.py", "errors.py", "settings.py"}
MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_FUNCTION = 70


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def imported(source: str, package: str) -> Iterator[tuple[str, str]]:
    """All that a module of a package imports, for typing and in functions too: from where, and in full."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            home = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((home, f"{home}.{alias.name}") for alias in node.names)


def imports(source: str, package: str) -> set[str]:
    """The names alone, with those of the modules that they come from."""
    return {name for pair in imported(source, package) for name in pair}


def imports_of(path: Path) -> set[str]:
    package = ".".join(["napari_ensir", *path.relative_to(PACKAGE).parts[:-1]])
    return imports(path.read_text(encoding="utf-8"), package)


def those_within(names: set[str], *packages: str) -> list[str]:
    return sorted(n for n in names for p in packages if n == p or n.startswith(f"{p}."))


def test_every_way_to_import_is_seen():
    source = "import a.b\nfrom c import d\nfrom . import e\nfrom ..viewer import f\ndef g():\n    import h\n"
    found = imports(source, "napari_ensir.ensemble")
    assert {"a.b", "c.d", "napari_ensir.ensemble.e", "napari_ensir.viewer.f", "h"} <= found
    assert those_within(found, "napari_ensir.viewer") == ["napari_ensir.viewer", "napari_ensir.viewer.f"]


@pytest.mark.parametrize("path", [p for p in FILES if room(p) in INNER], ids=name_of)
def test_inner_rooms_know_no_outer_ones(path):
    assert not those_within(imports_of(path), *TOOLKITS, *OUTER)


@pytest.mark.parametrize("path", [p for p in FILES if room(p) != "viewer"], ids=name_of)
def test_napari_and_qt_stay_in_the_viewer(path):
    assert not those_within(imports_of(path), *TOOLKITS, "napari_ensir.viewer")


@pytest.mark.parametrize("path", [p for p in FILES if room(p) == "ensemble"], ids=name_of)
def test_ensemble_knows_no_restorers(path):
    assert not those_within(imports_of(path), "napari_ensir.restorers")


@pytest.mark.parametrize("path", [p for p in FILES if room(p) == "viewer"], ids=name_of)
def test_viewer_knows_no_command_line(path):
    assert not those_within(imports_of(path), "napari_ensir.cli")


def module_name(path: Path) -> str:
    """What a file is imported as; a package's ``__init__`` as the package."""
    parts = ["napari_ensir", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def known_of(source: str, package: str, modules: set[str]) -> set[str]:
    """Which of these modules a source imports: the module itself, not the packages that it lies in."""
    pairs = imported(source, package)
    return {name if name in modules else home for home, name in pairs} & modules


def a_circle(known: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring, or nothing."""
    rest = dict(known)
    while leaves := [name for name, others in rest.items() if not others & rest.keys()]:
        for name in leaves:
            del rest[name]
    ring: list[str] = []
    name = next(iter(rest), "")
    while rest and name not in ring:
        ring.append(name)
        name = min(rest[name] & rest.keys())
    return ring[ring.index(name) :] if ring else []


def test_a_circle_is_seen():
    assert a_circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert a_circle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d"]
    modules = {"p", "p.a", "p.b"}
    assert known_of("from p.a import x\nfrom p import b\n", "p", modules) == {"p.a", "p.b"}
    assert known_of("from p.a import x\ndef f():\n    from p import y\n", "p", modules) == {"p", "p.a"}


def test_no_two_files_know_each_other():
    """Be it through others, for typing only or in a function: then a third thing is missing."""
    modules = {module_name(path) for path in FILES}
    known = {}
    for path in FILES:
        package = ".".join(["napari_ensir", *path.relative_to(PACKAGE).parts[:-1]])
        known[module_name(path)] = known_of(path.read_text(encoding="utf-8"), package, modules)
    assert a_circle(known) == []


def test_no_file_lies_loose():
    assert {path.name for path in PACKAGE.glob("*.py")} <= LOOSE


@pytest.mark.parametrize("module", ["napari_ensir", "napari_ensir.restorers", "napari_ensir.ensemble"])
def test_front_doors_load_nothing_heavy(module):
    code = f"import sys, {module}; print(*(set({HEAVY!r}) & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


def test_the_numbers_load_no_viewer_and_no_optional_library():
    optional = ("dask", "matplotlib", "napari", "numba", "qtpy", "zarr", "sklearn")
    code = f"import sys; from napari_ensir import fit_lut; print(*(set({optional!r}) & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_fit_on_a_few_screens(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < MOST_LINES_OF_A_FILE


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef, source: list[str]) -> int:
    """Lines of a function that are neither its docstring nor blank."""
    docstring = range(0)
    if ast.get_docstring(function) is not None:
        docstring = range(function.body[0].lineno, function.body[0].end_lineno + 1)
    span = range(function.lineno, function.end_lineno + 1)
    return sum(bool(source[n - 1].strip()) for n in span if n not in docstring)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_fit_on_a_screen(path):
    text = path.read_text(encoding="utf-8")
    sizes = {
        node.name: lines_of(node, text.splitlines())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: n for name, n in sizes.items() if n >= MOST_LINES_OF_A_FUNCTION}
