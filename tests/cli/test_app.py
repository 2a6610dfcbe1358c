from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from importlib.metadata import version

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_ensir import fit_lut, load_lut
from napari_ensir.cli.app import app
from napari_ensir.files import read_image, write_image
from tests.helpers.commands import run

RNG = np.random.default_rng(3)
STEMS = ("a", "b", "c")


@pytest.fixture(autouse=True)
def _same_images_in_any_order(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "RNG", np.random.default_rng(3))


def make_images(shape=(40, 50), dtype=np.uint8):
    truth = RNG.uniform(20, 220, shape)
    truth = (truth + np.roll(truth, 1, 0) + np.roll(truth, 1, 1)) / 3
    scale = 1 if np.dtype(dtype).itemsize == 1 else 200
    near, far = (truth + RNG.normal(0, sigma, shape) for sigma in (4, 9))
    return {
        name: (image.clip(0, 255) * scale).astype(dtype)
        for name, image in (("near", near), ("far", far), ("truth", truth))
    }


@pytest.fixture
def folders(tmp_path):
    for stem in STEMS:
        for name, image in make_images((40, 50, 3)).items():
            (tmp_path / name).mkdir(exist_ok=True)
            write_image(tmp_path / name / f"{stem}.png", image)
    return tmp_path


def candidates(folder, end=""):
    return ["-c", f"near={folder}/near{end}", "-c", f"far={folder}/far{end}"]


@pytest.fixture
def fitted(folders):
    out = ["-o", folders / "two.lut.safetensors", "--method", "least-squares"]
    run("fit", *candidates(folders), "-t", folders / "truth", *out)
    return folders


# -- the way through ----------------------------------------------------------------------------------


def test_warnings_of_a_fit_are_printed_on_stderr(folders):
    (folders / "flat").mkdir()
    for stem in STEMS:
        write_image(folders / "flat" / f"{stem}.png", np.full((40, 50, 3), 90, np.uint8))
    arguments = [*candidates(folders), "-c", f"flat={folders}/flat", "-t", folders / "truth", "--quiet"]
    arguments += ["--method", "em"]
    result = CliRunner().invoke(app, ["fit", *map(str, arguments), "-o", str(folders / "three")])
    assert result.exit_code == 0
    assert 'candidate "flat": constant (every examined pixel is 90)' in result.stderr
    assert result.stderr.count("EM has no solution in") == 1


def test_fit_apply_evaluate_on_folders(fitted):
    lut = fitted / "two.lut.safetensors"
    references = [
        (
            [read_image(fitted / name / f"{stem}.png") for name in ("near", "far")],
            read_image(fitted / "truth" / f"{stem}.png"),
        )
        for stem in STEMS
    ]
    expected = fit_lut(references, ("near", "far"), method="least-squares")
    loaded = load_lut(lut)
    assert loaded.names == ("near", "far")
    np.testing.assert_array_equal(loaded.weights, expected.weights)

    # In another order on the command line: names count, not places.
    out = ["-o", fitted / "out", "--weight-maps", fitted / "maps"]
    run("apply", "--lut", lut, *reversed_pairs(candidates(fitted)), *out)
    for (arrays, _), stem in zip(references, STEMS, strict=True):
        image = read_image(fitted / "out" / f"{stem}.png")
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, np.rint(expected.apply(arrays)).clip(0, 255))
        maps = read_image(fitted / "maps" / f"{stem}.tif")
        np.testing.assert_array_equal(maps, expected.weight_maps(arrays))

    text = run(
        "evaluate", "-t", fitted / "truth", *candidates(fitted), "--lut", lut, "--json", fitted / "e.json"
    )
    assert "ensemble" in text
    rows = json.loads((fitted / "e.json").read_text())["rows"]
    scores = {row["name"]: row["psnr"] for row in rows}
    assert scores["ensemble"] > scores["near"] > scores["far"]
    assert set(rows[0]["images"]) == set(STEMS)


def reversed_pairs(arguments):
    return [*arguments[2:], *arguments[:2]]


