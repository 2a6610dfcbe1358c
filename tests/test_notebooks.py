"""The notebooks run, and their stored outputs are current."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SITE = re.compile(r"https://napari-ensir\.github\.io/napari-ensir/([\w/-]*)")
SCORE = re.compile(r"^ *(.+?) +(\d+\.\d+) dB$", re.MULTILINE)
FULL_SIZE = "NAPARI_ENSIR_FULL_SIZE" in os.environ
"""Whether published_tables.ipynb runs on the authors' images, which takes half a minute."""
MODELS = ("MPRNet", "MAXIM", "Restormer")


@pytest.fixture
def executed(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.setenv("PYTHONWARNINGS", "")  # run_notebooks sets it; restored after the test
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    return importlib.import_module("run_notebooks").executed


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the text that each code cell printed or displayed."""
    said = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts = (o.get("text") or o.get("data", {}).get("text/markdown") for o in cell.outputs)
            said.append("".join(text for text in texts if text))
    return said


def scores_in(texts: list[str]) -> list[dict[str, float]]:
    """Return PSNR by name, for each cell that prints any."""
    return [{name: float(score) for name, score in SCORE.findall(text)} for text in texts if " dB" in text]


def standing_in(folder: Path) -> Path:
    """Make a folder like the authors' data, with four small images and one small table."""
    import torch

    from napari_ensir.files import write_image

    rng = np.random.default_rng(0)
    for place in ("gt", *MODELS):
        (folder / "deraining" / place).mkdir(parents=True)
    for name in ("1", "2", "3", "4"):
        truth = np.kron(rng.integers(20, 235, (8, 8, 3)), np.ones((8, 8, 1)))
        write_image(folder / "deraining" / "gt" / f"{name}.png", truth.astype(np.uint8))
        for model, sigma in zip(MODELS, (8, 9, 6), strict=True):
            image = np.clip(truth + rng.normal(0, sigma, truth.shape), 0, 255)
            write_image(folder / "deraining" / model / f"{name}.png", image.astype(np.uint8))
    edges = np.stack(np.meshgrid(*[np.arange(0, 256, 32)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    weights = torch.tensor([0.2, 0.3, 0.5])
    table = folder / "published_luts" / "weight_Rain100H_MPRNet_MAXIM_Restormer_b32_rgb.pth"
    table.parent.mkdir()
    torch.save({tuple(edge): [weights] * 3 for edge in edges.tolist()}, table)
    return folder


def test_two_exposures(executed, tmp_path):
    path = ROOT / "notebooks" / "two_exposures.ipynb"
    said = printed(executed(path, tmp_path))
    found, kept = (scores_in(texts) for texts in (said, printed(nbformat.read(path, as_version=4))))
    assert len(found) == 2
    for scores, before in zip(found, kept, strict=True):
        assert scores == pytest.approx(before, abs=0.05)  # for rounding on other machines
        ensemble = scores.pop("ensemble")
        assert ensemble > max(scores.values())
        assert 30 < ensemble < 35
    assert "seems to be the image that the candidates were restored from" in said[-1]


def test_published_tables(executed, tmp_path, monkeypatch, reference_folder_if_any):
    folder = (FULL_SIZE and reference_folder_if_any) or standing_in(tmp_path)
    monkeypatch.setenv("NAPARI_ENSIR_REFERENCE", str(folder))
    text = "\n".join(printed(executed(ROOT / "notebooks" / "published_tables.ipynb", tmp_path)))
    assert "Rain100H" in text
    assert "| Least squares, bin width 32 |" in text
    if folder == reference_folder_if_any:
        assert "Restormer 36.194 dB" in text
        assert "| Least squares, bin width 32 | ★ 36.284 | ★ 0.9602 |" in text
        assert "| EM (paper), bin width 32 | 36.023 | 0.9590 |" in text
        alike = re.findall(r"alike to 0.001: (\S+)% of rows, (\S+)% of pixels", text)
        assert len(alike) == 2
        assert all(float(rows) > 95 and float(pixels) > 99 for rows, pixels in alike)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_complete_and_small(path):
    assert path.stat().st_size < 300_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell.outputs) for cell in code) > len(code) / 2
    assert not [
        o for cell in code for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"
    ]
    assert "pip install" in code[0].source
    assert f"/github/napari-ensir/napari-ensir/blob/main/notebooks/{path.name})" in notebook.cells[0].source
    for page in SITE.findall("\n".join(cell.source for cell in notebook.cells)):
        place = page.strip("/")
        assert any((ROOT / home / f"{place}.md").exists() for home in (".", "docs")), page


def test_readme_links_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 2
    assert all(f"](notebooks/{path.name})" in text for path in NOTEBOOKS)
