"""The commands that score images: ``evaluate`` and warnings of ``fit`` and ``apply``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_ensir.cli.app import app
from napari_ensir.files import read_image, write_image
from tests.helpers.commands import run_both as run

RNG = np.random.default_rng(8)


@pytest.fixture
def write(tmp_path):
    """Writes images of given names and says where."""

    def write_all(**images):
        return {name: write_image(tmp_path / f"{name}.tif", image) for name, image in images.items()}

    return write_all


def noisy(truth, sigma):
    limits = np.iinfo(truth.dtype)
    return np.clip(truth + RNG.normal(0, sigma, truth.shape), limits.min, limits.max).astype(truth.dtype)


@pytest.mark.parametrize("name", ["ensemble", "the ground truth", "Part.TRUTH", "average", "em"])
def test_a_candidate_may_have_any_name(write, tmp_path, name):
    truth = RNG.integers(0, 256, (32, 32), np.uint8)
    paths = write(a=noisy(truth, 3), b=noisy(truth, 9), truth=truth)
    given = ["-c", f"{name}={paths['a']}", "-c", f"B={paths['b']}", "-t", paths["truth"]]
    run("fit", *given, "-o", tmp_path / "x")
    table = ["--lut", tmp_path / "x.lut.safetensors"]
    rows = json.loads(run("evaluate", *given, *table, "--json", "-")[0])["rows"]
    assert [(row["name"], row["role"]) for row in rows] == [
        (name, "candidate"),
        ("B", "candidate"),
        ("ensemble", "ensemble"),
    ]
    assert rows[0]["psnr"] > rows[2]["psnr"] - 3 > rows[1]["psnr"] - 3
    assert "by x.lut.safetensors" in run("evaluate", *given, *table)[0]


def scores(*arguments):
    """What evaluate finds, as JSON."""
    return json.loads(run("evaluate", *arguments, "--json", "-")[0])


def test_a_score_does_not_depend_on_other_images_or_tables(write, tmp_path):
    """Neither a table, nor a hot pixel in another candidate, nor the order changes it."""
    dim, bright = (RNG.integers(100, top, (128, 128), np.uint16) for top in (2000, 2200))
    learned = write(a=noisy(dim, 20), b=noisy(dim, 60), t=dim)
    options = ["--method", "least-squares", "--data-range", 0, 1800, "-q"]
    run(
        "fit",
        "-c",
        f"A={learned['a']}",
        "-c",
        f"B={learned['b']}",
        "-t",
        learned["t"],
        "-o",
        tmp_path / "x",
        *options,
    )
    hot = noisy(bright, 60)
    hot[3, 4] = 65535
    paths = write(a2=noisy(bright, 20), b2=noisy(bright, 60), hot=hot, t2=bright)
    a, truth = ["-c", f"A={paths['a2']}"], ["-t", paths["t2"]]
    table = ["--lut", tmp_path / "x.lut.safetensors"]
    found = [
        scores(*a, *truth),
        scores(*a, "-c", f"B={paths['b2']}", *truth, *table),
        scores(*a, "-c", f"B={paths['hot']}", *truth),
        scores("-c", f"B={paths['hot']}", *a, *truth),
    ]
    rows = [row for one in found for row in one["rows"] if row["name"] == "A"]
    assert len({(row["psnr"], row["ssim"]) for row in rows}) == 1
    peak = float(np.ptp(bright))
    error = np.mean((bright - noisy_file(paths["a2"])) ** 2)
    assert rows[0]["psnr"] == pytest.approx(10 * np.log10(peak**2 / error))
    assert found[0]["settings"]["peak"] == peak
    assert found[0]["settings"]["data_range_from"] == "truth"
    assert f"The peak of PSNR is {peak:g} (from 100 to 2199" in run("evaluate", *a, *truth)[0]
    given = scores(*a, *truth, "--data-range", 0, 4095)["settings"]
    assert (given["peak"], given["data_range_from"]) == (4095, "given")


def noisy_file(path):
    return np.asarray(read_image(path)).astype(float)


def test_failed_images_do_not_change_the_peak(tmp_path):
    for stem, top in (("p", 1000), ("q", 3000)):
        truth = RNG.integers(0, top, (40, 40), np.uint16)
        for name, image in (("gt", truth), ("A", noisy(truth, 30))):
            (tmp_path / name).mkdir(exist_ok=True)
            write_image(tmp_path / name / f"{stem}.tif", image)
    given = ["-c", f"A={tmp_path / 'A'}", "-t", tmp_path / "gt"]
    whole = scores(*given)
    assert whole["settings"]["peak"] > 2900
    (tmp_path / "A" / "q.tif").write_bytes(b"no image")
    result = CliRunner().invoke(app, ["evaluate", *map(str, given), "--json", "-"])
    assert result.exit_code == 1
    assert "image q: " in result.stderr
    part = json.loads(result.stdout)
    assert part["settings"]["peak"] == whole["settings"]["peak"]
    assert part["rows"][0]["images"] == {"p": whole["rows"][0]["images"]["p"]}


def test_excluded_pixels_are_counted(write):
    truth = RNG.uniform(0, 1, (40, 40)).astype(np.float32)
    holed = truth + np.float32(0.1)
    holed[:20] = np.nan
    paths = write(
        a=holed, b=truth + np.where(np.arange(40) < 20, 9, 0.2).astype(np.float32)[:, None], t=truth
    )
    arguments = ["-c", f"A={paths['a']}", "-c", f"B={paths['b']}", "-t", paths["t"]]
    found = scores(*arguments)
    assert found["settings"]["not_finite"] == 800
    near, far = (row["psnr"] for row in found["rows"])
    assert near - far == pytest.approx(20 * np.log10(2), abs=1e-4)
    assert (
        "800 pixels are NaN or infinite in a candidate or the ground truth" in run("evaluate", *arguments)[0]
    )


def test_warnings_are_printed_on_stderr_and_written_to_json(write, tmp_path):
    truth = RNG.integers(0, 256, (64, 64), np.uint8)
    paths = write(a=noisy(truth, 3), b=np.roll(noisy(truth, 3), 1, axis=0), t=truth)
    given = ["-c", f"A={paths['a']}", "-c", f"B={paths['b']}", "-t", paths["t"]]
    sentence = 'candidate "B": shifted by 1 pixel down against the ground truth; align them (--align).'
    for command in ("evaluate", "fit"):
        more = ["-o", tmp_path / "x"] if command == "fit" else []
        out, said = run(command, *given, *more, "--json", "-")
        assert said == f"napari-ensir: warning: {sentence}\n"
        assert json.loads(out)["warnings"] == [sentence]
    wide = write(a16=truth.astype(np.uint16) * 250, b16=truth.astype(np.uint16) * 250)
    table = ["--lut", tmp_path / "x.lut.safetensors", "-o", tmp_path / "o.tif", "--json", "-"]
    out, said = run("apply", "-c", f"A={wide['a16']}", "-c", f"B={wide['b16']}", *table)
    (sentence,) = json.loads(out)["warnings"]
    assert said == f"napari-ensir: warning: {sentence}\n"
    assert "another exposure" in sentence


@pytest.mark.parametrize("noise", [(), ("--truth-noise", "unknown")])
def test_resolutions_by_ring_correlation_are_reported_on_request(write, noise):
    truth = RNG.normal(100, 30, (48, 48)).astype(np.float32)
    paths = write(a=truth + RNG.normal(0, 3, truth.shape).astype(np.float32), b=truth[::-1], truth=truth)
    given = ["-c", f"a={paths['a']}", "-c", f"b={paths['b']}", "-t", paths["truth"], *noise]
    found = scores(*given, "--frc")
    resolutions = {row["name"]: row["resolution"] for row in found.get("resolutions", found["rows"])}
    assert resolutions["a"] == 2
    assert resolutions["b"] is None or resolutions["b"] > 2  # None: not resolved
    assert "resolution, pixels" in run("evaluate", *given, "--frc")[0]
    assert "resolution" not in run("evaluate", *given)[0]