@pytest.mark.parametrize("end", [".png", ".tif", ".zarr"])
def test_single_images_of_16_bit(tmp_path, end):
    shape = (40, 50) if end == ".png" else (3, 40, 50)
    images = make_images(shape, np.uint16)
    for name, image in images.items():
        write_image(tmp_path / f"{name}{end}", image)
    run("fit", *candidates(tmp_path, end), "-t", tmp_path / f"truth{end}", "-o", tmp_path / "x")
    lut = tmp_path / "x.lut.safetensors"
    run("apply", "--lut", lut, *candidates(tmp_path, end), "-o", tmp_path / f"out{end}")
    image = np.asarray(read_image(tmp_path / f"out{end}"))
    expected = load_lut(lut).apply([images["near"], images["far"]])
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, np.rint(expected))
    run("apply", "--lut", lut, *candidates(tmp_path, end), "-o", tmp_path / "f.tif", "--dtype", "float32")
    np.testing.assert_array_equal(read_image(tmp_path / "f.tif"), expected)
    said = run("apply", "--lut", lut, *candidates(tmp_path, end), "-o", tmp_path / f"out{end}", status=1)
    assert "exists already" in said
    run("apply", "--lut", lut, *candidates(tmp_path, end), "-o", tmp_path / f"out{end}", "--overwrite")


def test_zarr_and_memory_give_equal_tables(tmp_path):
    images = make_images((3, 40, 50), np.uint16)
    for end in (".zarr", ".tif"):
        for name, image in images.items():
            write_image(tmp_path / f"{name}{end}", image)
        run(
            "fit",
            *candidates(tmp_path, end),
            "-t",
            tmp_path / f"truth{end}",
            "-o",
            tmp_path / f"lut{end[1:]}",
        )
    tables = [load_lut(tmp_path / f"lut{kind}.lut.safetensors") for kind in ("zarr", "tif")]
    np.testing.assert_array_equal(tables[0].weights, tables[1].weights)
    np.testing.assert_array_equal(tables[0].counts, tables[1].counts)


def test_compare(fitted):
    arguments = ["compare", "-t", fitted / "truth", *candidates(fitted), "--folds", "3"]
    methods = ["--method", "near", "--method", "average", "--method", "least-squares"]
    found = json.loads(run(*arguments, *methods, "--bin-width", 32, "--bin-width", 64, "--json", "-"))
    assert [row["name"] for row in found["rows"]] == [
        "near",
        "average",
        "Least squares, bin width 32",
        "Least squares, bin width 64",
    ]
    assert found["settings"]["folds"] == 3
    assert "s per image" in run(*arguments, "--method", "near").splitlines()[0]


def test_a_table_names_the_files_that_it_was_learned_from(fitted):
    run("fit", *candidates(fitted), "-t", fitted / "truth", "-o", fitted / "named", "--method", "em")
    (first, *others) = json.loads(run("info", fitted / "named.lut.safetensors", "--json", "-"))["report"][
        "inputs"
    ]["listed"]
    assert first["names"] == ["a.png", "a.png", "a.png"]
    assert all(one["names"] for one in others)
    said = run("info", fitted / "named.lut.safetensors")
    assert "a.png, a.png; ground truth a.png, and" in said
    assert "shrinkage" not in said, "EM has none"


def test_info_and_import(fitted):
    assert "near, far" in run("info", fitted / "two.lut.safetensors")
    found = json.loads(run("info", fitted / "two.lut.safetensors", "--json", "-"))
    assert found["names"] == ["near", "far"]
    assert found["report"]["statistics_bytes"] > 0


def test_info_describes_the_noise_of_an_image(tmp_path):
    clean = np.tile(np.linspace(20, 400, 200), (200, 1))
    noisy = 2.0 * np.random.default_rng(0).poisson(clean / 2)
    noisy[50, 60] = 4000
    write_image(tmp_path / "noisy.tif", noisy.astype(np.uint16))
    found = json.loads(run("info", tmp_path / "noisy.tif", "--json", "-"))
    assert found["shape"] == [200, 200]
    assert found["noise"]["gain"] == pytest.approx(2, rel=0.1)
    assert found["noise"]["level"] == pytest.approx(np.sqrt(2 * clean.mean()), rel=0.1)
    assert (found["noise"]["correlation"], found["noise"]["hot_pixels"]) == (None, 1)
    said = run("info", tmp_path / "noisy.tif")
    assert "x intensity" in said
    assert "independent noise" in said
    write_image(tmp_path / "line.tif", np.zeros((1, 9), np.float32))
    assert "cannot estimate the noise" in run("info", tmp_path / "line.tif", status=1)


def test_info_lists_the_images_of_a_folder(folders):
    found = json.loads(run("info", folders / "near", "--json", "-"))
    assert found == {"images": list(STEMS), "shape": [40, 50, 3], "dtype": "uint8"}
    assert "3: a, b, c" in run("info", folders / "near")


