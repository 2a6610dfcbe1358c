"""Results of stacks are views: the same pixels as arrays, computed where they are looked at."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from napari_ensir import EnsembleError, fit_lut
from napari_ensir.viewer.results import combining
from napari_ensir.viewer.results.combining import Computed, combine, difference

RNG = np.random.default_rng(2)


def stack(shape, dtype=np.uint8):
    truth = RNG.uniform(20, 230, shape)
    return [(truth + RNG.normal(0, 9, shape)).clip(0, 255).astype(dtype) for _ in range(3)], truth.astype(
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
def test_views_show_what_arrays_show(monkeypatch, shape, rgb, axis, dtype, lazy):
    candidates, truth = stack(shape, dtype)
    lut = fit_lut([(candidates, truth)], method="least-squares", channel_axis=axis, device="cpu")
    whole = combine(lut, candidates, rgb, "cpu")
    monkeypatch.setattr(combining, "VIEWED", 0)
    given = [da.from_array(one, 5) for one in candidates] if lazy else candidates
    views = combine(lut, given, rgb, "cpu")
    for name in ("image", "exact", "maps"):
        view, array = getattr(views, name), getattr(whole, name)
        assert isinstance(view, Computed)
        assert (view.shape, view.dtype) == (array.shape, array.dtype)
        np.testing.assert_allclose(np.asarray(view), array, rtol=1e-6)
        np.testing.assert_allclose(view[1], array[1], rtol=1e-6)
        np.testing.assert_allclose(view[..., 2, 1:], array[..., 2, 1:], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(views.most_trusted()), whole.most_trusted())
    np.testing.assert_allclose(np.asarray(views.map_of(2)), whole.map_of(2), rtol=1e-6)
    for view, array in ((views.exact, whole.exact), (given[0], candidates[0])):
        wanted = array.astype(np.float32) - truth.astype(np.float32)
        found = difference(view, truth, rgb)
        assert isinstance(found, Computed)
        np.testing.assert_allclose(np.asarray(found), wanted.mean(-1) if rgb else wanted, atol=1e-4)


def test_planes_and_small_stacks_are_arrays(monkeypatch):
    candidates, truth = stack((16, 12))
    lut = fit_lut([(candidates, truth)], device="cpu")
    assert isinstance(combine(lut, candidates, False, "cpu").exact, np.ndarray)
    few, _ = stack((3, 16, 12))
    assert isinstance(combine(lut, few, False, "cpu").exact, np.ndarray)
    monkeypatch.setattr(combining, "VIEWED", 0)
    assert isinstance(combine(lut, candidates, False, "cpu").exact, np.ndarray)
    with pytest.raises(EnsembleError, match="the LUT combines 3"):
        combine(lut, few[:2], False, "cpu")


def test_a_change_of_method_touches_no_hidden_plane(viewer, fit_widget, wait_for, monkeypatch):
    """On the real canvas, and for every way to show weights."""
    monkeypatch.setattr(combining, "VIEWED", 0)
    images, truth = stack((7, 24, 20))
    layers = [viewer.add_image(image, name=name) for name, image in zip("abc", images, strict=True)]
    true = viewer.add_image(truth, name="ground truth")
    widget = fit_widget
    widget.candidates.value, widget.ground_truth.value = layers, true
    viewer.dims.set_current_step(0, 4)
    widget.fit()
    wait_for(widget)
    ensemble = next(layer for layer in viewer.layers if layer.name.startswith("ensemble"))
    assert isinstance(ensemble.data, Computed)

    touched = []
    original = Computed.__getitem__
    monkeypatch.setattr(Computed, "__getitem__", lambda self, key: touched.append(key) or original(self, key))
    for view in ("slider", "layers", "trusted"):
        widget.weights.value = view
        wait_for(widget)
        for layer in viewer.layers:
            layer.visible = True
        touched.clear()
        for method in ("least-squares", "em"):
            widget.method.value = method
            wait_for(widget)
        assert touched, view
        # napari itself asks the first plane of labels for its dtype.
        asked = [key for key in touched if not (view == "trusted" and key == 0)]
        assert all(4 in key or slice(4, 5) in key for key in asked), asked
    wanted = widget.result.lut.apply(images, "cpu")
    np.testing.assert_allclose(np.asarray(ensemble.data), wanted, rtol=1e-6)
    header = widget.scores.native.horizontalHeaderItem(3)
    assert header.toolTip().startswith("Structural similarity on 7 of 7 planes, evenly spaced.")


def test_scores_are_those_of_the_command_line():
    """PSNR of a candidate depends on it and the truth alone, wherever it is asked for."""
    from napari_ensir.ensemble.scoring.scores import Scoring, score_range
    from napari_ensir.viewer.fit.request import FitRequest
    from napari_ensir.viewer.fit.worker import fit, score_held_out

    candidates, truth = stack((40, 50), np.uint16)
    candidates[1][0, 0] = 60_000  # one hot pixel of another candidate
    scale = score_range([truth])
    for given in (candidates, candidates[:1]):
        names = tuple("abc"[: len(given)])
        result = score_held_out(fit(FitRequest(tuple(given), names, truth, False)))
        score = next(one for one in result.scores if one.name == "a")
        wanted = Scoring((scale.low, scale.high))(truth, candidates[0])
        assert score.psnr == pytest.approx(wanted.psnr, abs=1e-6)
        assert str(scale) in result.held_out_in_words
