"""Results of large stacks are dask arrays: the same pixels, computed when a plane is shown."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from napari_ensir import EnsembleError, WeightLUT, fit_lut
from napari_ensir.viewer.results import combining
from napari_ensir.viewer.results.combining import by_plane, combine, difference

RNG = np.random.default_rng(2)


def stack(shape, dtype=np.uint8):
    truth = RNG.uniform(20, 230, shape)
    return [(truth + RNG.normal(0, 9, shape)).clip(0, 255).astype(dtype) for _ in range(2)], truth.astype(
        dtype
    )


CASES = {
    "grey": ((5, 16, 12), False, None, np.uint16),
    "colour, pooled": ((4, 10, 12, 3), True, None, np.uint8),
    "colour, a table each": ((4, 10, 12, 3), True, -1, np.uint8),
    "channels first": ((3, 10, 12), False, 0, np.float32),
    "time and channels": ((4, 3, 10, 12), False, 1, np.float32),
}


@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
@pytest.mark.parametrize(("shape", "rgb", "axis", "dtype"), CASES.values(), ids=CASES)
def test_dask_arrays_have_the_pixels_of_numpy_arrays(monkeypatch, shape, rgb, axis, dtype, lazy):
    candidates, truth = stack(shape, dtype)
    lut = fit_lut([(candidates, truth)], method="least-squares", channel_axis=axis, device="cpu")
    whole = combine(lut, candidates, rgb, "cpu")
    monkeypatch.setattr(combining, "VIEWED", 0)
    given = [da.from_array(one, 5) for one in candidates] if lazy else candidates
    views = combine(lut, given, rgb, "cpu")
    for name in ("image", "exact", "maps"):
        view, array = getattr(views, name), getattr(whole, name)
        assert isinstance(view, da.Array)
        assert (view.shape, view.dtype) == (array.shape, array.dtype)
        np.testing.assert_allclose(np.asarray(view), array, rtol=1e-6)
        np.testing.assert_allclose(view[1], array[1], rtol=1e-6)
        np.testing.assert_allclose(view[..., 2, 1:], array[..., 2, 1:], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(views.most_trusted), whole.most_trusted)
    for view, array in ((views.exact, whole.exact), (given[0], candidates[0])):
        wanted = array.astype(np.float32) - truth.astype(np.float32)
        found = difference(view, truth, rgb)
        assert isinstance(found, da.Array)
        np.testing.assert_allclose(np.asarray(found), wanted.mean(-1) if rgb else wanted, atol=1e-4)


def test_planes_and_small_stacks_are_arrays(monkeypatch):
    candidates, truth = stack((16, 12))
    lut = fit_lut([(candidates, truth)], device="cpu")
    assert isinstance(combine(lut, candidates, False, "cpu").exact, np.ndarray)
    few, _ = stack((3, 16, 12))
    assert isinstance(combine(lut, few, False, "cpu").exact, np.ndarray)
    monkeypatch.setattr(combining, "VIEWED", 0)
    assert isinstance(combine(lut, candidates, False, "cpu").exact, np.ndarray)
    with pytest.raises(EnsembleError, match="the LUT combines 2"):
        combine(lut, few[:1], False, "cpu")


def test_a_change_of_method_touches_no_hidden_plane(viewer, wait_for, monkeypatch):
    """On the real canvas, and for every way to show weights."""
    monkeypatch.setattr(combining, "VIEWED", 0)
    images, truth = stack((4, 24, 20))
    layers = [viewer.add_image(image, name=name) for name, image in zip("ab", images, strict=True)]
    true = viewer.add_image(truth, name="ground truth")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.method.value = "em"
    widget.candidates.value, widget.ground_truth.value = layers, true
    viewer.dims.set_current_step(0, 2)
    widget.fit()
    wait_for(widget)
    ensemble = next(layer for layer in viewer.layers if layer.name.startswith("ensemble"))
    assert isinstance(ensemble.data, da.Array)

    shown = []

    def watch(name):
        original = getattr(WeightLUT, name)

        def watched(self, candidates, *args, **keywords):
            shown.append(np.asarray(candidates[0]))
            return original(self, candidates, *args, **keywords)

        monkeypatch.setattr(WeightLUT, name, watched)

    watch("apply")
    watch("weight_maps")
    for view in ("slider", "layers", "trusted"):
        widget.weights.value = view
        wait_for(widget)
        for layer in viewer.layers:
            layer.visible = True
        shown.clear()
        widget.method.value = "em" if widget.method.value == "least-squares" else "least-squares"
        wait_for(widget)
        planes = [part for part in shown if part.shape == (1, 24, 20)]
        assert planes, view
        assert all(np.array_equal(part, images[0][2:3]) for part in planes), view
    wanted = widget.result.lut.apply(images, "cpu")
    np.testing.assert_allclose(np.asarray(ensemble.data), wanted, rtol=1e-6)
    header = widget.scores.native.horizontalHeaderItem(3)
    assert header.toolTip().startswith("Structural similarity on 4 of 4 planes, evenly spaced.")


def test_scores_are_those_of_the_command_line():
    """PSNR of a candidate depends on it and the truth alone, wherever it is asked for."""
    from napari_ensir.ensemble.scoring.metrics import Scoring
    from napari_ensir.ensemble.scoring.score_range import score_range
    from napari_ensir.viewer.fit.request import FitRequest
    from napari_ensir.viewer.fit.worker import fit

    candidates, truth = stack((40, 50), np.uint16)
    candidates[1][0, 0] = 60_000  # one hot pixel of another candidate
    scale = score_range([truth])
    for given in (candidates, candidates[:1]):
        names = tuple("ab"[: len(given)])
        result = fit(FitRequest(tuple(given), names, truth, False))
        score = next(one for one in result.scores if one.name == "a")
        wanted = Scoring((scale.low, scale.high))(truth, candidates[0])
        assert score.psnr == pytest.approx(wanted["psnr"], abs=1e-6)
        assert str(scale) in result.held_out_in_words


@pytest.mark.filterwarnings("ignore:projection mode")  # napari's own, for any image
def test_other_plugins_can_use_the_layers(viewer, wait_for, monkeypatch):
    """What plugins do with an array, and napari's own *Convert to Labels*."""
    from napari._app_model import get_app_model
    from napari.layers import Labels

    monkeypatch.setattr(combining, "VIEWED", 0)
    images, truth = stack((5, 24, 20))
    layers = [viewer.add_image(image, name=name) for name, image in zip("ab", images, strict=True)]
    viewer.add_image(truth, name="ground truth")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.value = layers
    widget.fit()
    wait_for(widget)
    ensemble = next(layer for layer in viewer.layers if layer.name.startswith("ensemble"))
    assert isinstance(ensemble.data, da.Array)
    assert 0 < float(ensemble.data.max()) < 256
    assert bool((ensemble.data > 100).any())
    assert ensemble.data.astype("uint16").dtype == np.uint16
    viewer.layers.selection = {ensemble}
    get_app_model().commands.execute_command("napari.layer.convert_to_labels").result()
    assert any(isinstance(layer, Labels) and layer.data.shape == truth.shape for layer in viewer.layers)


def test_only_the_planes_asked_for_are_computed():
    arrays, _ = stack((6, 8, 7))
    seen = []

    def double(block):
        seen.append(block.shape)
        return 2 * block

    found = by_plane(double, arrays[:1], np.dtype(np.uint8))
    assert seen == [(1, 1, 1)]
    np.testing.assert_array_equal(np.asarray(found[2:4]), 2 * arrays[0][2:4])
    assert seen[1:] == [(1, 8, 7)] * 2