def test_import_of_a_published_table(tmp_path, reference_folder):
    table = next((reference_folder / "published_luts").glob("weight_Rain100H*.pth"))
    names = [part for name in ("MPRNet", "MAXIM", "Restormer") for part in ("--name", name)]
    run("import", table, *names, "-o", tmp_path / "rain", "-q")
    assert load_lut(tmp_path / "rain.lut.safetensors").names == ("MPRNet", "MAXIM", "Restormer")
    assert "exists already" in run("import", table, *names, "-o", tmp_path / "rain", status=1)


def test_fit_has_all_settings_of_fit_lut(fitted):
    """Words for numbers, EM's own settings, planes and masks: the tables are those that Python makes."""
    stems = [path.stem for path in sorted((fitted / "truth").iterdir())]
    pairs = [
        ([read_image(fitted / name / f"{stem}.png") for name in ("near", "far")], truth)
        for stem in stems
        for truth in [read_image(fitted / "truth" / f"{stem}.png")]
    ]
    masks = [RNG.random(truth.shape[:2]) < 0.6 for _, truth in pairs]
    (fitted / "masks").mkdir()
    for stem, mask in zip(stems, masks, strict=True):
        write_image(fitted / "masks" / f"{stem}.png", mask.astype(np.uint8) * 255)
    pooled = [np.repeat(mask[..., np.newaxis], 3, axis=-1) for mask in masks]
    least = ["--method", "least-squares"]
    for number, (options, keywords) in enumerate(
        (
            ([*least, "--bin-width", "auto"], {"method": "least-squares", "bin_width": "auto"}),
            ([*least, "--shrinkage", "auto"], {"method": "least-squares", "shrinkage": "auto"}),
            ([*least, "--shrinkage", "10"], {"method": "least-squares", "shrinkage": 10}),
            (["--prior", "0.7,0.3", "--max-iter", "3"], {"prior": (0.7, 0.3), "max_iter": 3}),
            (["--planes", "3", "20"], {"planes": (3, 20)}),
            (["--mask", fitted / "masks"], {"mask": pooled}),
            (["--mask", fitted / "masks", "--channel-axis", "-1"], {"mask": masks, "channel_axis": -1}),
        )
    ):
        out = fitted / f"table{number}"
        run("fit", *candidates(fitted), "-t", fitted / "truth", "-o", out, "-q", *options)
        table, wanted = load_lut(f"{out}.lut.safetensors"), fit_lut(pairs, ("near", "far"), **keywords)
        np.testing.assert_array_equal(table.weights, wanted.weights)
        assert table.report["pixels"] == wanted.report["pixels"]


def test_masks_belong_to_the_images(fitted):
    (fitted / "masks").mkdir()
    for stem in ("a", "b"):
        write_image(fitted / "masks" / f"{stem}.png", np.ones((40, 50), np.uint8))
    arguments = ["fit", *candidates(fitted), "-t", fitted / "truth", "-o", fitted / "x"]
    assert "differ in c" in run(*arguments, "--mask", fitted / "masks", status=1)
    write_image(fitted / "masks" / "c.png", np.ones((40, 49), np.uint8))
    assert "the mask has shape" in run(*arguments, "--mask", fitted / "masks", status=1)


def test_expected_errors_are_written_beside_the_ensemble(fitted):
    lut = fitted / "two.lut.safetensors"
    assert re.search(r"yes, [\d.]+ overall, within x [\d.]+ on other fields", run("info", lut))
    run("apply", "--lut", lut, *candidates(fitted), "-o", fitted / "e", "--expected-error", fitted / "errors")
    table = load_lut(lut)
    for stem in STEMS:
        images = [read_image(fitted / name / f"{stem}.png") for name in ("near", "far")]
        written = read_image(fitted / "errors" / f"{stem}.tif")
        np.testing.assert_array_equal(written, table.expected_error(images))
    out = ["-o", fitted / "lean", "--without-errors"]
    run("fit", *candidates(fitted), "-t", fitted / "truth", *out)
    lean = fitted / "lean.lut.safetensors"
    assert "no" in run("info", lean).split("expected error")[1].split()
    arguments = ["apply", "--lut", lean, *candidates(fitted), "-o", fitted / "f"]
    assert "fit again" in run(*arguments, "--expected-error", fitted / "g", status=1)
    assert not (fitted / "f").exists()


