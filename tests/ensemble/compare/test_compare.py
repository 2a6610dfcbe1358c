from __future__ import annotations

import json

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from napari_ensir import EnsembleError, compare, fit_lut
from napari_ensir.ensemble.compare.baselines import BinSets
from napari_ensir.ensemble.scoring import metrics
from napari_ensir.files import Part, References, open_set

NAMES = ("near", "far")


def make(n, shape=(40, 44), seed=5):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        truth = rng.uniform(0, 255, shape)
        noisy = [np.clip(truth + rng.normal(0, s, shape), 0, 255).astype(np.uint8) for s in (5, 9)]
        images.append((noisy, truth.astype(np.uint8)))
    return images


class Spy:
    """Notes what it learns from and what it is asked."""

    name, note = "spy", "looks on"

    def __init__(self):
        self.log = []

    def fit(self, reference):
        self.learned = [int(truth.flat[0]) for _, truth in reference]

    def predict(self, candidates, low_resolution=None):
        self.log.append((self.learned, int(candidates[0].flat[0])))
        return np.full(candidates[0].shape, 7.0)


def marked(n, shape=(16, 16)):
    return [([np.full(shape, i, np.uint8)] * 2, np.full(shape, i, np.uint8)) for i in range(n)]


def test_images_are_predicted_from_other_folds():
    spy = Spy()
    table = compare(marked(5), folds=3, methods=[spy])
    asked = spy.log[1:]  # the first is the warm-up, which is not scored
    assert asked == [([1, 2, 4], 0), ([1, 2, 4], 3), ([0, 2, 3], 1), ([0, 2, 3], 4), ([0, 1, 3, 4], 2)]
    assert table["spy"].note == "looks on"


