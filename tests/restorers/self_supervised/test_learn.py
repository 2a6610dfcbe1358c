"""Learning from noisy images alone."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.data import camera

from napari_ensir import fit_lut, learn_blind
from napari_ensir.errors import Cancelled, EnsembleError
from napari_ensir.restorers import CLASSICAL, SelfEnsemble, blind_reference, restore_and_combine
from napari_ensir.restorers.base import as_restorer
from napari_ensir.restorers.networks.external import ExternalNetwork
from napari_ensir.restorers.self_supervised.j_invariant import HiddenGrid, restore_hidden

GAUSSIAN, MEDIAN, TV = (CLASSICAL[key] for key in ("gaussian", "median", "total-variation"))
WAVELET, NLM = CLASSICAL["wavelet"], CLASSICAL["non-local-means"]


def identity(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32)


def small_network(channel_axis: int | None = None) -> ExternalNetwork:
    import torch

    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 3, padding=1).eval()
    settings = {"channels": 1, "device": "cpu", "data_range": (0, 255), "channel_axis": channel_axis}
    return ExternalNetwork(network=network, label="network", **settings)


def error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean((np.asarray(image, float) - truth) ** 2))


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.asarray(image, float) - truth) ** 2)))


@pytest.fixture(scope="module")
def exposures() -> tuple[np.ndarray, np.ndarray]:
    """A clean image on 0..255 and a noisy exposure of it."""
    clean = camera()[120:264, 160:304].astype(float)
    return clean, clean + np.random.default_rng(0).normal(0, 20, clean.shape)


CASES = [((37, 44), None), ((3, 37, 44), 0), ((31, 40, 3), -1), ((5, 26, 3, 33), 2), ((2, 3, 24, 31), None)]


METHODS = [*sorted(set(CLASSICAL) - {"unsupervised-wiener"}), "x8", "network"]
IMAGES = [((33, 40), None), ((30, 36, 3), -1), ((4, 30, 36), None)]
DTYPES = [np.uint8, np.uint16, np.float32]
METHODS_AND_IMAGES = [
    (method, *image, DTYPES[(number + place) % 3])
    for number, method in enumerate(METHODS)
    for place, image in enumerate(IMAGES)
]
"""Each method with each shape, each method with each dtype, and each shape with each dtype."""


class TestHiddenPixels:
    @pytest.mark.parametrize(("shape", "axis"), CASES)
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
    def test_identity_gives_the_mean_of_four_neighbours(self, shape, axis, dtype):
        """Against a plain loop: which pixel is where, and what stands in for it."""
        image = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
        grid = HiddenGrid(shape, axis, stride=5, offsets=3, seed=2)
        kept = restore_hidden(image, as_restorer(identity), grid)
        pixels = grid.select(grid.planes(image))
        n_channels = 1 if axis is None else shape[axis]
        last = image[..., np.newaxis] if axis is None else np.moveaxis(image, axis, -1)
        planes = np.moveaxis(last, -1, -3)
        # planes, channels, rows, columns
        flat = planes.reshape(-1, n_channels, *planes.shape[-2:])
        rows, columns = flat.shape[-2:]
        kept = kept.reshape(len(flat), 3, rows // 5, columns // 5, n_channels)
        pixels = pixels.reshape(kept.shape)

        def mirrored(place, size):
            return -place if place < 0 else 2 * size - 2 - place if place >= size else place

        for plane, places in enumerate(grid.positions()):
            for run, (row, column) in enumerate(places):
                for i, j in [(0, 0), (rows // 5 - 1, columns // 5 - 1), (1, 2)]:
                    r, c = row + 5 * i, column + 5 * j
                    near = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
                    near = [(mirrored(a, rows), mirrored(b, columns)) for a, b in near]
                    for channel in range(n_channels):
                        mean = np.mean([float(flat[plane, channel, a, b]) for a, b in near])
                        mean = np.rint(mean) if image.dtype.kind in "iu" else mean
                        assert kept[plane, run, i, j, channel] == pytest.approx(mean, rel=1e-6)
                        assert pixels[plane, run, i, j, channel] == flat[plane, channel, r, c]

    @pytest.mark.parametrize(("method", "shape", "axis", "dtype"), METHODS_AND_IMAGES)
    def test_kept_pixels_do_not_depend_on_hidden_ones(self, method, shape, axis, dtype):
        rng = np.random.default_rng(1)
        image = rng.integers(20, 200, shape).astype(dtype)
        if method == "network":
            restorer = small_network(axis)
        elif method == "x8":
            restorer = SelfEnsemble(restorer=GAUSSIAN(channel_axis=axis))
        else:
            volume = method in ("gaussian", "median") and axis is None and len(shape) == 3
            restorer = CLASSICAL[method](channel_axis=axis, spatial_ndim=3 if volume else 2)
        grid = HiddenGrid(shape, axis, stride=4, offsets=1, seed=3)
        before = restore_hidden(image, restorer, grid)
        (mask,) = grid.masks()
        changed = grid.planes(image).copy()
        changed[mask] = rng.integers(0, 255, int(mask.sum())).astype(dtype)
        changed = grid.image(changed)
        assert (changed != image).any()
        after = restore_hidden(changed, restorer, grid)
        np.testing.assert_array_equal(before, after)
        # and it is a test at all: what was not hidden does change them
        if method not in ("richardson-lucy",):
            image[...] = rng.permutation(image.ravel()).reshape(shape)
            assert (restore_hidden(image, restorer, grid) != before).any()

    def test_restorers_that_work_in_place_do_not_change_the_image(self):
        def spoiler(image):
            image[...] = 0
            return image

        image = np.random.default_rng(0).integers(0, 200, (24, 24)).astype(np.uint8)
        before = image.copy()
        learn_blind(image, [spoiler, GAUSSIAN()], device="cpu")
        np.testing.assert_array_equal(image, before)

    def test_every_pixel_is_hidden_once_in_all_runs(self):
        grid = HiddenGrid((3, 12, 20), stride=4, offsets=16)
        assert (np.sum([mask.astype(int) for mask in grid.masks()], axis=0) == 1).all()

    def test_neighbouring_planes_hide_other_pixels(self):
        grid = HiddenGrid((4, 24, 24), stride=4, offsets=3)
        for mask in grid.masks():
            assert not (mask[..., 1:] & mask[..., :-1]).any()


class TestLearnBlind:
    def test_is_nearly_as_good_as_a_clean_reference(self, exposures):
        clean, noisy = exposures
        restorers = [WAVELET(), NLM(), TV(strength=0.7)]
        candidates = [restorer(noisy) for restorer in restorers]
        blind = learn_blind(noisy, restorers, data_range=(0, 255), device="cpu")
        how = {"method": "least-squares", "data_range": (0, 255), "device": "cpu"}
        best = fit_lut([(candidates, clean)], blind.names, **how)
        scores = [psnr(lut.apply(candidates, "cpu"), clean) for lut in (blind, best)]
        assert scores[0] > scores[1] - 0.25
        assert scores[0] > max(psnr(candidate, clean) for candidate in candidates)
        assert scores[0] > psnr(np.mean(candidates, axis=0), clean) + 0.1

    def test_ordinary_results_scored_by_their_own_input_favour_the_least_denoised(self):
        rows, columns = np.mgrid[:96, :96]
        clean = 100 + 40 * np.sin(rows / 9) * np.cos(columns / 13)
        noisy = clean + np.random.default_rng(0).normal(0, 20, clean.shape)
        restorers = [GAUSSIAN(sigma=0.3), GAUSSIAN(sigma=2)]
        blind = learn_blind(noisy, restorers, ("sharp", "smooth"), data_range=(0, 255), device="cpu")
        pair = [restorer(noisy) for restorer in restorers], noisy
        seen = fit_lut([pair], method="least-squares", data_range=(0, 255), device="cpu")
        assert seen.fallback[0, 0] > 0.9
        assert blind.fallback[0, 0] < 0.1

    def test_equal_seeds_give_equal_tables(self, exposures):
        _, noisy = exposures
        tables = [
            learn_blind(noisy[:60, :60], [GAUSSIAN(), MEDIAN()], seed=seed, device="cpu")
            for seed in (1, 1, 2)
        ]
        np.testing.assert_array_equal(tables[0].rows, tables[1].rows)
        np.testing.assert_array_equal(tables[0].weights, tables[1].weights)
        assert tables[0].rows.shape != tables[2].rows.shape or (tables[0].weights != tables[2].weights).any()

    def test_takes_networks_functions_and_self_ensembles(self, exposures):
        _, noisy = exposures
        restorers = [identity, small_network(), SelfEnsemble(restorer=TV(iterations=5))]
        lut = learn_blind(noisy[:48, :48], restorers, device="cpu")
        assert lut.names == ("identity", "network", "Total variation x8")

    @pytest.mark.parametrize(
        ("shape", "axis", "kept"), [((40, 44, 3), -1, -1), ((3, 40, 44), 0, 0), ((2, 40, 3, 44), 2, 2)]
    )
    def test_each_channel_has_its_own_table(self, shape, axis, kept):
        image = np.random.default_rng(0).integers(20, 200, shape).astype(np.uint8)
        restorers = [GAUSSIAN(sigma=0.5), GAUSSIAN(sigma=2.0)]
        lut = learn_blind(image, restorers, ("a", "b"), channel_axis=axis, device="cpu")
        assert (lut.n_channels, lut.channel_axis, lut.data_range) == (3, kept, (0, 255))
        candidates = [type(r)(sigma=r.sigma, channel_axis=axis)(image) for r in restorers]
        assert lut.apply(candidates, "cpu").shape == shape

    def test_own_channel_axis_of_restorers_is_pooled(self):
        image = np.random.default_rng(0).integers(20, 200, (40, 44, 3)).astype(np.uint8)
        reference = blind_reference(image, [GAUSSIAN(channel_axis=-1), identity])
        assert reference.pairs[0][1].shape == (6, 6, 7, 3)
        assert reference.learn(device="cpu").n_channels == 1

    @pytest.mark.parametrize("with_channels", [False, True])
    def test_learns_only_from_pixels_of_the_mask(self, with_channels):
        rng = np.random.default_rng(0)
        image = rng.normal(100, 10, (48, 60, 3))
        mask = rng.random((48, 60)) < 0.5
        reference = blind_reference(
            image,
            [GAUSSIAN(), MEDIAN()],
            channel_axis=-1,
            mask=np.repeat(mask[..., None], 3, 2) if with_channels else mask,
        )
        pixels = reference.pairs[0][1]
        where = reference.masks[0] if with_channels else reference.masks[0][..., None]
        inside = set(image[mask].ravel().tolist())
        assert all(
            (value in inside) == ok
            for value, ok in zip(
                pixels.ravel().tolist(), np.broadcast_to(where, pixels.shape).ravel().tolist(), strict=True
            )
        )
        # each pixel counts twice: hidden, and seen
        assert (
            reference.learn(device="cpu").report["pixels"] == 2 * np.broadcast_to(where, pixels.shape).sum()
        )

    @pytest.mark.filterwarnings("ignore:.*neighbouring pixels is correlated")
    @pytest.mark.parametrize(("shape", "axis"), CASES)
    def test_visible_pairs_are_the_ordinary_results_at_the_hidden_pixels(self, shape, axis):
        image = np.random.default_rng(0).integers(20, 200, shape).astype(np.uint8)
        restorers = [GAUSSIAN(channel_axis=axis), identity]
        mask = np.random.default_rng(1).random(shape) < 0.7
        reference = blind_reference(
            image, restorers, stride=5, offsets=3, channel_axis=axis, mask=mask, keep_restored=True
        )
        grid = HiddenGrid(shape, axis, stride=5, offsets=3)
        (seen, told), (hidden, noisy) = reference.visible_pairs[0], reference.pairs[0]
        for kept, whole, restorer in zip(seen, reference.restored[0], restorers, strict=True):
            np.testing.assert_array_equal(whole, restorer(image))
            np.testing.assert_array_equal(kept, grid.select(grid.planes(whole)))
        assert told.shape == noisy.shape
        (((gaussian, _), beside),), (where,) = reference.scored_pairs
        runs = -3 if axis is None else -4
        for both, one, other in ((gaussian, hidden[0], seen[0]), (beside, noisy, told)):
            first, second = np.split(both, 2, axis=runs)
            np.testing.assert_array_equal(first, one.astype(first.dtype))
            np.testing.assert_array_equal(second, other)
        np.testing.assert_array_equal(np.split(where, 2, axis=runs)[1], reference.masks[0])

    def test_noise_that_a_restorer_keeps_counts_against_it(self):
        """Hidden pixels alone do not show it, since their replacements have less noise."""
        rng = np.random.default_rng(4)
        noisy = 100 + rng.normal(0, 20, (120, 120))
        flat = np.full(noisy.shape, 97.0, np.float32)

        def keeps_outliers(image):
            """Flat, but for what lies far from its four neighbours."""
            around = sum(np.roll(image, step, axis) for step in (-1, 1) for axis in (0, 1)) / 4
            return np.where(np.abs(image - around) > 30, image, 100.0)

        scores = blind_reference(noisy, [keeps_outliers, lambda image: flat], ("keeps", "flat")).scores()
        hidden = blind_reference(noisy, [keeps_outliers, lambda image: flat], ("keeps", "flat")).pairs[0]
        errors = [error(each, hidden[1]) for each in hidden[0]]
        assert errors[0] < errors[1]  # by hidden pixels alone it would be the better one
        assert scores.ranked[0] == 1
        assert scores.difference(0, 1).significant

    def test_several_images_of_several_sizes(self):
        rng = np.random.default_rng(0)
        images = [rng.normal(100, 10, shape) for shape in [(30, 36), (48, 50)]]
        lut = learn_blind(images, [GAUSSIAN(), MEDIAN()], device="cpu")
        assert lut.report["images"] == 2
        assert lut.report["pixels"] == 2 * 6 * (5 * 6 + 8 * 8)
        assert lut.report["blind"].items() >= {"stride": 6, "offsets": 6, "seed": 0}.items()
        assert lut.report["truth_noise"] == "unknown"

    def test_bins_and_shrinkage_can_be_chosen(self, exposures):
        lut = learn_blind(
            exposures[1], [GAUSSIAN(), MEDIAN()], bin_width="auto", shrinkage="auto", device="cpu"
        )
        assert lut.bin_width > 0

    def test_table_can_be_saved_and_loaded(self, exposures, tmp_path):
        from napari_ensir import load_lut

        lut = learn_blind(exposures[1][:60, :60], [GAUSSIAN(), MEDIAN()], device="cpu")
        again = load_lut(lut.save(tmp_path / "blind"))
        np.testing.assert_array_equal(again.weights, lut.weights)
        assert again.report["blind"] == lut.report["blind"]


class TestRestoreAndCombine:
    def test_equals_learn_blind_and_apply(self, exposures):
        _, noisy = exposures
        noisy = noisy[:72, :72]
        restorers = [GAUSSIAN(), MEDIAN()]
        combined = restore_and_combine(noisy, restorers, device="cpu")
        lut = learn_blind(noisy, restorers, device="cpu")
        candidates = [restorer(noisy) for restorer in restorers]
        np.testing.assert_array_equal(combined.candidates, candidates)
        np.testing.assert_array_equal(combined.ensemble, lut.apply(candidates, "cpu"))
        assert combined.names == ("Gaussian", "Median")

    def test_table_has_input_candidates_average_and_ensemble(self, exposures):
        clean, noisy = exposures
        restorers = [WAVELET(), TV(strength=0.7), GAUSSIAN()]
        found = restore_and_combine(noisy, restorers, device="cpu")
        scores = found.scores
        roles = ("candidate", "candidate", "candidate", "average", "ensemble", "input")
        assert scores.roles == roles
        images = [*found.candidates, np.mean(found.candidates, axis=0), found.ensemble, noisy]
        true = np.array([error(each, clean) for each in images])
        differences = np.array([row.difference for row in scores.rows])
        assert list(scores.ranked) == np.argsort(true).tolist()
        np.testing.assert_allclose(differences, true - true[3], atol=0.1 * true[3] + 0.1 * 20**2)
        assert found.lut.report["scores"]["rows"] == scores.to_dict()["rows"]
        assert found.lut.report["scores"]["summary"] == found.summary
        assert found.summary.startswith("The ensemble is better than the best candidate (")

    def test_psnr_is_shown_where_the_noise_is_known_well_enough(self, exposures):
        clean, _ = exposures
        noisy = clean + np.random.default_rng(1).normal(0, 8, clean.shape)
        found = restore_and_combine(noisy, [GAUSSIAN(sigma=1), MEDIAN()], device="cpu", data_range=(0, 255))
        for row, image in zip(found.scores.rows, [*found.candidates], strict=False):
            assert row.psnr == pytest.approx(psnr(image, clean), abs=1)
        assert found.scores.rows[-1].psnr == pytest.approx(psnr(noisy, clean), abs=1)

    @pytest.mark.parametrize("work", [learn_blind, restore_and_combine])
    def test_progress_rises_and_can_cancel(self, exposures, work):
        seen = []
        noisy = exposures[1][:48, :48]
        work(noisy, [GAUSSIAN(), MEDIAN()], device="cpu", progress=lambda *step: seen.append(step))
        restoring = [done / total for done, total, text in seen if "pixels" not in text or "hidden" in text]
        assert restoring == sorted(restoring)
        assert restoring[-1] == 1
        assert any("hidden pixels 6 of 6" in text for *_, text in seen)

        def cancel(done, total, text):
            if "hidden" in text:
                raise Cancelled

        with pytest.raises(Cancelled):
            work(noisy, [GAUSSIAN(), MEDIAN()], device="cpu", progress=cancel)


IMAGE = np.random.default_rng(0).normal(100, 10, (24, 24))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"stride": 1}, "stride is 1"),
        ({"offsets": 37}, "37 offsets"),
        ({"offsets": 0}, "offsets is 0"),
        ({"images": IMAGE[:4]}, "smaller stride"),
        ({"images": IMAGE[0]}, "image 1: the image has shape"),
        ({"images": []}, "there is no image"),
        ({"images": IMAGE * np.nan}, "NaN"),
        ({"restorers": []}, "there is no restorer"),
        ({"restorers": [3]}, "3 is not a restorer"),
        ({"restorers": [GAUSSIAN(), GAUSSIAN(sigma=2)]}, "used for two candidates"),
        ({"restorers": [lambda image: image[1:]]}, "keep the shape"),
        ({"restorers": [lambda image: image * np.inf]}, "not finite"),
        ({"names": ["one"]}, "2 candidates but 1 names"),
        ({"mask": np.ones((3, 3), bool)}, "mask has shape"),
        ({"mask": [None, None]}, "2 masks for 1"),
        ({"images": np.ones((24, 24))}, "constant"),
        ({"restorers": [GAUSSIAN(channel_axis=0), MEDIAN(channel_axis=1)]}, "different channel axes"),
    ],
)
def test_invalid_input_raises(arguments, sentence):
    given = {"images": IMAGE, "restorers": [GAUSSIAN(), MEDIAN()], "device": "cpu", **arguments}
    with pytest.raises(EnsembleError, match=sentence):
        learn_blind(**given)
