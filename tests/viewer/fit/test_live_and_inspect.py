"""What follows a fit: live controls, masks, comparison, inspection, applying to many sets."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from napari_ensir import fit_lut
from napari_ensir.ensemble.compare.baselines import REGRESSORS
from napari_ensir.settings import METHODS
from napari_ensir.viewer.layers.layers import OUTPUT_KEY, placement


@pytest.fixture
def fitted(filled, fit_widget, wait_for):
    """The Fit widget after its first fit, at rest."""
    fit_widget.fit()
    wait_for(fit_widget)
    return fit_widget


def settle(widget, wait_for, qtbot):
    """Wait for the debounced refit, and the scoring after it."""
    qtbot.waitUntil(lambda: not widget.is_running, timeout=60_000)


def one(viewer, kind):
    return [layer for layer in viewer.layers if layer.metadata.get(OUTPUT_KEY, {}).get("kind") == kind]


def docked(viewer):
    """Our widgets by the title of their dock."""
    from napari._qt.widgets.qt_viewer_dock_widget import QtViewerDockWidget

    docks = viewer.window._qt_window.findChildren(QtViewerDockWidget)
    mine = {dock.name: dock.inner_widget() for dock in docks}
    return {
        name: widget for name, widget in mine.items() if type(widget).__module__.startswith("napari_ensir")
    }


def test_bin_width_and_method_update_the_same_layers_and_read_no_pixel(
    filled, fitted, images, wait_for, qtbot, monkeypatch
):
    from napari.utils import progress

    def no_more(*_, **__):
        raise AssertionError("pixels were read again")

    ensemble = one(filled, "ensemble")[0]
    arrays = [images[name] for name in fitted.result.lut.names]
    for method, width in (("em", 16), ("least-squares", 64), ("em-released", 64)):
        with monkeypatch.context() as patch:
            patch.setattr("napari_ensir.ensemble.statistics.reference.collect", no_more)
            patch.setattr("napari_ensir.viewer.fit.widget.question_about_noise", no_more)
            fitted.method.value = method
            fitted.bin_width.value = width
            settle(fitted, wait_for, qtbot)
        assert "read again" not in fitted.message.value
        expected = fit_lut([(arrays, images["ground truth"])], method=method, bin_width=width)
        assert fitted.result.lut.bin_width == width
        np.testing.assert_allclose(ensemble.data, expected.apply(arrays), rtol=1e-6)
        assert ensemble.metadata[OUTPUT_KEY]["method"] == method
    assert len(one(filled, "ensemble")) == 1
    assert len(one(filled, "weights")) == 2
    assert not list(progress._all_instances)


def test_changed_data_ask_for_a_fit(filled, fitted):
    assert "press Fit" not in fitted.message.value
    filled.layers["good in the light"].data = filled.layers["good in the light"].data // 2
    assert "press Fit" in fitted.message.value


def test_weight_views(filled, fitted, wait_for, qtbot):
    def shown(view):
        fitted.weights.value = view
        settle(fitted, wait_for, qtbot)
        return one(filled, "weights")

    maps, names = fitted.result.combined.maps, fitted.result.lut.names
    weights = shown("layers")
    np.testing.assert_array_equal(np.stack([layer.data for layer in weights]), maps)
    assert [layer.name for layer in weights] == [f"weight of {name}" for name in names]
    (trusted,) = shown("trusted")
    np.testing.assert_array_equal(trusted.data, maps.argmax(axis=0) + 1)
    assert list(trusted.features["candidate"])[1:] == list(names)
    (slider,) = shown("slider")
    np.testing.assert_array_equal(slider.data, maps)


def test_mask_learns_inside_and_scores_outside(filled, fit_widget, images, wait_for):
    labels = np.zeros((96, 96), int)
    labels[:, :48] = 3
    mask = filled.add_labels(labels, name="here", **placement(filled.layers["good in the light"]))
    fit_widget.mask.value = mask
    fit_widget.fit()
    wait_for(fit_widget)
    arrays = [images[name] for name in fit_widget.result.lut.names]
    truth = images["ground truth"]
    expected = fit_lut([(arrays, truth)], method="em", mask=[labels > 0])
    np.testing.assert_allclose(fit_widget.result.lut.weights, expected.weights, atol=1e-9)
    outside = (expected.apply(arrays) - truth)[labels == 0].astype(float)
    psnr = 10 * np.log10(255**2 / np.mean(outside**2))
    assert fit_widget.result.chosen.held_out == pytest.approx(psnr, abs=1e-3)


def test_shapes_are_a_mask_too(filled, fit_widget, wait_for):
    shapes = filled.add_shapes([[10, 10], [10, 60], [60, 60], [60, 10]], shape_type="polygon", name="roi")
    fit_widget.mask.value = shapes
    fit_widget.fit()
    assert '"roi" is not aligned with "ground truth"' in fit_widget.message.value
    for key, value in placement(filled.layers["good in the light"]).items():
        setattr(shapes, key, value)
    fit_widget.mask.value = shapes
    fit_widget.fit()
    wait_for(fit_widget)
    learned = fit_widget.result.lut.report["pixels"]
    assert 0.8 * 50 * 50 < learned < 1.2 * 51 * 51


def test_labels_without_a_place_go_by_their_pixels(filled, fit_widget, wait_for):
    labels = np.zeros((96, 96), int)
    labels[:, :48] = 1
    mask = filled.add_labels(labels, name="from a file")
    fit_widget.mask.value = mask
    fit_widget.fit()
    wait_for(fit_widget)
    assert fit_widget.result.session.reference.statistics.n_pixels == 96 * 48
    mask.translate = (0, 40)
    fit_widget.fit()
    assert '"from a file" is not aligned with "ground truth"' in fit_widget.message.value


def test_mask_of_another_shape_is_one_clear_sentence(filled, fit_widget):
    fit_widget.mask.value = filled.add_labels(np.ones((5, 7), int), name="small")
    fit_widget.fit()
    assert 'the mask "small" has shape (5, 7)' in fit_widget.message.value


def test_planes_of_a_stack_are_the_reference_and_the_rest_is_held_out(viewer, wait_for):
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 4000, (6, 32, 32)).astype(np.uint16)
    candidates = [
        np.clip(truth + rng.normal(0, sigma, truth.shape), 0, 4095).astype(np.uint16) for sigma in (50, 200)
    ]
    viewer.add_image(truth, name="gt", scale=(2, 1, 1))
    for name, image in zip("ab", candidates, strict=True):
        viewer.add_image(image, name=name, scale=(2, 1, 1))
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.choose_all()
    assert widget.planes.inner.value == (0, 5)
    widget.planes.value = (1, 3)
    widget.fit()
    wait_for(widget)
    assert widget.result.lut.report["pixels"] == 3 * 32 * 32
    assert widget.result.session.unseen.statistics.n_pixels == 3 * 32 * 32


@pytest.fixture
def few_regressors(monkeypatch):
    """The two fastest regressors only."""
    few = {name: REGRESSORS[name] for name in ("linear regression", "HistGradientBoosting")}
    monkeypatch.setattr("napari_ensir.ensemble.compare.baselines.REGRESSORS", few)
    return {"ZZPM", "global least squares", *few}


def test_compare_ranks_all_methods_and_a_click_chooses_one(
    filled, fitted, images, few_regressors, wait_for, qtbot
):
    filled.add_image(images["ground truth"][::3, ::3], name="input")
    before = {score.name: score.held_out for score in fitted.scores.scores}
    fitted.compare()
    wait_for(fitted)
    rows = fitted.scores.scores
    assert {score.name for score in rows} == {*before, *few_regressors, "RefESR"}
    refesr = next(place for place, row in enumerate(rows) if row.name == "RefESR")
    assert np.isfinite(rows[refesr].held_out)
    assert "no lookup table" in fitted.scores.native.item(refesr, 0).toolTip()
    assert all(score.held_out == before[score.name] for score in rows if score.name in before)
    table = fitted.scores.native
    values = [float(table.item(row, 2).text().lstrip("★ ")) for row in range(table.rowCount())]
    assert values == sorted(values, reverse=True)
    assert "held out in turn" in fitted.message.value
    place, best = next((place, row) for place, row in enumerate(rows) if row.method not in ("", "em"))
    table.cellClicked.emit(place, 0)
    settle(fitted, wait_for, qtbot)
    assert fitted.result.lut.method == best.method
    assert {score.name for score in fitted.scores.scores} == set(before)
    fitted.compare()
    wait_for(fitted)
    assert {score.name for score in fitted.scores.scores} == {*before, *few_regressors, "RefESR"}


def test_best_width_follows_the_held_out_score(filled, fitted, wait_for, qtbot):
    fitted.bin_width.value = "auto"
    settle(fitted, wait_for, qtbot)
    assert fitted.bin_width.value == "auto"
    assert fitted.bin_width.inner.value == fitted.result.lut.bin_width > 0
    held_out = {fitted.result.lut.bin_width: fitted.result.chosen.held_out}
    for width in (16, 64):
        fitted.bin_width.value = width
        settle(fitted, wait_for, qtbot)
        held_out[width] = fitted.result.chosen.held_out
    assert max(held_out.values()) == next(iter(held_out.values()))


def test_multiscale_uses_the_full_level(viewer, wait_for):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 255, (64, 64)).astype(np.uint8)
    for name, image in (("gt", truth), ("a", truth // 2 * 2), ("b", truth // 8 * 8)):
        viewer.add_image([image, image[::2, ::2]], multiscale=True, name=name)
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.choose_all()
    widget.run()
    wait_for(widget)
    assert widget.result.combined.exact.shape == (64, 64)


def test_lazy_in_lazy_out(viewer, wait_for):
    da = pytest.importorskip("dask.array")
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 255, (4, 64, 64)).astype(np.uint8)
    for name, image in (("gt", truth), ("a", truth // 2 * 2), ("b", truth // 8 * 8)):
        viewer.add_image(da.from_array(image, chunks=(1, 64, 64)), name=name, contrast_limits=(0, 255))
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.candidates.choose_all()
    widget.run()
    wait_for(widget)
    ensemble = one(viewer, "ensemble")[0]
    assert isinstance(ensemble.data, da.Array)
    assert ensemble.data.chunks[0] == (1, 1, 1, 1)
    arrays = [truth // 2 * 2, truth // 8 * 8]
    np.testing.assert_allclose(ensemble.data.compute(), fit_lut([(arrays, truth)]).apply(arrays), rtol=1e-6)


def test_a_narrow_drop_down_shortens_names_in_the_middle(filled, fit_widget):
    layer = filled.layers["ground truth"]
    layer.name = "a very long name of an image whose end tells it from the others"
    choice = fit_widget.ground_truth
    choice.native.setFixedWidth(160)
    shown = choice.shown_text()
    assert shown.startswith("a v")
    assert shown.endswith("rs")
    assert "…" in shown
    assert choice.native.itemData(choice.native.currentIndex(), 3) == layer.name  # 3: the tooltip


def test_every_widget_opens_by_its_manifest_name(viewer):
    from npe2 import PluginManager

    contributed = PluginManager.instance().get_manifest("napari-ensir").contributions
    classes = {each.id: each.python_name.split(":")[1] for each in contributed.commands}
    assert len(contributed.widgets) == 8
    for entry in contributed.widgets:
        dock, widget = viewer.window.add_plugin_dock_widget("napari-ensir", entry.display_name)
        assert dock.isAncestorOf(getattr(widget, "native", widget))
        if entry.command == "napari-ensir.combine":  # a function, of which magicgui makes the widget
            assert widget.call_button.text == "Combine"
        else:
            assert type(widget).__name__ == classes[entry.command]


def test_every_control_says_what_it_is(filled, fit_widget):
    from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QListWidget, QTableWidget

    for name in ("Apply lookup table", "Inspect lookup table"):
        filled.window.add_plugin_dock_widget("napari-ensir", name)
    widgets = [getattr(each, "native", each) for each in docked(filled).values()]
    kinds = (QAbstractButton, QAbstractSpinBox, QComboBox, QListWidget, QTableWidget)
    for widget in [getattr(each, "native", each) for each in widgets]:
        for kind in kinds:
            for control in widget.findChildren(kind):
                if type(control).__module__.startswith("PyQt") and control.parent().accessibleName():
                    continue  # a part of a control that is explained itself
                if control.isVisible() and not control.accessibleName():
                    inside = control.parent()
                    assert "Slider" in type(inside).__name__ or "TableWidget" in type(inside).__name__, (
                        control
                    )


def test_fits_a_small_screen(filled, fit_widget):
    filled.window._qt_window.resize(1366, 768)
    assert fit_widget.native.minimumSizeHint().height() < 690


def test_preferences_have_a_page_and_a_fallback(viewer, monkeypatch):
    import napari.settings

    from napari_ensir.viewer.layers.session import preference

    assert preference("method") == "auto"
    if not hasattr(napari.settings, "get_plugin_settings"):
        return  # an older napari, which has no such page: there is the fallback alone
    settings = napari.settings.get_plugin_settings("napari-ensir").ensemble
    monkeypatch.setattr(settings, "method", "least-squares")
    _, widget = viewer.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    assert widget.settings().method == "least-squares"
    monkeypatch.delattr(napari.settings, "get_plugin_settings")
    assert preference("method") == "auto"


def test_layer_menu_opens_the_widgets_with_the_selection(filled):
    from napari._app_model import get_app_model

    chosen = list(filled.layers)[1:3]
    filled.layers.selection = set(chosen)
    commands = get_app_model().commands
    for name in ("open_fit", "open_apply", "open_inspect"):
        commands.execute_command(f"napari-ensir.{name}").result()
    docks = docked(filled)
    assert {"Fit ensemble (napari-ensir)", "Apply lookup table (napari-ensir)"} <= set(docks)
    assert docks["Fit ensemble (napari-ensir)"].candidates.value == chosen


def test_auto_shows_which_method_it_took_and_by_how_much(filled, fitted, wait_for, qtbot):
    fitted.more_section.open()
    fitted.method.value = "auto"
    settle(fitted, wait_for, qtbot)
    lut = fitted.result.lut
    held_out = {score.method: score.held_out for score in fitted.result.scores if score.method}
    assert lut.method == max(held_out, key=held_out.get)
    title = METHODS[lut.method][0]
    assert one(filled, "ensemble")[0].name == f"ensemble · {title}"
    summary = lut.report["method_choice"]["summary"]
    assert summary.startswith(f"{title}, ")
    assert "dB above" in summary
    assert f"Chosen: {summary}." in fitted.message.value
    assert fitted.method.value == "auto"
    assert fitted.shrinkage.visible
    table = [row[0] for row in fitted.scores.value["data"]]
    assert f"● {title}" in table


def click(viewer, position):
    """Call the viewer's mouse callbacks as a click does."""
    event = SimpleNamespace(button=1, position=tuple(position))
    for clicked in viewer.mouse_drag_callbacks:
        clicked(viewer, event)


