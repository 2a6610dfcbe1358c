"""Outputs that share a place, or take that of an input: found out before anything is read or written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_ensir import EnsembleError, fit_lut, load_lut
from napari_ensir.cli.app import app
from napari_ensir.files import write_image


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    truth = np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)
    images = {"A": truth // 2 + 9, "B": truth // 3 + 5, "g": truth}
    for name, image in images.items():
        write_image(f"{name}.tif", image)
        Path(f"in{name}").mkdir()
        for stem in "xy":
            write_image(f"in{name}/{stem}.tif", image)
    Path("link.tif").symlink_to("A.tif")
    fit_lut([((images["A"], images["B"]), truth)], names=("A", "B"), device="cpu").save("l")
    return tmp_path


C = ["-c", "A=A.tif", "-c", "B=B.tif"]
F = ["-c", "A=inA", "-c", "B=inB"]
BLIND = ["blind", "A.tif", "-m", "median", "-m", "gaussian"]
SWEEP = ["sweep", "A.tif", "-m", "gaussian", "--setting", "sigma"]
APPLY = ["apply", "--lut", "l.lut.safetensors", "--overwrite"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            [*APPLY, *C, "-o", "o.tif", "--weight-maps", "./o.tif"],
            "--out and --weight-maps both lead to o",
        ),
        ([*APPLY, *C, "-o", "o.tif", "--json", "o.tif"], "--out and --json both lead to o.tif"),
        ([*APPLY, *C, "-o", "A.tif"], "--out leads to A.tif, which is read"),
        ([*APPLY, *C, "-o", "link.tif"], "--out leads to A.tif, which is read"),
        ([*APPLY, *C, "-o", "o.tif", "--json", "l.lut.safetensors"], "--json leads to l.lut.safetensors"),
        ([*APPLY, *F, "-o", "o", "--weight-maps", "o/"], "--out and --weight-maps both lead to o"),
        ([*APPLY, *F, "-o", "o", "--json", "o"], "--out and --json both lead to o"),
        ([*APPLY, *F, "-o", "o", "--json", "o/x.tif"], "--out and --json both lead to o/x.tif"),
        ([*APPLY, *F, "-o", "inA"], "--out leads to inA"),
        (
            ["fit", *C, "-t", "g.tif", "--json", "m.lut.safetensors", "-o", "m"],
            "--out and --json both lead to m",
        ),
        (["fit", *C, "-t", "g.tif", "-o", "."], "give the table a name in it"),
        (["fit", *C, "-t", "g.tif", "-o", "..", "--overwrite"], "give the table a name in it"),
        (["evaluate", *C, "-t", "g.tif", "--json", "A.tif", "--overwrite"], "--json leads to A.tif"),
        (["compare", *C, "-t", "g.tif", "--json", "g.tif", "--overwrite"], "--json leads to g.tif"),
        (
            ["info", "l.lut.safetensors", "--json", "l.lut.safetensors", "--overwrite"],
            "--json leads to l",
        ),
        (["info", "l.lut.safetensors", "--json", ".", "--overwrite"], "give a name in it"),
        (["restore", "A.tif", "-m", "median", "-o", "A.tif", "--overwrite"], "--out leads to A.tif"),
        (["restore", "inA", "-m", "median", "-o", "inA", "--overwrite"], "--out leads to inA"),
        ([*BLIND, "-o", "A.tif", "--overwrite"], "--out leads to A.tif"),
        ([*BLIND, "-o", "o.tif", "--save-lut", "m", "--json", "m.lut.safetensors"], "both lead to m.lut"),
        ([*BLIND, "-o", "g.tif"], "g.tif exists already"),
        ([*SWEEP, "-o", "g.tif"], "g.tif exists already"),
        ([*SWEEP, "--json", "A.tif", "--overwrite"], "--json leads to A.tif"),
    ],
)
def test_clashing_output_paths_are_refused(here, arguments, said):
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_outputs_in_one_folder_are_allowed(here):
    for arguments in (
        [*APPLY, *C, "-o", "o.tif", "--weight-maps", "w.tif", "--json", "o.json"],
        [*APPLY, *F, "-o", "o", "--weight-maps", "o/maps", "--json", "o/o.json"],
        ["restore", "inA", "-m", "median", "-m", "gaussian", "-o", "inA/restored"],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output


def test_a_table_needs_a_file_name(here):
    for path in (".", ".."):
        with pytest.raises(EnsembleError, match="give the table a name"):
            load_lut("l.lut.safetensors").save(path)
