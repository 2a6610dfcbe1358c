"""``napari-ensir restore``: outputs, exit status, the overwrite rule."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_ensir.cli.app import app
from napari_ensir.files import read_image, write_image
from napari_ensir.restorers import CLASSICAL, RESTORERS, SelfEnsemble, begin_training, load_restorer
from napari_ensir.restorers.base import with_settings
from tests.helpers import commands
from tests.helpers.paths import DATA

run = partial(commands.run, "restore")

RNG = np.random.default_rng(5)


def noisy(shape=(24, 32), dtype=np.uint8):
    return RNG.uniform(30, 220, shape).astype(dtype)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for stem in ("a", "b"):
        write_image(tmp_path / "in" / f"{stem}.png", noisy((24, 32, 3)))
    return tmp_path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "mine.safetensors"
    clean = noisy()
    trainer = begin_training("ir-cm", [(clean, clean)], steps=2, width=8, device="cpu")
    list(trainer.run())
    trainer.save(path)
    return path


def expected(restorer, image):
    return np.rint(restorer(image).clip(0, 255)).astype(np.uint8)


def test_one_image_one_method(tmp_path):
    image = noisy()
    write_image(tmp_path / "x.tif", image)
    assert "1 written" in run(tmp_path / "x.tif", "-m", "median", "-o", tmp_path / "y.png")
    np.testing.assert_array_equal(read_image(tmp_path / "y.png"), expected(CLASSICAL["median"](), image))
    said = run(tmp_path / "x.tif", "-m", "median", "-o", tmp_path / "y.png", status=1)
    assert "exists already" in said
    run(tmp_path / "x.tif", "-m", "gaussian", "-o", tmp_path / "y.png", "--overwrite")
    np.testing.assert_array_equal(read_image(tmp_path / "y.png"), expected(CLASSICAL["gaussian"](), image))


def test_a_folder_and_several_methods(folder):
    methods = ["-m", "median", "-m", "total-variation", "--self-ensemble"]
    found = json.loads(run(folder / "in", *methods, "-o", folder / "out", "--json", "-"))
    assert set(found["written"]["b"]) == {"median", "total-variation"}
    for name in ("median", "total-variation"):
        for stem in ("a", "b"):
            image = read_image(folder / "in" / f"{stem}.png")
            restorer = SelfEnsemble(restorer=CLASSICAL[name](channel_axis=-1))
            got = read_image(folder / "out" / name / f"{stem}.png")
            np.testing.assert_array_equal(got, expected(restorer, image))


def test_several_methods_of_one_image_go_into_a_folder(tmp_path):
    write_image(tmp_path / "x.png", noisy())
    run(tmp_path / "x.png", "-m", "median", "-m", "gaussian", "-o", tmp_path / "out", "--dtype", "float32")
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["gaussian.tif", "median.tif"]
    assert read_image(tmp_path / "out" / "median.tif").dtype == np.float32


def test_zarr_and_channel_axis(tmp_path):
    pytest.importorskip("zarr")
    image = noisy((3, 24, 32), np.uint16)
    write_image(tmp_path / "x.zarr", image)
    run(tmp_path / "x.zarr", "-m", "gaussian", "--channel-axis", "0", "-o", tmp_path / "y.zarr")
    restored = np.asarray(read_image(tmp_path / "y.zarr"))
    assert restored.dtype == np.uint16
    np.testing.assert_array_equal(restored, np.rint(CLASSICAL["gaussian"](channel_axis=0)(image)))


def test_a_trained_network(tmp_path, checkpoint):
    image = noisy((40, 30))
    write_image(tmp_path / "x.png", image)
    arguments = [tmp_path / "x.png", "--network", checkpoint, "--device", "cpu", "-q"]
    for seed in (0, 0, 1):
        run(*arguments, "--seed", seed, "--steps", 2, "-o", tmp_path / f"{seed}.tif", "--overwrite")
    from dataclasses import replace

    restorer = replace(load_restorer(checkpoint, device="cpu"), steps=2)
    np.testing.assert_array_equal(read_image(tmp_path / "0.tif"), expected(restorer, image))
    assert (read_image(tmp_path / "0.tif") != read_image(tmp_path / "1.tif")).any()


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_an_external_network(tmp_path, write_network, suffix):
    image = noisy((40, 30))
    write_image(tmp_path / "x.png", image)
    network = write_network(tmp_path / f"dim{suffix}")
    run(tmp_path / "x.png", "--network", network, "--device", "cpu", "-o", tmp_path / "y.tif")
    restored = read_image(tmp_path / "y.tif")
    assert restored.dtype == np.uint8
    np.testing.assert_allclose(restored, image / 2, atol=0.51)


def test_a_folder_of_networks(tmp_path, write_network, write_enlarging):
    (tmp_path / "networks").mkdir()
    write_network(tmp_path / "networks" / "dim.pt")
    write_enlarging(tmp_path / "networks" / "x2.pt", 2)
    write_image(tmp_path / "x.png", noisy((20, 24)))
    arguments = [
        tmp_path / "x.png",
        "--network",
        tmp_path / "networks",
        "--device",
        "cpu",
        "-o",
        tmp_path / "y",
    ]
    assert "2 written" in run(*arguments)
    assert read_image(tmp_path / "y" / "x2.png").shape == (40, 48)
    (tmp_path / "networks" / "bad.zip").write_bytes(b"nothing")
    assert "bad.zip" in run(*arguments, "--overwrite", status=1)


def test_careamics(tmp_path):

    data = DATA / "careamics"
    expected = np.load(data / "care_small_expected.npz")
    write_image(tmp_path / "x.tif", expected["input"])
    arguments = ["--network", data / "care_small.zip", "--device", "cpu", "--dtype", "float32"]
    run(tmp_path / "x.tif", *arguments, "-o", tmp_path / "y.tif")
    restored = read_image(tmp_path / "y.tif")
    np.testing.assert_allclose(restored, expected["prediction"], atol=1e-4 * np.ptp(expected["prediction"]))


def test_images_that_differ_from_the_training_images_give_a_warning(tmp_path):
    """By each network, and how networks go through the images is said of all of them together."""

    network = DATA / "careamics" / "n2v_0.1.ckpt"
    stack = np.load(network.with_name("n2v_0.1_expected.npz"))["input"][None, :32]
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "right.tif", np.repeat(stack, 2, axis=0))
    write_image(tmp_path / "in" / "wrong.tif", np.repeat(stack, 2, axis=0) / np.float32(65535))
    out = ["-o", str(tmp_path / "out"), "--json", str(tmp_path / "said.json")]
    other = shutil.copy(network, tmp_path / "other.ckpt")
    networks = ["--network", str(network), "--network", str(other)]
    given = ["restore", str(tmp_path / "in"), *networks, "--device", "cpu", *out]
    result = CliRunner().invoke(app, given)
    said = json.loads((tmp_path / "said.json").read_text())
    quiet = CliRunner().invoke(app, [*given, "--quiet", "--overwrite"])
    planes, *warned = result.stderr.splitlines()
    both = "N2V, n2v_0.1 and N2V, other"
    assert planes == f"napari-ensir: {both} restored the 2 planes of this image one by one."
    for name, line in zip(both.split(" and "), warned, strict=True):
        assert line.startswith(f"napari-ensir: warning: wrong: {name} was trained on intensities around")
    assert said["warnings"] == [line.removeprefix("napari-ensir: warning: ") for line in warned]
    assert quiet.stderr.splitlines() == warned


def test_networks_that_enlarge_write_larger_images(tmp_path, write_enlarging):
    network = write_enlarging(tmp_path / "x2.pt", 2)
    write_image(tmp_path / "x.png", noisy((20, 24, 3)))
    for extra in ([], ["--self-ensemble"]):
        arguments = ["--network", network, "--device", "cpu", "-o", tmp_path / "y.png", "--overwrite", *extra]
        run(tmp_path / "x.png", *arguments)
        assert read_image(tmp_path / "y.png").shape == (40, 48, 3)


def test_the_pixels_of_an_enlarged_ome_zarr_are_smaller(tmp_path, write_enlarging):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w", zarr_format=3)
    axes = [{"name": name, "type": "space"} for name in "zyx"]
    given = [
        {"type": "scale", "scale": [3.0, 2.0, 2.0]},
        {"type": "translation", "translation": [1.0, 5.0, 6.0]},
    ]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": given}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    group.create_array("0", data=noisy((2, 20, 24), np.uint16), chunks=(1, 20, 24))
    network = write_enlarging(tmp_path / "x2.pt", 2)
    run(tmp_path / "x.zarr", "--network", network, "--device", "cpu", "-o", tmp_path / "y.zarr")
    written = zarr.open_group(str(tmp_path / "y.zarr"), mode="r")
    assert written["0"].shape == (2, 40, 48)
    scale, translation = written.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == [3.0, 1.0, 1.0]
    assert translation["translation"] == [1.0, 4.5, 5.5]


def test_dp_ir_needs_the_network_that_it_does_not_contain(tmp_path, write_network, write_dp_ir):
    image = noisy((40, 30))
    write_image(tmp_path / "x.png", image)
    network = write_network(tmp_path / "dim.pt")
    checkpoint = write_dp_ir(tmp_path / "mine.safetensors", network)
    arguments = [tmp_path / "x.png", "--network", checkpoint, "--tau", 1, "--device", "cpu"]
    assert "--ir FILE" in run(*arguments, "-o", tmp_path / "y.png", status=1)
    run(*arguments, "--ir", network, "-o", tmp_path / "y.png")
    np.testing.assert_allclose(read_image(tmp_path / "y.png"), image / 2, atol=1)


def test_errors_exit_with_1_and_print_one_line(folder, checkpoint):
    x = folder / "in" / "a.png"
    (folder / "bad.safetensors").write_bytes(b"nothing")
    twice = folder / "median.safetensors"
    twice.write_bytes(checkpoint.read_bytes())
    for arguments, words in (
        ([folder / "absent", "-m", "median"], "there is no"),
        ([x], "no restorer"),
        ([x, "-m", "magic"], "non-local-means"),
        ([x, "--network", folder / "absent.pt"], "there is no file"),
        ([x, "--network", folder / "bad.safetensors"], "bad.safetensors"),
        ([x, "-m", "median", "--network", twice], "two restorers"),
        ([x, "-m", "median", "--device", "abacus"], "abacus"),
        ([x, "-m", "median", "--data-range", 5, 5], "data_range is (5.0, 5.0)"),
        ([x, "-m", "median", "--channel-axis", 7], "channel axis 7"),
    ):
        assert words in run(*arguments, "-o", folder / "y.png", status=1)
    assert "JPEG" in run(x, "-m", "median", "-o", folder / "y.jpg", status=1)
    assert not (folder / "y.png").exists()
    assert not list(folder.rglob(".part*"))


def test_wrong_usage_exits_with_2(folder):
    run(folder / "in", "-m", "median", status=2)
    run("-m", "median", "-o", folder / "y", status=2)
    run(folder / "in", "-m", "median", "-o", folder / "y", "--seed", "-1", status=2)


def test_an_error_in_one_image_does_not_stop_the_others(folder):
    path = folder / "in" / "b.png"
    path.write_bytes(path.read_bytes()[:300])
    said = run(folder / "in", "-m", "median", "-m", "gaussian", "-o", folder / "out", status=1)
    assert "image b: " in said
    assert sorted(one.name for one in (folder / "out").rglob("*.png")) == ["a.png", "a.png"]


# -- restorers' own settings --------------------------------------------------------------------------


def test_settings_of_one_restorer_do_not_change_the_others(tmp_path, checkpoint):
    image = noisy()
    write_image(tmp_path / "x.tif", image)
    given = ["--set", "median.size=5", "--set", "mine.steps=3", "--set", "mine.restart=0.5", "--steps", "2"]
    words = ["-m", "median", "-m", "gaussian", "--network", checkpoint, *given, "--device", "cpu"]
    run(tmp_path / "x.tif", *words, "-o", tmp_path / "o")
    network = with_settings(load_restorer(checkpoint, device="cpu"), steps=3, restart=0.5)
    made = {"median": CLASSICAL["median"](size=5), "gaussian": CLASSICAL["gaussian"](), "mine": network}
    for name, restorer in made.items():
        np.testing.assert_array_equal(read_image(tmp_path / "o" / f"{name}.tif"), expected(restorer, image))
    run(
        tmp_path / "x.tif",
        "-m",
        "median",
        "--set",
        "median.size=5",
        "--self-ensemble",
        "-o",
        tmp_path / "8.tif",
    )
    eight = SelfEnsemble(restorer=CLASSICAL["median"](size=5))
    np.testing.assert_array_equal(read_image(tmp_path / "8.tif"), expected(eight, image))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("median.size=500", "median.size is 500; use a whole number from 1 to 51"),
        ("median.size=big", "median.size is 'big'; use a whole number from 1 to 51"),
        ("wavelet.method=Soft", 'wavelet.method is \'Soft\'; use one of "BayesShrink", "VisuShrink"'),
        ("median.radius=2", "median has no setting 'radius'; it has spatial_ndim, hot_pixels, size"),
        ("gaussian.sigma=2", "there is no restorer gaussian; there are: median, wavelet"),
        ("median=3", "'median=3' is not RESTORER.SETTING=VALUE"),
        (".size=3", "'.size=3' is not RESTORER.SETTING=VALUE"),
        ("median.size=3 median.size=5", "median.size is given twice"),
    ],
)
@pytest.mark.parametrize("command", ["restore", "blind"])
def test_a_wrong_setting_is_wrong_usage(command, given, words, tmp_path):
    write_image(tmp_path / "x.tif", noisy())
    sets = [part for one in given.split() for part in ("--set", one)]
    arguments = [
        str(tmp_path / "x.tif"),
        "-m",
        "median",
        "-m",
        "wavelet",
        *sets,
        "-o",
        str(tmp_path / "o.tif"),
    ]
    result = CliRunner().invoke(app, [command, *arguments])
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "o.tif").exists()


def test_restorers_lists_all_settings(checkpoint):
    told = CliRunner().invoke(app, ["restorers"]).stdout
    for name in RESTORERS:
        assert f"{name}." in told
    (line,) = (line for line in told.splitlines() if line.startswith("median.size "))
    assert "Side of the neighbourhood, in pixels. A whole number from 1 to 51." in line
    listed = CliRunner().invoke(app, ["restorers", "--network", str(checkpoint), "--json", "-"]).stdout
    assert json.loads(listed)["mine"]["restart"] == 0.25


def test_at_most_five_notes_are_printed_unless_verbose(tmp_path):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(64.0), np.arange(64.0))
    for number in range(7):
        write_image(tmp_path / "in" / f"{number}.tif", rng.poisson(ramp + 20).astype(np.uint8))
    given = ["restore", str(tmp_path / "in"), "-m", "wavelet", "-o", str(tmp_path / "out")]
    said = CliRunner().invoke(app, given).stderr
    assert said.count("used a variance-stabilising transform") == 5
    assert said.splitlines()[-1] == "napari-ensir: And 2 more."
    said = CliRunner().invoke(app, [*given, "--overwrite", "--verbose"]).stderr
    assert said.count("used a variance-stabilising transform") == 7
