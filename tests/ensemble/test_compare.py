from __future__ import annotations

import json

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from napari_ensir import EnsembleError, compare, fit_lut
from napari_ensir.ensemble.baselines import WeightedAverage
from napari_ensir.ensemble.scoring import Scoring, shown_range
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

    def fit(self, reference, progress=None):
        self.learned = [int(truth.flat[0]) for _, truth in reference]

    def predict(self, candidates, low_resolution=None):
        self.log.append((self.learned, int(candidates[0].flat[0])))
        return np.full(candidates[0].shape, 7.0)


def marked(n, shape=(16, 16)):
    return [([np.full(shape, i, np.uint8)] * 2, np.full(shape, i, np.uint8)) for i in range(n)]


def test_nothing_is_predicted_by_what_learned_from_it():
    spy = Spy()
    table = compare(marked(5), folds=3, methods=[spy])
    asked = spy.log[1:]  # the first is the warm-up, which is not scored
    assert asked == [([1, 2, 4], 0), ([1, 2, 4], 3), ([0, 2, 3], 1), ([0, 2, 3], 4), ([0, 1, 3, 4], 2)]
    assert table["spy"].note == "looks on"


def test_one_image_is_held_out_by_tiles():
    spy = Spy()
    rows = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16)
    table = compare([([rows.copy(), rows.copy()], rows)], folds=2, methods=[spy])
    assert table.settings["held_out"] == "tiles"
    tiles = {int(rows[i, j]): (i // 2 + j // 2) % 2 for i in range(0, 16, 2) for j in range(0, 16, 2)}
    for learned, asked in spy.log[1:]:
        assert {tiles[one] for one in learned} == {1 - tiles[asked]}
    assert len(spy.log) == 1 + 64


def test_even_and_odd_by_hand():
    images = make(4)
    table = compare(images, NAMES, bin_width=32, methods=["least-squares"])
    expected = []
    for number, (candidates, truth) in enumerate(images):
        lut = fit_lut(images[1 - number % 2 :: 2], NAMES, "least-squares", bin_width=32)
        result = lut.apply(candidates).clip(0, 255)
        expected.append(peak_signal_noise_ratio(truth.astype(float), result, data_range=255))
    (row,) = table.rows
    assert row.psnr == pytest.approx(np.mean(expected), abs=1e-6)
    assert row.name == "Least squares, bin width 32"
    assert row.fit_seconds > 0
    assert row.image_seconds > 0


def test_every_row(one_thread):
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


def test_outputs_are_clipped_before_scoring():
    truth = np.zeros((16, 16), np.uint8)
    images = [([truth.copy(), truth + 1], truth)] * 2
    table = compare(images, methods=[WeightedAverage((-1.0, -1.0, 3.0)[1:], name="below")])
    assert table["below"].psnr < np.inf
    below = WeightedAverage((3.0, -1.0), name="below")
    assert compare(images, methods=[below])["below"].psnr == np.inf


def test_scoring_as_papers_do_it():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (40, 44, 3), np.uint8)
    image = np.clip(truth + rng.normal(0, 9, truth.shape), 0, 255)
    psnr, ssim = Scoring((0, 255), crop_border=4)(truth, image)
    inner = np.s_[4:-4, 4:-4]
    assert psnr == pytest.approx(peak_signal_noise_ratio(truth[inner] * 1.0, image[inner], data_range=255))
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(
        truth[inner] * 1.0, image[inner], data_range=255, channel_axis=-1, **window
    )
    assert ssim == pytest.approx(expected)
    y_psnr, _ = Scoring((0, 255), y_channel=True, crop_border=4)(truth, image)
    y = [16 + x[inner] @ np.array([65.481, 128.553, 24.966]) / 255 for x in (truth * 1.0, image)]
    assert y_psnr == pytest.approx(peak_signal_noise_ratio(*y, data_range=255))
    first = Scoring((0, 255), y_channel=True, crop_border=4, channel_axis=0)
    np.testing.assert_allclose(first(np.moveaxis(truth, -1, 0), np.moveaxis(image, -1, 0))[0], y_psnr)
    scaled, _ = Scoring((0, 1), y_channel=True, crop_border=4)(truth / 255, image / 255)
    assert scaled == pytest.approx(y_psnr)


def test_shown_range():
    assert shown_range([np.zeros((2, 2), np.uint8)]) == (0, 255)
    assert shown_range([np.array([3, 900], np.uint16)]) == (3, 900)
    with pytest.raises(EnsembleError, match="nothing to score"):
        shown_range([np.array([np.nan])])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"folds": 1}, "2 or more"),
        ({"folds": 2.5}, "2 or more"),
        ({"methods": ["magic"]}, "no method 'magic'"),
        ({"names": ("one",)}, "names"),
        ({"low_resolution": [np.zeros((4, 4))]}, "1 low-resolution inputs for 4"),
        ({"crop_border": 20}, "leaves nothing"),
        ({"y_channel": True}, "needs red, green and blue"),
    ],
)
def test_bad_input(how, words):
    with pytest.raises(EnsembleError, match=words):
        compare(make(4), **({"methods": ["near"], "names": NAMES} | how))


def test_too_little_to_hold_out():
    with pytest.raises(EnsembleError, match="empty"):
        compare([])
    with pytest.raises(EnsembleError, match="too small"):
        compare(marked(1, (1, 1)), folds=5, data_range=(0, 255))
    with pytest.raises(EnsembleError, match="give more images"):
        compare(make(1), folds=2, low_resolution=[np.zeros((4, 4))])


def test_cancelled():
    class StopHere(KeyboardInterrupt):
        pass

    def progress(done, total, text):
        if done:
            raise StopHere

    with pytest.raises(StopHere):
        compare(make(2), methods=["average", "least-squares"], progress=progress)


def test_the_reference_table(reference_folder):
    """The figures of the reference data's own README, which come from other code."""
    folder = reference_folder / "deraining"
    names = ("MPRNet", "MAXIM", "Restormer")
    images = References(open_set({name: folder / name for name in names}, {Part.TRUTH: folder / "gt"}))
    own = ["em", "least-squares"]
    table = compare(
        images,
        names,
        2,
        (64, 32, 16),
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
        "EM (paper), bin width 16": 36.006,
        "global least squares": 36.241,
        "Least squares, bin width 64": 36.282,
        "Least squares, bin width 32": 36.284,
        "Least squares, bin width 16": 36.282,
    }
    found = {row.name: row.psnr for row in table.rows}
    assert found == pytest.approx(expected, abs=6e-4)
