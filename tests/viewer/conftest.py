"""A real viewer on a real canvas, and checks of what tests leave behind in it."""

from __future__ import annotations

import gc
import re
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from npe2 import PluginManifest
from qtpy.QtWidgets import QApplication

from napari_ensir import fit_lut
from napari_ensir.viewer.controls.worker import _RUNNING
from napari_ensir.viewer.fit import precompile as warm_up
from napari_ensir.viewer.layers.session import _SESSIONS, get_session
from tests.helpers.leftovers import our_callbacks, our_objects, our_threads, process_deletions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@pytest.fixture(autouse=True, scope="session")
def _manifests_are_read_once() -> Iterator[None]:
    """napari reads those of all plugins for each viewer; no test changes one."""
    found = list(PluginManifest.discover())

    def discover(paths: Sequence[Any] = ()) -> Iterator[Any]:
        for each in found:
            yield each._replace(manifest=each.manifest and each.manifest.model_copy(deep=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "discover", discover)
        yield


@pytest.fixture(autouse=True)
def _napari_collects_what_is_young(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks through all there is whenever a layer goes, for the sake of one system's OpenGL drivers.

    Once for each test is enough: see ``viewer``.
    """
    monkeypatch.setattr("napari._vispy.canvas.gc", SimpleNamespace(collect=lambda: gc.collect(1)))


WINDOW = (800, 500)
"""Width and height in pixels; painting a large window takes longer than most tests."""

SCREEN = (1366, 768)
"""Width and height of the window in the pictures that ``--screenshots`` keeps."""

PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note whether a test has passed: the frames of one that failed hold its objects."""
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


class Everything:
    """Holds whatever is looked for."""

    def __contains__(self, thing: object) -> bool:
        return True


@pytest.fixture(autouse=True)
def _nothing_is_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts a Python for each dtype; ``fit/test_precompile.py`` is about that."""
    monkeypatch.setattr(warm_up, "_BEGUN", Everything())


@pytest.fixture(autouse=True)
def _own_preferences(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Preferences of the test's own: those of whoever runs it are neither read nor written."""
    import napari.settings

    path = tmp_path_factory.mktemp("preferences") / "settings.yaml"
    monkeypatch.setattr(napari.settings, "_PLUGIN_SETTINGS", {}, raising=False)
    monkeypatch.setattr(napari.settings, "_CFG_PATH", str(path), raising=False)


PLACE = {
    "scale": (0.5, 0.25),
    "translate": (3, 4),
    "rotate": 10,
    "shear": [0.1],
    "affine": [[1, 0.2, 5], [0, 1, 6], [0, 0, 1]],
    "units": ("um", "um"),
    "axis_labels": ("y", "x"),
}
"""Where the layers of ``filled`` are in the world."""


def state_of(layer: Any) -> tuple[int, bytes, str]:
    """Return what tells whether a test has changed a layer: its array, pixels and properties."""
    data, properties, _ = layer.as_layer_data_tuple()
    return id(data), np.asarray(data).tobytes(), repr(properties)


class SharedViewer:
    """One viewer for the tests of a process: opening and closing a window takes longer than most tests."""

    def __init__(self) -> None:
        self._viewer: Any = None
        self._kept: list[tuple[Any, Any]] = []

    def get(self) -> Any:
        """The viewer without layers and docks; a new one if a test got the last one for itself."""
        import napari

        if self._viewer is None:
            self._viewer = napari.Viewer(show=True)
            window = self._viewer.window._qt_window
            window.resize(*WINDOW)
            # It looks at the events of all objects, for a hidden menu bar.
            QApplication.instance().removeEventFilter(window)
        return self._viewer

    def fill(self, viewer: Any, images: dict[str, np.ndarray]) -> None:
        """Add images as layers, unless an earlier test has left them there as they were."""
        if not viewer.layers:
            for name, image in images.items():
                viewer.add_image(image, name=name, **PLACE)
            if viewer is self._viewer:
                self._kept = [(layer, state_of(layer)) for layer in viewer.layers]
        viewer.layers.selection.active = viewer.layers[-1]

    def remove_layers(self, *, all_of_them: bool = False) -> None:
        """Remove the layers, but keep those of :meth:`fill` if the test has changed none."""
        layers = self._viewer.layers
        changed = any(layer not in layers or state_of(layer) != state for layer, state in self._kept)
        if changed or all_of_them:
            self._kept = []
        layers.selection.clear()  # or another layer is selected for each that is removed
        kept = [layer for layer, _ in self._kept]
        if kept:
            for layer in [each for each in layers if each not in kept]:
                layers.remove(layer)
        else:
            layers.clear()
        for place, layer in enumerate(kept):
            if layers.index(layer) != place:
                layers.move(layers.index(layer), place)

    def clear(self) -> None:
        """Remove layers and docks, and set back what tests change in a viewer."""
        viewer = self._viewer
        viewer.window.remove_dock_widget("all")
        self.remove_layers()
        viewer.dims.ndisplay = 2
        viewer.dims.order = tuple(range(viewer.dims.ndim))
        viewer.dims.current_step = tuple(int(n) // 2 for n in viewer.dims.nsteps)
        viewer.reset_view()
        viewer.theme = "dark"
        viewer.window._qt_window.resize(*WINDOW)
        _SESSIONS.clear()

    def give_away(self) -> Any:
        """The viewer; later tests get another one."""
        viewer = self.get()
        self.remove_layers(all_of_them=True)
        self._viewer = None
        return viewer

    def close(self) -> None:
        """Close the viewer at the end of the process."""
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None
            process_deletions()


def keep_screenshots(viewer: Any, folder: Path, test: str) -> None:
    """Write pictures of the window as a test leaves it, in both themes."""
    folder.mkdir(parents=True, exist_ok=True)
    viewer.window._qt_window.resize(*SCREEN)
    for theme in ("dark", "light"):
        viewer.theme = theme
        QApplication.processEvents()
        name = re.sub(r"[^\w-]+", "-", test.removeprefix("tests/viewer/"))
        viewer.window.screenshot(str(folder / f"{name}-{theme}.png"), flash=False, canvas_only=False)


@pytest.fixture(scope="session")
def shared_viewer(qapp: Any) -> Iterator[SharedViewer]:
    """The viewer of this process."""
    shared = SharedViewer()
    yield shared
    shared.close()


@pytest.fixture
def viewer(request: pytest.FixtureRequest, shared_viewer: SharedViewer, qtbot: Any) -> Iterator[Any]:
    """A viewer on a real canvas, without layers; nothing of this package may survive the test in it.

    Tests marked ``own_viewer`` may close it, since no later test uses it.
    """
    own = request.node.get_closest_marker("own_viewer") is not None
    made = shared_viewer.give_away() if own else shared_viewer.get()
    if "filled" not in request.fixturenames and not own:
        shared_viewer.remove_layers(all_of_them=True)
    yield made
    with suppress(AttributeError, RuntimeError):  # raised if the test has closed it
        if (folder := request.config.getoption("--screenshots")) and made.window.dock_widgets:
            keep_screenshots(made, Path(folder), request.node.nodeid)
    qtbot.waitUntil(lambda: not _RUNNING, timeout=60_000)
    qtbot.waitUntil(lambda: not our_threads(), timeout=60_000)
    if own:
        with suppress(AttributeError, RuntimeError):  # raised if the test has closed it
            made.close()
    else:
        shared_viewer.clear()
    request.node.funcargs.clear()  # pytest holds what fixtures returned until after this one has ended
    process_deletions()
    if request.node.stash.get(PASSED, False):
        assert own or our_callbacks(made) == []
        if own:
            del made  # a closed window holds its docks for as long as somebody holds its viewer
        with suppress(qtbot.TimeoutError):  # the assertion says what is left
            qtbot.waitUntil(_nothing_is_left, timeout=60_000)
        assert our_objects() == []
        gc.freeze()  # what is left belongs to libraries and to the shared viewer


def _nothing_is_left() -> bool:
    process_deletions()
    gc.collect()
    return not our_objects()


@pytest.fixture
def wait_for(qtbot) -> Callable:
    """Wait until a panel has nothing left to do."""

    def wait(widget: Any, timeout: int = 150_000) -> None:
        qtbot.waitUntil(lambda: not getattr(widget, "is_running", widget.task is not None), timeout=timeout)
        QApplication.processEvents()

    return wait


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    """A small truth and two candidates that err differently."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 220, 96)
    truth = (ramp[:, None] + ramp[None, :]) / 2
    dark = truth < 120

    def noisy(low: float, high: float) -> np.ndarray:
        return np.clip(truth + rng.normal(0, np.where(dark, low, high)), 0, 255).astype(np.uint8)

    return {
        "ground truth": truth.astype(np.uint8),
        "good in the dark": noisy(2, 20),
        "good in the light": noisy(20, 2),
    }


@pytest.fixture
def filled(viewer, shared_viewer, images):
    """The viewer with the images in it, at a place of their own in the world."""
    shared_viewer.fill(viewer, images)
    return viewer


@pytest.fixture
def fitted(filled):
    """A lookup table learned on the layers, in the session as after a fit."""
    layers = list(filled.layers)[1:]
    names = [layer.name for layer in layers]
    lut = fit_lut([([layer.data for layer in layers], filled.layers[0].data)], names=names, method="em")
    get_session(filled).keep("fitted", lut, layers)
    return lut


@pytest.fixture
def fit_widget(filled):
    """The Fit widget, opened as a user opens it, with the candidates ticked and the paper's method."""
    _, widget = filled.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.method.value = "em"
    widget.candidates.value = list(filled.layers)[1:]
    return widget
