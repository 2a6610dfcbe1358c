"""Commands that go on with a folder of outputs: what is kept, what is made anew, and what is refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from napari_ensir import fit_lut
from napari_ensir.files import read_image, write_image
from tests.helpers.commands import invoke as run


def noisy_image(seed):
    return np.random.default_rng(seed).normal(100, 20, (32, 32)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Folders A and B with the images x and y, and a table that combines A and B."""
    monkeypatch.chdir(tmp_path)
    for folder, seed in (("A", 1), ("B", 2)):
        (tmp_path / folder).mkdir()
        for stem in "xy":
            write_image(f"{folder}/{stem}.tif", noisy_image(seed + ord(stem)))
    pair = ([noisy_image(1), noisy_image(2)], noisy_image(3))
    fit_lut([pair], names=("A", "B"), method="least-squares", device="cpu").save("table")
    return tmp_path


COMMANDS = {
    "restore": ["restore", "A", "-m", "median", "--out", "out"],
    "blind": [
        *("blind", "A", "-m", "median", "-m", "gaussian", "--offsets", 1, "--device", "cpu"),
        *("--out", "out", "--save-lut", "learned"),
    ],
    "apply": ["apply", "--lut", "table.lut.safetensors", "-c", "A=A", "-c", "B=B", "--out", "out"],
}


def assert_all_kept(output):
    assert "0 written to out" in output
    assert output.endswith("\n2 were there already.\n")


def change(path):
    write_image(path, noisy_image(9), overwrite=True)
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("name", COMMANDS)
def test_outputs_of_unchanged_files_are_kept(here, name):
    command = COMMANDS[name]
    run(*command)
    before = {stem: (here / "out" / f"{stem}.tif").read_bytes() for stem in "xy"}
    said = run(*command, status=1).stderr
    assert "exists already" in said
    assert "With --resume, outputs that were made in the same way are kept." in said
    assert_all_kept(run(*command, "--resume").output)
    (here / "out" / "x.tif").unlink()
    change("A/y.tif")
    which = "A" if name == "apply" else "image"
    results = json.loads(run(*command, "--resume", "--json", "-").stdout)
    assert results["redone"] == {"y": [which]}
    assert sorted(results["written"]) == ["x", "y"]
    assert (results["kept"], results["failed"]) == ({}, {})
    after = {stem: (here / "out" / f"{stem}.tif").read_bytes() for stem in "xy"}
    assert after["y"] != before["y"]
    assert bool(results["warnings"]) == (name == "blind")  # its table is older than y
    assert_all_kept(run(*command, "--resume").output)


@pytest.mark.parametrize(
    ("name", "more"),
    [("restore", ["--set", "median.size=5"]), ("restore", ["--dtype", "float32"]), ("apply", ["--align"])],
)
def test_outputs_that_were_made_otherwise_are_not_kept(here, name, more):
    run(*COMMANDS[name])
    before = {stem: read_image(f"out/{stem}.tif") for stem in "xy"}
    said = run(*COMMANDS[name], *more, "--resume", status=1).stderr
    assert said.count("was made from other images, or with other restorers or settings") == 2
    for stem, image in before.items():
        np.testing.assert_array_equal(read_image(f"out/{stem}.tif"), image)
    assert "2 written" in run(*COMMANDS[name], *more, "--resume", "--overwrite").output


def test_a_table_learned_otherwise_is_not_used(here):
    run(*COMMANDS["blind"])
    said = run(*COMMANDS["blind"], "--resume", "--set", "gaussian.sigma=3", status=1).stderr
    assert "learned.lut.safetensors was learned with other restorers or settings" in said
    assert "--resume needs --save-lut" in run(*COMMANDS["blind"][:-2], "--resume", status=1).stderr


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_outputs_of_a_network_that_changed_are_not_kept(here):
    torch.jit.trace(torch.nn.AvgPool2d(3, 1, 1), torch.zeros(1, 1, 16, 16)).save("mine.pt")
    network = ["--network", "mine.pt", "--device", "cpu"]
    restore = ["restore", "A", *network, "--out", "out2"]
    blind = [*COMMANDS["blind"], *network]
    for command in (restore, blind):
        run(*command)
        assert_all_kept(run(*command, "--resume").output)
    os.utime("mine.pt", ns=(0, 0))
    said = run(*restore, "--resume", status=1).stderr
    assert said.count("was made from other images, or with other restorers or settings") == 2
    assert "was learned with other restorers" in run(*blind, "--resume", status=1).stderr