def test_another_exposure_is_reported_and_matched(tmp_path, capfd):
    images = make_images((60, 70), np.uint16)
    for name, image in images.items():
        write_image(tmp_path / f"{name}.tif", image)
        write_image(tmp_path / f"bright {name}.tif", image // 4 + 900)
    known = [f"near={tmp_path}/near.tif", f"far={tmp_path}/far.tif"]
    run("fit", "-c", known[0], "-c", known[1], "-t", tmp_path / "truth.tif", "-o", tmp_path / "t")
    bright = [f"near={tmp_path}/bright near.tif", f"far={tmp_path}/bright far.tif"]
    arguments = ["apply", "--lut", tmp_path / "t.lut.safetensors", "-c", bright[0], "-c", bright[1]]
    found = json.loads(run(*arguments, "-o", tmp_path / "plain.tif", "--json", "-"))
    assert "another exposure" in found["warnings"][0]
    found = json.loads(run(*arguments, "-o", tmp_path / "matched.tif", "--match", "--json", "-"))
    assert found["warnings"] == []
    gain, offset = found["rescaled"]
    assert abs(gain - 0.25) < 0.01
    assert abs(offset - 900) < 20
    wanted = load_lut(tmp_path / "t.lut.safetensors").apply([images["near"], images["far"]]) / 4 + 900
    errors = {
        name: np.abs(read_image(tmp_path / f"{name}.tif") - wanted).mean() for name in ("plain", "matched")
    }
    assert errors["matched"] < 1 < errors["plain"]


# -- wrong use ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit"],
        ["fit", "-c", "near", "-t", "t", "-o", "x"],
        ["fit", "-c", "near=a", "-c", "near=b", "-t", "t", "-o", "x"],
        ["fit", "-c", "=a", "-t", "t", "-o", "x"],
        ["fit", "-c", "near=a", "-t", "t", "-o", "x", "--method", "magic"],
        ["fit", "-c", "near=a", "-o", "x"],
        ["compare", "-c", "near=a", "-t", "t", "--folds", "1"],
        ["mend"],
        ["info", "a", "b"],
    ],
)
def test_wrong_usage_exits_with_2(arguments):
    run(*arguments, status=2)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--bin-width", "-3"], "bin_width is -3.0; use a number above 0"),
        (["--bin-width", "wide"], "bin_width is 'wide'"),
        (["--shrinkage", "-1"], "shrinkage is -1.0"),
        (["--prior", "1,x"], "prior is '1,x'"),
        (["--prior", "0,0"], "not all zero"),
        (["--max-iter", "0"], "max_iter is 0; use a whole number from 1"),
    ],
)
def test_a_setting_outside_its_limits_is_wrong_usage(option, words):
    said = run("fit", "-c", "near=a", "-t", "t", "-o", "x", *option, status=2)
    assert words in " ".join(said.replace("│", " ").split())


def test_errors_exit_with_1_and_print_one_line(fitted):
    lut, truth = fitted / "two.lut.safetensors", fitted / "truth"
    for arguments, words in (
        (["fit", *candidates(fitted / "no"), "-t", truth, "-o", fitted / "x"], "there is no"),
        (["fit", *candidates(fitted), "-t", truth, "-o", fitted / "no" / "x"], "there is no folder"),
        (["fit", *candidates(fitted), "-t", truth, "-o", lut], "exists already"),
        (["fit", *candidates(fitted), "-t", truth, "-o", fitted / "x", "--device", "abacus"], "abacus"),
        (["apply", "--lut", lut, "-c", f"near={truth}", "-o", fitted / "x"], "far is missing"),
        (
            ["apply", "--lut", lut, *candidates(fitted), "-c", f"C={truth}", "-o", fitted / "x"],
            "C is unknown",
        ),
        (["apply", "--lut", truth / "a.png", *candidates(fitted), "-o", fitted / "x"], "no LUT file"),
        (["compare", *candidates(fitted), "-t", truth, "--method", "magic"], "magic"),
        (["evaluate", *candidates(fitted), "-t", truth, "--crop-border", "30"], "leaves nothing"),
        (["info", fitted], "holds no image; give a folder of"),
    ):
        said = run(*arguments, status=1)
        assert words in said
    assert not (fitted / "x").exists()
    assert not (fitted / "x.lut.safetensors").exists()


def test_unreachable_scheduler(fitted, monkeypatch):
    distributed = pytest.importorskip("distributed")
    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: client(address, timeout="200ms"))
    arguments = ["fit", *candidates(fitted), "-t", fitted / "truth", "-o", fitted / "x"]
    assert "no dask scheduler" in run(*arguments, "--scheduler", "tcp://127.0.0.1:1", status=1)


