from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from skimage.data import camera

from napari_ensir.errors import Cancelled, EnsembleError
from napari_ensir.restorers import CLASSICAL, Restorer, SelfEnsemble, with_channel_axis
from napari_ensir.restorers.base import ImageRestorer, check_image, data_range_of
from napari_ensir.restorers.classical import bilateral
from napari_ensir.settings import settings_of

METHODS = sorted(CLASSICAL)


def noisy_camera(noise: float = 15.0) -> tuple[np.ndarray, np.ndarray]:
    clean = camera()[100:196, 200:300].astype(np.float32)
    return clean, clean + np.random.default_rng(0).normal(0, noise, clean.shape).astype(np.float32)


def mse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean((np.asarray(a, float) - b) ** 2))


def test_importing_loads_neither_torch_nor_scikit_image():
    code = (
        "import sys, napari_ensir.restorers, napari_ensir.restorers.classical; "
        "print([m for m in ('torch', 'skimage', 'napari', 'qtpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("shape", "axis", "dtype"),
    [
        ((24, 31), None, np.uint8),
        ((3, 24, 31), 0, np.uint16),
        ((24, 31, 3), -1, np.float64),
        ((4, 24, 3, 31), 2, np.float32),
        ((2, 2, 24, 31), None, np.int16),
    ],
)
def test_keeps_shape_and_units_and_does_not_change_its_input(method, shape, axis, dtype):
    image = np.random.default_rng(1).integers(20, 200, shape).astype(dtype)
    before = image.copy()
    restorer = CLASSICAL[method](channel_axis=axis)
    restored = restorer(image)
    assert isinstance(restorer, Restorer)
    assert restored.shape == shape
    assert restored.dtype == np.float32
    np.testing.assert_array_equal(image, before)
    assert 60 < restored.mean() < 160


@pytest.mark.parametrize("method", ["non-local-means", "total-variation", "wavelet", "bilateral", "gaussian"])
def test_default_settings_remove_noise(method):
    clean, noisy = noisy_camera()
    assert mse(CLASSICAL[method]()(noisy), clean) < 0.7 * mse(noisy, clean)


@pytest.mark.parametrize("method", ["richardson-lucy", "unsupervised-wiener"])
def test_deconvolution_sharpens(method):
    from scipy.ndimage import gaussian_filter

    clean, _ = noisy_camera()
    blurred = gaussian_filter(clean, 1.5)
    restored = CLASSICAL[method](psf_sigma=1.5)(blurred)
    assert mse(restored, clean) < 0.8 * mse(blurred, clean)


@pytest.mark.parametrize("method", [m for m in METHODS if "deconv" not in m])
def test_structures_keep_their_position(method):
    y, x = np.mgrid[:41, :41]
    spot = 100 + 40 * np.exp(-((y - 20.0) ** 2 + (x - 20.0) ** 2) / 8)
    restorer = CLASSICAL[method]
    settings = {"noise": 10.0} if "noise" in {field.name for field in fields(restorer)} else {}
    raised = np.clip(restorer(**settings)(spot) - 101, 0, None)
    centre = [float((axis * raised).sum() / raised.sum()) for axis in (y, x)]
    np.testing.assert_allclose(centre, 20, atol=0.2)  # scikit-image's non-local means: 0.14


