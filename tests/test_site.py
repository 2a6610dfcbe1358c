"""The documentation site has every public name, with complete docstrings and valid links."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import griffe
import pytest

ROOT = Path(__file__).resolve().parents[1]
IMPORT = re.compile(r"^from (napari_ensir[\w.]*) import ([^(\n]+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def site():
    """Import the modules of tools/site/ as mkdocs does."""
    sys.path.insert(0, str(ROOT / "tools" / "site"))
    yield {name: importlib.import_module(name) for name in ("sections", "docstrings", "pages")}
    sys.path.pop(0)


def resolved(name: str) -> object:
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def test_every_public_name_is_in_the_reference(site):
    shown = [resolved(name) for name in site["sections"].documented()]
    wanted = {
        f"{package}.{name}"
        for package in site["sections"].PACKAGES
        for name in importlib.import_module(package).__all__
    }
    wanted |= {
        f"napari_ensir.restorers.classical.{kind.__name__}"
        for kind in resolved("napari_ensir.restorers.CLASSICAL").values()
    }
    for guide in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        found = IMPORT.findall(guide.read_text(encoding="utf-8"))
        wanted |= {f"{module}.{name.strip()}" for module, names in found for name in names.split(",")}
    assert len(wanted) > 40
    assert not [name for name in sorted(wanted) if not any(resolved(name) is one for one in shown)]


def test_no_name_is_shown_twice(site):
    names = site["sections"].documented()
    assert len(set(names)) == len(names)


def test_docstrings_are_complete(site):
    assert list(site["sections"].lacks(site["sections"].load())) == []


def test_incomplete_docstrings_are_reported(site, monkeypatch, tmp_path):
    code = '''
def bare(x): return x
def poor(x: int, *, y: int = 0) -> int:
    """Say little.

    Parameters
    ----------
    x
        A number.
    """
    raise ValueError
class Thing:
    """One."""
    def method(self, z) -> None:
        """Do it."""
    def other(self, z) -> None:
        """See :class:`Base`."""
'''
    (tmp_path / "package.py").write_text(code, encoding="utf-8")
    package = griffe.load("package", search_paths=[tmp_path])
    monkeypatch.setattr(
        site["sections"], "documented", lambda: ["package.bare", "package.poor", "package.Thing"]
    )
    assert list(site["sections"].lacks(package)) == [
        "package.bare has no docstring.",
        "package.poor does not say: Parameters, of y.",
        "package.poor does not say: Returns.",
        "package.poor does not say: Raises.",
        "package.poor does not say: Examples.",
        "package.Thing.method does not say: Parameters, of z.",
    ]


def test_roles_become_links_and_settings_get_descriptions(site, tmp_path):
    code = '''
class WeightLUT:
    """Made by :func:`~napari_ensir.fit_lut`; :meth:`apply` and :mod:`.bins`."""
    def apply(self):
        """Combine."""
    width: int = setting(3, title="Width", description="How wide.")
'''
    (tmp_path / "lut.py").write_text(code, encoding="utf-8")
    seen = griffe.Extensions(site["docstrings"].Docstrings())
    package = griffe.load("lut", search_paths=[tmp_path], extensions=seen)
    said = package["WeightLUT"].docstring.value
    assert "[`fit_lut`][napari_ensir.fit_lut]; [`apply`][napari_ensir.WeightLUT.apply] and `bins`." in said
    width = package["WeightLUT.width"]
    assert (width.docstring.value, str(width.value)) == ("How wide.", "3")


@pytest.mark.parametrize(
    ("prose", "led"),
    [
        ("[a](docs/first-steps.md#x)", "[a](docs/first-steps.md#x)"),
        ("[a](LICENSE)", "[a](https://us/blob/main/LICENSE)"),
        ("[a](b/c.ipynb)", "[a](b/c.md)"),
        ("[a](nowhere)", "[a](nowhere)"),
        ("[a](https://b/LICENSE)", "[a](https://b/LICENSE)"),
        ("# T\n\n[![b](https://c.svg)](https://d)\nText", "# T\n\n[b](https://d)\n\nText"),
    ],
)
def test_links_point_to_pages_or_to_the_repository(site, prose, led):
    assert site["pages"].led(prose, "README.md", {"docs/first-steps.md", "b/c.md"}, "https://us") == led


@pytest.mark.parametrize(
    "tag",
    [
        '<img src="https://a">',
        '<script defer src="http://a">',
        '<link href="//a" rel="stylesheet">',
        '<link rel="preconnect" href="https://a">',
    ],
)
def test_external_resources_are_found(site, tag):
    assert site["pages"].FETCHED.search(tag)
    assert not site["pages"].FETCHED.search(
        tag.replace("https:/", "").replace("http:/", "").replace("//", "/")
    )
    assert not site["pages"].FETCHED.search('<a href="https://a"> <link rel="canonical" href="https://a">')
