"""Which public names there are, and what their docstrings lack. Changes and shows nothing.

    python tools/site/sections.py

A name is public if a package lists it in ``__all__``, or if a guide imports it. Its docstring has to say what
goes in, what comes out, what is raised, and give an example.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import griffe

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("napari_ensir", "napari_ensir.restorers")
INNER = {"all_weights", "dense_rows", "field", "index", "lookup", "row_of"}
"""Members that other rooms of the package use, and nobody else."""

DOCUMENTED = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def documented() -> list[str]:
    """The names that the reference shows, in its order."""
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    return [name for page in pages for name in DOCUMENTED.findall(page.read_text(encoding="utf-8"))]


def lacks(package: griffe.Module) -> Iterator[str]:
    """A sentence for each thing that a documented name fails to say."""
    for name in documented():
        thing = package[name.partition(".")[2]]
        thing = thing.final_target if thing.is_alias else thing
        if not thing.has_docstring:
            yield f"{name} has no docstring."
        elif thing.is_function:
            yield from (f"{name} does not say: {what}." for what in unsaid(thing))
        elif thing.is_class:
            yield from (f"{name}.{sentence}" for sentence in methods_lack(thing))


def methods_lack(owner: griffe.Class) -> Iterator[str]:
    """The same for the methods that a class has of its own; a sentence is enough where nothing goes in."""
    for method in owner.functions.values():
        if method.name.startswith("_") or method.name in INNER:
            continue
        if not method.has_docstring:
            yield f"{method.name} has no docstring."
        elif not method.docstring.value.startswith("See "):  # another method's, which it overrides
            takes = len(method.parameters) > 1
            yield from (
                f"{method.name} does not say: {what}."
                for what in unsaid(method)
                if takes and what != "Examples"
            )


def unsaid(function: griffe.Function) -> Iterator[str]:
    """The sections that a function's docstring should have and has not."""
    sections = {section.kind.value: section.value for section in function.docstring.parse("numpy")}
    said = {parameter.name.lstrip("*") for parameter in sections.get("parameters", ())}
    takes = [parameter.name for parameter in function.parameters if parameter.name not in ("self", "cls")]
    if left := [name for name in takes if name not in said]:
        yield f"Parameters, of {', '.join(left)}"
    if str(function.returns) not in ("None", "NoReturn") and not {"returns", "yields"} & sections.keys():
        yield "Returns"
    if raises(function) and "raises" not in sections:
        yield "Raises"
    if "examples" not in sections:
        yield "Examples"


def raises(function: griffe.Function) -> bool:
    """Whether its own lines raise something."""
    return any(isinstance(node, ast.Raise) for node in ast.walk(ast.parse(dedent(function.source))))


def load() -> griffe.Module:
    """The package as it is installed, read and not run."""
    return griffe.load("napari_ensir", docstring_parser="numpy", try_relative_path=False)


if __name__ == "__main__":
    found = list(lacks(load()))
    print(*found, sep="\n")
    sys.exit(bool(found))