def test_bilateral_agrees_with_its_definition():
    rng = np.random.default_rng(5)
    image = rng.uniform(0, 50, (2, 9, 8)).astype(np.float32)
    padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode="symmetric")
    expected = np.empty_like(image)
    for row, column in np.ndindex(image.shape[1:]):
        window = padded[:, row : row + 7, column : column + 7].astype(float)
        far = sum(np.square(np.mgrid[-3:4, -3:4]))
        apart = ((window - image[:, row, column, None, None]) ** 2).sum(axis=0)
        weight = np.exp(-far / 2 - apart / (2 * 20.0**2))
        expected[:, row, column] = (weight * window).sum(axis=(1, 2)) / weight.sum()
    np.testing.assert_allclose(bilateral(image, 20.0, 1.0), expected, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_results_scale_with_the_intensities(method):
    _, noisy = noisy_camera()
    noisy = noisy[:40, :40]
    once, scaled = CLASSICAL[method]()(noisy), CLASSICAL[method]()(noisy * 1000 + 500)
    np.testing.assert_allclose(scaled, once * 1000 + 500, atol=1000 * 0.3)


def test_given_noise_is_in_the_units_of_the_image():
    _, noisy = noisy_camera()
    restorer = CLASSICAL["total-variation"]
    weak, strong = restorer(noise=1.0)(noisy), restorer(noise=50.0)(noisy)
    assert weak.std() > strong.std()
    assert mse(weak, noisy) < mse(strong, noisy)


@pytest.mark.parametrize("method", [m for m in METHODS if not CLASSICAL[m].planes_only])
def test_volumes_are_restored_as_volumes(method):
    volume = np.random.default_rng(2).normal(100, 10, (6, 20, 22)).astype(np.float32)
    by_plane, whole = CLASSICAL[method]()(volume), CLASSICAL[method](spatial_ndim=3)(volume)
    np.testing.assert_allclose(by_plane[2], CLASSICAL[method](data_range=data_range_of(volume))(volume[2]))
    assert not np.allclose(by_plane, whole)


@pytest.mark.parametrize("method", [m for m in METHODS if CLASSICAL[m].planes_only])
def test_methods_for_planes_refuse_volumes(method):
    with pytest.raises(EnsembleError, match="plane by plane"):
        CLASSICAL[method](spatial_ndim=3)(np.zeros((5, 9, 9)))


@pytest.mark.parametrize("method", METHODS)
def test_constant_images_stay_constant(method):
    np.testing.assert_allclose(CLASSICAL[method]()(np.full((12, 12), 7.0)), 7.0, atol=1e-3)


@pytest.mark.parametrize(
    ("image", "axis", "message"),
    [
        (np.full((8, 8), np.nan), None, "NaN"),
        (np.full((8, 8), np.inf), None, "infinite"),
        (np.zeros((0, 8)), None, "empty"),
        (np.zeros(8), None, "two or more"),
        (np.zeros((8, 3)), -1, "two or more"),
        (np.zeros((8, 8, 3)), 3, "does not exist"),
        (np.zeros((8, 8), bool), None, "dtype bool"),
        (np.zeros((8, 8), complex), None, "dtype complex"),
        (np.zeros((3, 8)), None, "at least 5 x 5"),
    ],
)
def test_bad_images_are_refused_in_one_sentence(image, axis, message):
    with pytest.raises(EnsembleError, match=message):
        CLASSICAL["gaussian"](channel_axis=axis)(image)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("gaussian", {"sigma": -1.0}, "sigma is -1.0; use a number from 0 to"),
        ("gaussian", {"spatial_ndim": 3}, "cannot restore 3 dimensions"),
        ("gaussian", {"data_range": (3.0, 3.0)}, "data range"),
        ("wavelet", {"wavelet": "haar9"}, "wavelet is .haar9.; use one of"),
        ("median", {"size": 99}, "size is 99; use a whole number from"),
    ],
)
def test_bad_parameters_are_refused(method, settings, message):
    with pytest.raises(EnsembleError, match=message):
        CLASSICAL[method](**settings)(np.zeros((8, 8)))


@pytest.mark.parametrize("method", METHODS)
def test_settings_have_titles_descriptions_and_valid_defaults(method):
    kind = CLASSICAL[method]
    assert kind.title
    assert kind.description.endswith(".")
    assert kind().name == kind.title
    for each in settings_of(kind):
        assert each.title
        assert each.description.endswith(".")
        assert each.checked(each.default) == each.default
    assert not {"channel_axis", "data_range"} & {each.name for each in settings_of(kind)}


def test_progress_counts_planes_and_cancels_between_them():
    calls = []
    stack = np.random.default_rng(0).random((4, 8, 8))
    CLASSICAL["gaussian"]()(stack, progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(done: int, total: int, text: str) -> None:
        if done == 2:
            raise Cancelled(text)

    with pytest.raises(Cancelled):
        CLASSICAL["gaussian"]()(stack, progress=stop)


class Asymmetric(ImageRestorer):
    """Adds a ramp along columns."""

    name = "asymmetric"

    def restore_unit(self, image, scale, progress):
        progress(0, 1, "asymmetric")
        return image + np.arange(image.shape[-1], dtype=np.float32)


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_self_ensemble_is_symmetric_and_counts_eight(axis):
    shape = {None: (5, 8), 0: (3, 5, 8), -1: (5, 8, 3)}[axis]
    image = np.random.default_rng(0).random(shape)
    calls = []
    restored = SelfEnsemble(restorer=Asymmetric(channel_axis=axis, data_range=(0.0, 1.0)))(
        image, progress=lambda *call: calls.append(call[:2])
    )
    # The ramp's average over the eight orientations is its mean along either axis: a constant.
    np.testing.assert_allclose(restored - image, 0.5 * (3.5 + 2.0), atol=1e-5)
    assert calls == [(index, 8) for index in range(8)]


def test_self_ensemble_of_a_symmetric_restorer_changes_nothing():
    image = np.random.default_rng(0).random((3, 9, 14))
    restorer = CLASSICAL["median"]()
    np.testing.assert_allclose(SelfEnsemble(restorer=restorer)(image), restorer(image), atol=1e-6)
    assert SelfEnsemble(restorer=restorer).name == "Median x8"


def test_the_channel_axis_reaches_a_wrapped_restorer():
    changed = with_channel_axis(SelfEnsemble(restorer=CLASSICAL["wavelet"]()), -1)
    assert changed.channel_axis == changed.restorer.channel_axis == -1
    assert with_channel_axis(len, 0) is len


def test_a_restorer_that_changes_the_shape_is_refused():
    class Cropping(Asymmetric):
        def restore_unit(self, image, scale, progress):
            return image[..., 1:]

    with pytest.raises(EnsembleError, match="keep the shape"):
        Cropping()(np.zeros((6, 6)))


def test_restorers_are_immutable_values_that_compare_equal():
    restorer = CLASSICAL["median"](size=5)
    assert replace(restorer, size=3) == CLASSICAL["median"]()
    names = [field.name for field in fields(restorer)]
    assert names[-3:] == ["hot_pixels", "noise_models", "size"]
    assert check_image([[1, 2], [3, 4]]).dtype.kind == "i"