def test_unexpected_errors_are_one_line_unless_verbose(fitted, monkeypatch):
    def fail(*args):
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("napari_ensir.cli.info.load_lut", fail)
    said = run("info", fitted / "two.lut.safetensors", status=1)
    assert said.startswith("napari-ensir: unexpected ZeroDivisionError: by nought.")
    assert said.count("\n") == 1
    said = CliRunner().invoke(app, ["info", str(fitted / "two.lut.safetensors"), "--verbose"]).stderr
    assert "Traceback" in said
    assert "unexpected ZeroDivisionError: by nought." in said


def test_verbose_shows_steps_with_times(fitted):
    arguments = ["evaluate", "-t", fitted / "truth", *candidates(fitted), "--verbose"]
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert re.search(r"\d\.\d\d s  scoring images\n", result.stderr)


def test_version():
    assert run("--version") == f"napari-ensir {version('napari-ensir')}\n"


def test_shells_complete_commands():
    given = {"COMP_WORDS": "napari-ensir ev", "COMP_CWORD": "1", "_NAPARI_ENSIR_COMPLETE": "complete_bash"}
    assert "evaluate" in CliRunner().invoke(app, [], prog_name="napari-ensir", env=given).stdout


# -- one bad image among good ones --------------------------------------------------------------------


def test_an_error_in_one_image_does_not_stop_the_others(fitted):
    path = fitted / "near" / "b.png"
    path.write_bytes(path.read_bytes()[:400])
    write_image(fitted / "far" / "c.png", make_images((30, 50, 3))["far"], overwrite=True)
    lut = fitted / "two.lut.safetensors"
    said = run("apply", "--lut", lut, *candidates(fitted), "-o", fitted / "out", status=1)
    assert len(said.splitlines()) == 2
    assert "image b: " in said
    assert "truncated" in said
    assert "image c: " in said
    assert "--crop" in said
    assert [one.name for one in (fitted / "out").iterdir()] == ["a.png"]

    target = fitted / "e.json"
    arguments = ["evaluate", "-t", fitted / "truth", *candidates(fitted), "--json", target]
    assert "image b: " in run(*arguments, "--lut", lut, status=1)
    found = json.loads(target.read_text())
    assert list(found["rows"][0]["images"]) == ["a"]
    assert set(found["failed"]) == {"b", "c"}

    # A table is one output: it is learned from all images or not at all.
    write_image(fitted / "far" / "c.png", make_images((40, 50, 3))["far"], overwrite=True)
    said = run("fit", *candidates(fitted), "-t", fitted / "truth", "-o", fitted / "new", status=1)
    assert "b.png" in said
    assert not (fitted / "new.lut.safetensors").exists()


def test_crop(fitted):
    write_image(fitted / "far" / "c.png", make_images((30, 60, 3))["far"], overwrite=True)
    run("apply", "--lut", fitted / "two.lut.safetensors", *candidates(fitted), "-o", fitted / "out", "--crop")
    assert read_image(fitted / "out" / "c.png").shape == (30, 50, 3)


def test_missing_stem(fitted):
    (fitted / "far" / "b.png").unlink()
    lut = fitted / "two.lut.safetensors"
    assert "has no image b" in run("apply", "--lut", lut, *candidates(fitted), "-o", fitted / "out", status=1)
    assert not (fitted / "out").exists()


def test_unwritable_outputs(fitted):
    lut = fitted / "two.lut.safetensors"
    (fitted / "notes.txt").touch()
    for out in ("/dev/null/out", fitted / "notes.txt"):
        said = run("apply", "--lut", lut, *candidates(fitted), "-o", out, status=1)
        assert "could not be made" in said
    said = run("apply", "--lut", lut, *candidates(fitted, "/a.png"), "-o", "/dev/null/a.png", status=1)
    assert "cannot be written" in said


# -- the process --------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-m", "napari_ensir.cli"]


def test_help_imports_no_heavy_package():
    """What makes it quick is that it imports next to nothing."""
    subprocess.run([*COMMAND, "--help"], check=True, capture_output=True)
    heavy = "numpy", "torch", "dask", "zarr", "napari", "PIL"
    loaded = f"import sys, napari_ensir.cli.app; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout.strip() == "[]"
    )


SLOW = """
import sys, time
import napari_ensir.{module} as module
whole = module.{function}
def slowly(*args, **kwargs):
    print("ready", flush=True)
    {before}
    result = whole(*args, **kwargs)
    return result
module.{function} = slowly
from napari_ensir.cli import main
main()
"""