def plotted(widget):
    """Legend and texts of the plot of Inspect."""
    widget.draw()
    (axes,) = widget.canvas.figure.axes
    legend = axes.get_legend()
    return [] if legend is None else [each.get_text() for each in legend.get_texts()], axes


def test_a_click_shows_the_bin_set_while_the_fit_is_open(filled, fitted, images, qtbot):
    _, widget = filled.window.add_plugin_dock_widget("napari-ensir", "Inspect lookup table")
    widget.plot.value = "bin-set"
    legend, axes = plotted(widget)
    assert not legend
    assert "Click a pixel" in axes.texts[0].get_text()

    lut, place = fitted.result.lut, (40, 50)
    click(filled, filled.layers["good in the light"].data_to_world(place))
    legend, axes = plotted(widget)
    found = widget.bin_set()
    bins = [lut.binning.bins(images[name]) for name in lut.names]
    inside = np.logical_and.reduce([each == each[place] for each in bins])
    truth = images["ground truth"][inside]
    np.testing.assert_array_equal(np.repeat(found.truth, found.counts), np.sort(truth))
    weights = lut.weights_for([images[name][place] for name in lut.names])
    names = [f"{weight:.3f} {name}" for name, weight in zip(lut.names, weights, strict=True)]
    assert legend == [*names, "mixture"] if found.is_fitted else names
    assert axes.get_xlabel() == f"ground truth ({len(truth):,} pixels)"

    fitted.method.value = "least-squares"
    settle(fitted, None, qtbot)
    legend, axes = plotted(widget)
    assert len(legend) == 2, "a live fit keeps its statistics"
    assert axes.get_legend().get_title().get_text() == "candidates' own variances"
    assert legend[0].split()[0] in widget.pixel.value, "the text follows the live fit too"
