"""Files as programs name and write them: patterns, folders of folders, alpha channels, channel axes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_ensir import load_lut
from napari_ensir.files import read_image, write_image
from tests.helpers.commands import run_both as run

RNG = np.random.default_rng(0)


def names_and_images(*arguments):
    """Names of the rows, and stems of the images, that evaluate scores."""
    rows = json.loads(run("evaluate", *arguments, "--json", "-")[0])["rows"]
    return [row["name"] for row in rows], list(rows[0]["images"])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two images in gt, near and far; those of far have a suffix, and beside has all of them."""
    monkeypatch.chdir(tmp_path)
    for stem in ("x", "y"):
        truth = RNG.integers(20, 230, (32, 40, 3)).astype(np.uint8)
        for folder, name, sigma in (("gt", "", 0), ("near", "", 5), ("far", "_out", 9)):
            image = np.clip(truth + RNG.normal(0, sigma, truth.shape), 0, 255).astype(np.uint8)
            for place in (f"{folder}/{stem}{name}", f"all/{folder}/{stem}", f"beside/{stem}{name}"):
                (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
                write_image(f"{place}.png", image, overwrite=True)
    shutil.copytree("near", "mixed")
    shutil.copytree("near", "mixed/previews")  # a folder that holds images is one candidate
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["-c", "A=near", "-c", "B=far/{stem}_out.png", "-t", "gt"], ["A", "B"]),
        (["-c", "A=near/*.png", "-t", "gt/{stem}.png"], ["A"]),
        (["-c", "B=beside/{stem}_out.png", "-t", "beside/{stem}.png"], ["B"]),
        (["-c", "B=beside/*_out.png", "-t", "beside/*.png"], ["B"]),
        (["-c", "all", "-t", "all/gt"], ["far", "near"]),
        (["-c", "near", "-t", "gt"], ["near"]),
        (["-c", "mixed", "-t", "gt"], ["mixed"]),
    ],
)
def test_images_are_matched_by_patterns_and_folders(here, arguments, names):
    assert names_and_images(*arguments) == (names, ["x", "y"])


def test_a_pattern_without_images_is_refused(here):
    said = run("evaluate", "-c", "A=near/{stem}_out.png", "-t", "gt", status=1)[1]
    assert 'near/{stem}_out.png (candidate "A") matches no image' in said


def test_several_files_are_restored(here):
    run("restore", "near/x.png", "near/y.png", "-m", "median", "-o", "some")
    run("restore", "near/*.png", "-m", "median", "-o", "pattern")
    for stem in ("x", "y"):
        np.testing.assert_array_equal(read_image(f"some/{stem}.png"), read_image(f"pattern/{stem}.png"))


@pytest.mark.parametrize("end", [".png", ".tif"])
def test_an_opaque_alpha_channel_is_left_out_with_a_note(here, end):
    for stem in ("x", "y"):
        image = read_image(f"near/{stem}.png")
        for folder, alpha in (("opaque", 255), ("thin", 99)):
            (here / folder).mkdir(exist_ok=True)
            whole = np.dstack([image, np.full(image.shape[:2], alpha, np.uint8)])
            if end == ".png":
                Image.fromarray(whole).save(f"{folder}/{stem}.png")
            else:
                tifffile.imwrite(
                    f"{folder}/{stem}.tif", whole, photometric="rgb", extrasamples=["unassalpha"]
                )
    out, said = run("evaluate", "-c", "A=opaque", "-t", "gt", "--json", "-")
    assert said == f"napari-ensir: the alpha channel of opaque/x{end} is opaque and is left out.\n"
    plain = json.loads(run("evaluate", "-c", "A=near", "-t", "gt", "--json", "-")[0])
    assert json.loads(out)["rows"] == plain["rows"]
    np.testing.assert_array_equal(read_image(f"opaque/x{end}"), read_image("near/x.png"))
    said = run("evaluate", "-c", "A=thin", "-t", "gt", status=1)[1]
    assert "no image could be read" in said
    assert "has an alpha channel" in said


@pytest.mark.parametrize(("end", "axes"), [(".tif", "CYX"), (".ome.tif", "ZCYX")])
def test_the_axis_that_files_name_channels_is_used(tmp_path, monkeypatch, end, axes):
    monkeypatch.chdir(tmp_path)
    truth = RNG.integers(0, 4000, (2, 3, 40, 40)[-len(axes) :])
    for name, sigma in (("truth", 0), ("near", 50), ("far", 90)):
        image = np.clip(truth + RNG.normal(0, sigma, truth.shape), 0, 65535).astype(np.uint16)
        tifffile.imwrite(f"{name}{end}", image, imagej=end == ".tif", metadata={"axes": axes})
    given = ["-c", f"A=near{end}", "-c", f"B=far{end}", "-t", f"truth{end}", "--method", "least-squares"]
    axis = axes.index("C")
    assert f"axis {axis} holds the channels" in run("fit", *given, "-o", "named")[1]
    assert run("fit", *given, "-o", "given", "--channel-axis", axis)[1] == ""
    assert run("fit", *given, "-o", "pooled", "--pool-channels")[1] == ""
    tables = [load_lut(f"{name}.lut.safetensors") for name in ("named", "given", "pooled")]
    assert [table.n_channels for table in tables] == [3, 3, 1]
    np.testing.assert_array_equal(tables[0].weights, tables[1].weights)


def test_blind_goes_on_without_an_image_that_cannot_be_read(here):
    path = here / "near" / "y.png"
    path.write_bytes(path.read_bytes()[:300])
    said = run("blind", "near", "-m", "median", "-m", "gaussian", "--offsets", 1, "-o", "out", status=1)[1]
    assert "image y: " in said
    assert [one.name for one in (here / "out").iterdir()] == ["x.png"]


def test_lines_of_info_are_not_padded(here):
    run("fit", "-c", "near", "-c", "B=far/{stem}_out.png", "-t", "gt", "-o", "table")
    out = run("info", "table.lut.safetensors")[0]
    assert "\nmethod choice" in out
    assert "{" not in out
    assert not [line for line in out.splitlines() if line != line.rstrip()]
