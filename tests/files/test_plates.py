"""OME-Zarr plates and wells: sets of images that are named by row, column and field."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_ensir import EnsembleError
from napari_ensir.files.image import open_image, write_image
from napari_ensir.files.zarr import ZarrImage
from tests.helpers.commands import invoke as run

WELLS = ("A/1", "A/2", "B/1")
OME = {
    "axes": [{"name": name, "type": "space"} for name in "yx"],
    "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}],
}


def group(path, ome, version=3):
    """Write the metadata of a group in the form of OME-Zarr 0.5, or of 0.4."""
    path.mkdir(parents=True, exist_ok=True)
    if version == 3:
        text = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", **ome}}}
        (path / "zarr.json").write_text(json.dumps(text))
    else:
        (path / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
        (path / ".zattrs").write_text(json.dumps(ome))


def clean_image(seed):
    y, x = np.mgrid[:32, :32]
    return 120 + 60 * np.sin(x / 5 + seed) * np.cos(y / 7)


def make_plate(path, sigma, seed, version=3):
    """A plate of three wells with two fields each."""
    group(path, {"plate": {"wells": [{"path": well} for well in WELLS]}}, version)
    for number, well in enumerate(WELLS):
        group(path / well, {"well": {"images": [{"path": "0"}, {"path": "1"}]}}, version)
        for field in range(2):
            noise = np.random.default_rng([seed, number, field]).normal(0, sigma, (32, 32))
            image = np.clip(clean_image(number + field) + noise, 0, 255).astype(np.uint8)
            inner = path / well / f"{field}.zarr"
            write_image(inner, image, like=ZarrImage(None, (32, 32), OME))
            inner.rename(path / well / str(field))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Plates of two candidates and of the ground truth."""
    monkeypatch.chdir(tmp_path)
    for name, sigma, seed in (("A", 6, 1), ("B", 12, 2), ("truth", 0, 3)):
        make_plate(tmp_path / f"{name}.zarr", sigma, seed, version=2 if name == "B" else 3)
    return tmp_path


def scores(*arguments):
    return json.loads(run("evaluate", *arguments, "--json", "-").stdout)["rows"]


NAMES = ["A_1_0", "A_1_1", "A_2_0", "A_2_1", "B_1_0", "B_1_1"]
GIVEN = ["-c", "A=A.zarr", "-c", "B=B.zarr"]


def test_plates_are_fitted_combined_and_scored(here):
    run("fit", *GIVEN, "-t", "truth.zarr", "-o", "table", "--method", "least-squares")
    table = "table.lut.safetensors"
    run("apply", "--lut", table, *GIVEN, "-o", "out")
    assert sorted(path.name for path in (here / "out").iterdir()) == [f"{name}.ome.zarr" for name in NAMES]
    made = open_image("out/B_1_1.ome.zarr")
    assert made.ome["datasets"][0]["coordinateTransformations"][0]["scale"] == [0.5, 0.5]
    rows = json.loads(run("evaluate", "--lut", table, *GIVEN, "-t", "truth.zarr", "--json", "-").stdout)[
        "rows"
    ]
    assert list(rows[0]["images"]) == NAMES
    assert rows[2]["psnr"] > rows[0]["psnr"] > rows[1]["psnr"]
    wells = ["-c", "A=A.zarr/A/1", "-c", "B=B.zarr/A/1", "-t", "truth.zarr/A/1"]
    assert list(scores(*wells)[0]["images"]) == ["0", "1"]


def test_a_plate_is_restored_and_described(here):
    run(
        "blind", "A.zarr", "-m", "median", "-m", "gaussian", "--offsets", 1, "-o", "better", "--device", "cpu"
    )
    assert len(list((here / "better").iterdir())) == 6
    found = json.loads(run("info", "A.zarr", "--json", "-").stdout)
    assert found == {"images": NAMES, "shape": [32, 32], "dtype": "uint8"}
    assert "6: A_1_0, A_1_1" in run("info", "A.zarr").stdout
    with pytest.raises(EnsembleError, match=r"holds 6 images; give the path of one, such as A.zarr/A/1/0"):
        open_image("A.zarr")


@pytest.mark.parametrize(
    ("plate", "said"),
    [
        ({"wells": [{"path": "../B.zarr/A/1"}]}, "which is not a path within it"),
        ({"wells": [{"path": "A/9"}]}, "could not be read as Zarr"),
        ({"wells": 5}, "could not be read as Zarr"),
        ({"rows": []}, "could not be read as Zarr"),
    ],
)
def test_damaged_plates_are_refused(here, plate, said):
    group(here / "A.zarr", {"plate": plate})
    assert said in run("restore", "A.zarr", "-m", "median", "-o", "out", status=1).stderr


def test_plates_of_other_wells_are_refused(here):
    group(here / "B.zarr", {"plate": {"wells": [{"path": "A/1"}]}}, version=2)
    said = run("evaluate", *GIVEN, "-t", "truth.zarr", status=1).stderr
    assert "has no image A_2_0, A_2_1, B_1_0, B_1_1" in said