def test_one_image_is_split_into_tiles():
    spy = Spy()
    rows = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16)
    table = compare([([rows.copy(), rows.copy()], rows)], folds=2, methods=[spy])
    assert table.settings["held_out"] == "tiles"
    tiles = {int(rows[i, j]): (i // 2 + j // 2) % 2 for i in range(0, 16, 2) for j in range(0, 16, 2)}
    for learned, asked in spy.log[1:]:
        assert {tiles[one] for one in learned} == {1 - tiles[asked]}
    assert len(spy.log) == 1 + 64


def test_two_folds_equal_fits_of_even_and_odd_images():
    images = make(4)
    table = compare(images, NAMES, bin_width=32, methods=["least-squares"])
    expected = []
    for number, (candidates, truth) in enumerate(images):
        lut = fit_lut(images[1 - number % 2 :: 2], NAMES, method="least-squares", bin_width=32)
        result = lut.apply(candidates).clip(0, 255)
        expected.append(peak_signal_noise_ratio(truth.astype(float), result, data_range=255))
    (row,) = table.rows
    assert row.psnr == pytest.approx(np.mean(expected), abs=1e-6)
    assert row.name == "Least squares, bin width 32"
    assert row.fit_seconds > 0
    assert row.image_seconds > 0


def test_all_methods_are_compared(one_thread):
    pytest.importorskip("sklearn")
    images = make(2, (24, 24, 3))
    small = [truth[::2, ::2] for _, truth in images]
    table = compare(images, NAMES, channel_axis=-1, low_resolution=small, samples=500)
    assert [row.name for row in table.rows] == [
        "near",
        "far",
        "average",
        "ZZPM (as described)",
        "ZZPM (released code)",
        "RefESR",
        "linear regression",
        "Bagging",
        "AdaBoost",
        "RandomForest",
        "GradientBoosting",
        "HistGradientBoosting",
        "global least squares",
        "EM (paper)",
        "EM (released code)",
        "Least squares",
    ]
    assert table["Bagging"].note == "learned from 500 pixels of 1,728"
    assert all(np.isfinite([row.psnr, row.ssim]).all() for row in table.rows)
    assert table["near"].psnr > table["far"].psnr
    lines = table.to_markdown().splitlines()
    assert len(lines) == 2 + len(table.rows)
    assert json.loads(json.dumps(table.to_dict()))["settings"]["folds"] == 2


def test_results_are_not_clipped():
    truth = np.zeros((16, 16), np.uint8)
    images = [([truth.copy(), truth + 1], truth)] * 2

    class Below(Spy):
        def predict(self, candidates, low_resolution=None):
            return truth - 0.5

    assert compare(images, methods=[Below()])["spy"].psnr == pytest.approx(10 * np.log10(255**2 / 0.25))


def wide(truth, seed):
    """16-bit candidates of a 16-bit truth."""
    rng = np.random.default_rng(seed)
    noisy = [np.clip(truth + rng.normal(0, sigma, truth.shape), 0, 65535) for sigma in (20, 60)]
    return [image.astype(np.uint16) for image in noisy], truth.astype(np.uint16)


def test_bins_do_not_depend_on_held_out_images(monkeypatch):
    """Whatever is held out, a fold's table stays as it is."""
    fit = BinSets.fit
    tables = []

    def kept(self, reference):
        fit(self, reference)
        tables.append(self.lut)

    monkeypatch.setattr(BinSets, "fit", kept)
    truths = np.random.default_rng(1).integers(100, 2000, (4, 50, 50))
    found = []
    for bright in (1, 9):
        tables.clear()
        images = [wide(truth * (bright if number % 2 else 1), number) for number, truth in enumerate(truths)]
        compare(images, NAMES, methods=["least-squares"], device="cpu")
        _, of_bright, of_dim = tables  # the first is the warm-up
        assert of_bright.data_range[1] > (bright == 9) * 10_000
        found.append(of_dim)
    np.testing.assert_array_equal(found[0].weights, found[1].weights)
    assert found[0].binning == found[1].binning


def test_a_score_does_not_depend_on_other_rows():
    """Neither a hot pixel in another candidate nor what is learned beside it changes it."""
    truths = np.random.default_rng(2).integers(100, 2000, (2, 40, 40))
    images = [wide(truth, number) for number, truth in enumerate(truths)]
    hot = [
        ([near, np.where(np.arange(40) == 7, 65535, far).astype(np.uint16)], t) for (near, far), t in images
    ]
    rows = [compare(some, NAMES, methods=["near"])["near"] for some in (images, hot)]
    assert rows[0].psnr == rows[1].psnr
    assert rows[0].ssim == rows[1].ssim
    table = compare(images, NAMES, methods=["near"])
    assert table.settings["peak"] == np.ptp(truths)
    assert table.settings["data_range_from"] == "truth"
    assert table.notes == (
        f"The peak of PSNR is {np.ptp(truths)} (from 100 to 1999, the range of the ground truth).",
    )


def test_candidates_may_have_names_of_methods():
    images = make(2)
    table = compare(images, ("average", "em"), methods=["average", "em"])
    assert [(row.name, row.role) for row in table.rows] == [
        ("average", "candidate"),
        ("average", "method"),
        ("em", "candidate"),
        ("EM (paper)", "method"),
    ]
    assert table["em"].role == "candidate"
    with pytest.raises(EnsembleError, match="2 rows 'average', a candidate and a method"):
        table["average"]


def test_all_rows_are_scored_on_the_same_finite_pixels(one_thread):
    """Every row is scored where everything is finite; nothing else is said to be a bug."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    truths = [rng.random((64, 64)) for _ in range(2)]

    def pair(truth, corner):
        near, far = (truth + rng.normal(0, sigma, truth.shape) for sigma in (0.05, 0.1))
        near[:corner, :corner] = np.nan  # as registration leaves it
        far[-3:, -3:] = [np.inf, -np.inf, np.nan]
        return [near, far], truth

    small = [truth[::2, ::2] for truth in truths]
    table = compare(
        [pair(truth, 40) for truth in truths], NAMES, low_resolution=small, samples=500, device="cpu"
    )
    assert table.settings["not_finite"] == 2 * (40 * 40 + 9)
    assert "3,218 pixels are NaN or infinite" in table.notes[1]
    assert len(table.rows) == 16
    assert all(np.isfinite([row.psnr, row.ssim]).all() for row in table.rows)
    assert table["near"].psnr == pytest.approx(20 * np.log10(np.ptp(truths) / 0.05), abs=0.2)
    assert table["Least squares"].psnr > table["near"].psnr > table["ZZPM (as described)"].psnr - 1
    tiled = compare([pair(truths[0], 40)], NAMES, methods=["linear regression", "em"], device="cpu")
    assert all(np.isfinite(row.psnr) for row in tiled.rows)
    with pytest.raises(EnsembleError, match="image 2: no pixel is finite in every candidate"):
        compare([pair(truths[0], 40), pair(truths[1], 64)], NAMES)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"folds": 1}, "a whole number from 2"),
        ({"folds": 2.5}, "a whole number from 2"),
        ({"methods": ["magic"]}, "no method 'magic'"),
        ({"names": ("one",)}, "names"),
        ({"low_resolution": [np.zeros((4, 4))]}, "1 low-resolution inputs for 4"),
        ({"crop_border": 20}, "leaves nothing"),
        ({"y_channel": True}, "needs red, green and blue"),
    ],
)
def test_bad_input_is_refused(how, words):
    with pytest.raises(EnsembleError, match=words):
        compare(make(4), **({"methods": ["near"], "names": NAMES} | how))


def test_too_few_images_or_pixels_are_refused():
    with pytest.raises(EnsembleError, match="empty"):
        compare([])
    with pytest.raises(EnsembleError, match="too small"):
        compare(marked(1, (1, 1)), folds=5, data_range=(0, 255))
    with pytest.raises(EnsembleError, match="give more images"):
        compare(make(1), folds=2, low_resolution=[np.zeros((4, 4))])


def test_an_exception_of_progress_passes_through():
    class StopHere(KeyboardInterrupt):
        pass

    def progress(done, total, text):
        if done:
            raise StopHere

    with pytest.raises(StopHere):
        compare(make(2), methods=["average", "least-squares"], progress=progress)


def test_scores_equal_those_of_the_reference_data(reference_folder, without_checks, monkeypatch):
    """PSNR as in the README of the reference data, which comes from other code."""
    monkeypatch.setattr(metrics, "ssim", lambda *_: np.nan)  # most of the time, and not in the README
    folder = reference_folder / "deraining"
    names = ("MPRNet", "MAXIM", "Restormer")
    images = References(open_set({name: folder / name for name in names}, {Part.TRUTH: folder / "gt"}))
    own = ["em", "em-released", "least-squares"]
    table = compare(
        images,
        names,
        2,
        (64, 32),
        -1,
        methods=[*names, "average", "ZZPM (released code)", *own, "global least squares"],
    )
    expected = {
        "MPRNet": 34.932,
        "MAXIM": 34.288,
        "Restormer": 36.194,
        "average": 35.925,
        "ZZPM (released code)": 36.010,
        "EM (paper), bin width 64": 35.850,
        "EM (paper), bin width 32": 36.023,
        "global least squares": 36.241,
        "Least squares, bin width 64": 36.282,
        "Least squares, bin width 32": 36.284,
    }
    found = {row.name: row.psnr for row in table.rows}
    assert found.pop("EM (released code), bin width 32") == pytest.approx(36.03, abs=0.01)
    found.pop("EM (released code), bin width 64")  # not in the README
    assert found == pytest.approx(expected, abs=6e-4)