@pytest.mark.parametrize(
    ("number", "module", "function"),
    [
        (signal.SIGINT, "files.atomic", "_sync"),
        (signal.SIGTERM, "files.atomic", "_sync"),
        (signal.SIGINT, "ensemble.statistics.reference", "collect"),
        (signal.SIGINT, "files.sets", "open_image"),
    ],
)
def test_an_interrupted_command_leaves_nothing_half_written(fitted, number, module, function):
    """Stopped while a file is being written, while pixels are counted, while images are read."""
    out = fitted / "out"
    if module == "ensemble.statistics.reference":
        arguments = ["fit", *candidates(fitted), "-t", fitted / "truth", "-o", out]
    else:
        arguments = ["apply", "--lut", fitted / "two.lut.safetensors", *candidates(fitted), "-o", out]
    code = SLOW.format(module=module, function=function, before="time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert "Traceback" not in said
    assert not any(path.name.startswith(".part") for path in fitted.rglob("*"))
    assert not list(fitted.glob("out*")) or not list(out.iterdir())


def test_progress_bars_on_a_terminal_only(fitted):
    arguments = [*candidates(fitted), "-t", fitted / "truth"]
    quiet = CliRunner().invoke(app, ["fit", *map(str, arguments), "-o", str(fitted / "quiet")])
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    master, terminal = pty.openpty()
    shown = bytearray()

    def drain():  # or the terminal fills up, and the process waits for ever
        with suppress(OSError):  # what Linux raises where the other end is closed
            while part := os.read(master, 100_000):
                shown.extend(part)

    reader = threading.Thread(target=drain)
    reader.start()
    subprocess.run(
        [*COMMAND, "fit", *map(str, arguments), "-o", str(fitted / "loud")],
        stderr=terminal,
        stdout=subprocess.PIPE,
        check=True,
        env=os.environ | {"TERM": "xterm-256color"},
    )
    os.close(terminal)
    reader.join()
    os.close(master)
    assert b"%" in shown


def test_scheduler(tmp_path):
    """The same table and image by way of a cluster, with names and chunks kept."""
    distributed = pytest.importorskip("distributed")
    for name, image in make_images((4, 40, 50), np.uint16).items():
        write_image(tmp_path / f"{name}.zarr", image)
    arguments = [*candidates(tmp_path, ".zarr"), "-t", tmp_path / "truth.zarr", "-q"]
    run("fit", *arguments, "-o", tmp_path / "here")
    how = {"processes": False, "protocol": "tcp", "dashboard_address": ":0"}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, **how) as cluster:
        there = ["--scheduler", cluster.scheduler_address]
        run("fit", *arguments, "-o", tmp_path / "there", *there)
        lut = ["--lut", tmp_path / "there.lut.safetensors", *candidates(tmp_path, ".zarr"), "-q"]
        run("apply", *lut, "-o", tmp_path / "there.zarr", *there)
    run("apply", *lut, "-o", tmp_path / "here.zarr")
    names = [tmp_path / f"{name}.lut.safetensors" for name in ("here", "there")]
    assert names[0].read_bytes() == names[1].read_bytes()
    images = [read_image(tmp_path / f"{name}.zarr") for name in ("here", "there")]
    np.testing.assert_array_equal(*images)
    assert images[0].chunks == images[1].chunks


def test_commands_on_small_images_load_no_heavy_library(tmp_path):
    """Each of these takes a quarter of a second or more to import."""
    heavy = (
        "dask",
        "matplotlib",
        "numba",
        "scipy",
        "skimage",
        "sklearn",
        "tifffile",
        "torch",
        "yaml",
        "zarr",
    )
    code = f"""
import sys
from napari_ensir.cli.app import app
app(standalone_mode=False)
print(*(set({heavy!r}) & set(sys.modules)), file=sys.stderr)
"""
    for name, image in make_images((140, 150, 3)).items():
        write_image(tmp_path / f"{name}.png", image)
    table, images, truth = (
        tmp_path / "t.lut.safetensors",
        candidates(tmp_path, ".png"),
        tmp_path / "truth.png",
    )
    for arguments in (
        ["fit", *images, "-t", truth, "-o", table],
        ["apply", *images, "--lut", table, "-o", tmp_path / "out.png"],
        ["evaluate", *images, "-t", truth, "--lut", table],
        ["info", table],
        ["restorers"],
    ):
        command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        assert not set(answer.stderr.splitlines()[-1].split()) & set(heavy), arguments[0]
