"""The gallery shows what its script makes, and nothing large."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURE = re.compile(r"!\[[^\]]+\]\(gallery/([^)]+)\)")


def test_every_picture_is_shown_and_small():
    shown = PICTURE.findall((DOCS / "gallery.md").read_text(encoding="utf-8"))
    pictures = {path.name: path.stat().st_size for path in (DOCS / "gallery").iterdir()}
    assert sorted(shown) == sorted(pictures)
    assert max(pictures.values()) < 150_000


def test_figures_are_those_of_the_script(monkeypatch):
    """Of one case, the least work of all; up to what another machine rounds."""
    monkeypatch.syspath_prepend(DOCS)
    gallery = importlib.import_module("make_gallery")
    case = gallery.CASES["coins"]()
    scores = gallery.score_images(case)
    text = (DOCS / "gallery.md").read_text(encoding="utf-8").split("<!-- case coins -->")[1]
    found = dict(re.findall(r"!\[([^\]]+), (\d+\.\d+) dB\]", text))
    found |= dict(re.findall(r"(average) (\d+\.\d+)\.$", text, re.MULTILINE))
    assert found.keys() == scores.keys()
    for name, said in found.items():
        assert scores[name] == pytest.approx(float(said), abs=0.05), name
    assert case.expected.shape == case.truth.shape
