"""Many images, one at a time: patterns, and the memory that is held."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import FileImage, read_image, write_image
from napari_ensir.files.sets import Part, open_set
from napari_ensir.restorers import RESTORERS
from napari_ensir.restorers.base import FunctionRestorer
from napari_ensir.restorers.batch import BlindBatch, RestoreBatch
from napari_ensir.restorers.classical import Gaussian, Median
from napari_ensir.restorers.training import recipes
from napari_ensir.settings import BlindSettings


@pytest.fixture
def images(tmp_path):
    """Five noisy images of one folder."""
    (tmp_path / "noisy").mkdir()
    (tmp_path / "out").mkdir()
    for number in range(5):
        noise = np.random.default_rng(number).normal(0, 9, (24, 32))
        write_image(tmp_path / "noisy" / f"{number}.tif", (100 + noise).astype(np.float32))
    return open_set({}, {Part.IMAGE: tmp_path / "noisy"})


def test_the_pixels_of_one_image_are_in_memory_at_a_time(images, tmp_path):
    held = []

    def restore(image):
        read = [each for each in gc.get_objects() if isinstance(each, FileImage) and "pixels" in vars(each)]
        held.append(len(read))
        return image / 2

    batch = RestoreBatch(images, ("half",), tmp_path / "out", as_float=True)
    batch.run(lambda *_: FunctionRestorer(restore, "half"), None)
    assert held == [1] * 5
    assert len(batch.written) == 5


def test_a_table_is_learned_from_a_limited_number_of_pixels(images, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_ensir.restorers.batch.MAX_LEARNED", 2 * 24 * 32)
    settings = BlindSettings(stride=4, offsets=1, device="cpu")
    restorers = {"gaussian": Gaussian(), "median": Median()}
    batch = BlindBatch(images, restorers, tmp_path / "out", settings, as_float=True)
    lut = batch.learn()
    assert lut.report.images == 2
    batch.combine(lut)
    assert sorted(batch.written) == list("01234")
    expected = lut.apply([each(np.asarray(images.load(1)[Part.IMAGE])) for each in restorers.values()])
    np.testing.assert_allclose(read_image(batch.outputs["1"]["ensemble"].path), expected, rtol=1e-6)


@pytest.mark.parametrize("combined", [False, True])
def test_noise2void_is_trained_once_on_a_folder(images, tmp_path, monkeypatch, combined):
    begun, begin = [], recipes.begin_training
    monkeypatch.setattr(
        recipes, "begin_training", lambda *given, **more: begun.append(len(given[1])) or begin(*given, **more)
    )
    small = RESTORERS["noise2void"](training_steps=2, width=8, device="cpu")
    restorers = {"n2v": small, "gaussian": Gaussian()}
    if combined:
        monkeypatch.setattr("napari_ensir.restorers.batch.MAX_LEARNED", 2 * 24 * 32)
        settings = BlindSettings(stride=4, offsets=1, device="cpu")
        batch = BlindBatch(images, restorers, tmp_path / "out", settings, as_float=True)
        batch.combine(batch.learn())
    else:
        batch = RestoreBatch(images, tuple(restorers), tmp_path / "out", as_float=True)
        batch.check_outputs()
        batch.run(lambda _, name: restorers[name], None)
    assert begun == [2 if combined else 5]
    assert batch.describe_notes() == [f"{small.name} was trained once, on {begun[0]} of the 5 images."]
    assert sorted(batch.written) == list("01234")


class WithNotes(FunctionRestorer):
    """States what it saw."""

    def notes(self, image):
        return ["saw an image", *["saw a hot pixel"] * bool(image.max() > 200)]


def test_notes_name_their_images(images, tmp_path):
    hot = np.full((24, 32), 255, np.float32)
    write_image(tmp_path / "noisy" / "1.tif", hot, overwrite=True)
    batch = RestoreBatch(images, ("mine",), tmp_path / "out", as_float=True)
    batch.run(lambda *_: WithNotes(np.float32, "mine"), None)
    assert batch.describe_notes() == ["mine saw an image.", "mine saw a hot pixel (1)."]


def test_a_pattern_stands_for_the_files_that_it_matches(tmp_path):
    for name in ("a_raw.tif", "b_raw.tif", "a_care.tif", "b_care.tif", "notes_raw.txt"):
        path = tmp_path / name
        path.write_text("") if name.endswith("txt") else write_image(path, np.eye(4, dtype=np.uint8))
    found = open_set({"care": tmp_path / "{stem}_care.tif"}, {Part.IMAGE: tmp_path / "{stem}_raw.tif"})
    assert found.from_folders
    assert [stem for stem, _ in found.fields] == ["a", "b"]
    assert [each.name for each in found.fields[1][1].values()] == ["b_care.tif", "b_raw.tif"]
    with pytest.raises(EnsembleError, match="matches no image"):
        open_set({"care": tmp_path / "{stem}_swinir.tif"})


def test_an_output_is_made_anew_if_its_input_changed(images, tmp_path):
    def run(**how):
        batch = RestoreBatch(images, ("half",), tmp_path / "out", as_float=how.pop("as_float", True))
        batch.run(lambda *_: FunctionRestorer(lambda image: image / 2, "half"), None, **how)
        return batch

    run()
    batch = run(resume=True)
    assert sorted(batch.kept) == list("01234")
    assert batch.describe_resumption() == ["5 were there already."]
    changed = np.full((24, 32), 7, np.float32)  # of the same size in bytes
    write_image(tmp_path / "noisy" / "3.tif", changed, overwrite=True)
    os.utime(tmp_path / "noisy" / "3.tif", ns=(0, 0))
    batch = run(resume=True)
    assert batch.redone == {"3": ["image"]}
    assert batch.describe_resumption() == [
        "4 were there already.",
        "1 was made anew, because an input changed: 3 (image).",
    ]
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "3.tif"), changed / 2)
    assert run(resume=True).describe_resumption() == ["5 were there already."]


def test_an_output_of_another_dtype_is_not_kept(tmp_path):
    write_image(tmp_path / "a.tif", np.eye(8, dtype=np.uint8))
    images = open_set({}, {Part.IMAGE: tmp_path / "a.tif"})
    half = FunctionRestorer(lambda image: image / 2, "half")
    for as_float in (False, True):
        batch = RestoreBatch(images, ("half",), tmp_path / "out.tif", as_float=as_float)
        if as_float:
            with pytest.raises(EnsembleError, match="other restorers or settings"):
                batch.run(lambda *_: half, None, resume=True)
        batch.run(lambda *_: half, None, resume=True, overwrite=as_float)
    assert read_image(tmp_path / "out.tif").dtype == np.float32
