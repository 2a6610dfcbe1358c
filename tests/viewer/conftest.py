"""A real viewer, and checks of what tests leave behind in it."""

from __future__ import annotations

import gc
import os
import re
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from npe2 import PluginManifest
from qtpy.QtWidgets import QApplication

from napari_ensir.viewer.controls.worker import _RUNNING
from napari_ensir.viewer.fit import precompile as warm_up
from napari_ensir.viewer.layers.session import _SESSIONS
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


DRAWN = bool(os.environ.get("NAPARI_ENSIR_DRAWN"))
"""Whether napari draws the layers of all tests, as in ``make soak``."""

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


def without_drawing(patch: pytest.MonkeyPatch) -> bool:
    """Let napari neither draw layers nor make their controls; return whether this napari could be patched.

    Both take most of the time of a test. The window, its docks, the list of layers and their models remain.
    """
    from napari._qt.layer_controls import QtLayerControlsContainer
    from napari._qt.qt_main_window import Window
    from napari._qt.qt_viewer import QtViewer
    from napari._vispy.canvas import VispyCanvas

    callbacks = {
        QtViewer: ("_on_add_layer_change",),
        QtLayerControlsContainer: ("_add", "_remove", "_populate"),
        VispyCanvas: ("_remove_layer", "_update_scenegraph"),
        Window: ("_update_theme",),
    }
    found = [(owner, name) for owner, names in callbacks.items() for name in names]
    if not all(hasattr(owner, name) for owner, name in found):
        return False
    for owner, name in found:
        patch.setattr(owner, name, lambda self, event=None: None)
    return True


class SharedViewer:
    """One viewer for the tests of a process: opening and closing a window takes longer than most tests."""

    def __init__(self) -> None:
        self._viewer: Any = None
        self._is_drawn = True

    def get(self) -> Any:
        """The viewer without layers and docks; a new one if a test has got it for itself."""
        import napari

        if self._viewer is None:
            self._viewer = napari.Viewer(show=True)
            self._is_drawn = True
            forward_no_events(self._viewer)
        self._viewer.window._qt_window.resize(*WINDOW)
        return self._viewer

    def draw(self, drawn: bool) -> None:
        """Show or hide the canvas and napari's style."""
        if drawn == self._is_drawn:
            return
        window = self._viewer.window
        window._qt_viewer.canvas.native.setVisible(drawn)
        if drawn:
            window._update_theme()
        else:
            for widget in (window._qt_window, window._qt_viewer):
                widget.setStyleSheet("")
        self._is_drawn = drawn

    def clear(self) -> None:
        """Remove layers and docks, and set back what tests change in a viewer."""
        viewer = self._viewer
        viewer.window.remove_dock_widget("all")
        viewer.layers.clear()
        viewer.dims.reset()
        viewer.theme = "dark"
        _SESSIONS.clear()

    def give_away(self) -> Any:
        """The viewer, drawn; later tests get another one."""
        viewer = self.get()
        self.draw(True)
        self._viewer = None
        return viewer

    def close(self) -> None:
        """Close the viewer at the end of the process."""
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None
            process_deletions()


def forward_no_events(viewer: Any) -> None:
    """Let the window not look at the events of all objects, which it does for a hidden menu bar."""
    QApplication.instance().removeEventFilter(viewer.window._qt_window)


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
    """A viewer without layers; nothing of this package may survive the test in it.

    Layers are drawn on a real canvas in tests marked ``drawn``. Tests marked ``own_viewer`` get a viewer
    that no later test uses, drawn as well, which they may close.
    """
    own = request.node.get_closest_marker("own_viewer") is not None
    screenshots = request.config.getoption("--screenshots")
    drawn = own or DRAWN or bool(screenshots) or request.node.get_closest_marker("drawn") is not None
    with pytest.MonkeyPatch.context() as patch:
        if own:
            made = shared_viewer.give_away()
        else:
            made = shared_viewer.get()
            shared_viewer.draw(drawn or not without_drawing(patch))
        yield made
        with suppress(AttributeError, RuntimeError):  # raised if the test has closed it
            if screenshots and made.window.dock_widgets:
                keep_screenshots(made, Path(screenshots), request.node.nodeid)
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
            qtbot.waitUntil(_nothing_is_left, timeout=20_000)
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
    """A small truth and three candidates that err differently."""
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
        "so so": noisy(9, 9),
    }


@pytest.fixture
def filled(viewer, images):
    """The viewer with the images in it, at a place of their own in the world."""
    for name, image in images.items():
        viewer.add_image(
            image,
            name=name,
            scale=(0.5, 0.25),
            translate=(3, 4),
            rotate=10,
            shear=[0.1],
            affine=[[1, 0.2, 5], [0, 1, 6], [0, 0, 1]],
            units=("um", "um"),
            axis_labels=("y", "x"),
        )
    return viewer


@pytest.fixture
def fit_widget(filled):
    """The Fit widget, opened as a user opens it, with the candidates ticked and the paper's method."""
    _, widget = filled.window.add_plugin_dock_widget("napari-ensir", "Fit ensemble")
    widget.method.value = "em"
    widget.candidates.value = list(filled.layers)[1:]
    return widget
