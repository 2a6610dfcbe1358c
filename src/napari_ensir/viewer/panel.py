"""What our dock widgets share: named controls as one container that scrolls, and one task at a time.

Knows what a panel does when layers change, when it is closed and while it works; not what any panel is for.
"""

from __future__ import annotations

import time
from functools import wraps
from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container
from magicgui.widgets.bases import BaseValueWidget
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QTimer

from napari_ensir.devices import device_trouble
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.controls.docking import find_room, mark
from napari_ensir.viewer.controls.forms import EventFilter, button, dress, row
from napari_ensir.viewer.controls.inputs import Message
from napari_ensir.viewer.controls.worker import Task, Turns
from napari_ensir.viewer.layers.layers import LayerWatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import napari
    from magicgui.widgets.bases import Widget
    from napari.layers import Layer
    from qtpy.QtWidgets import QScrollArea, QWidget

__all__ = ["Panel", "shows_errors"]


class Panel(Container):
    """Controls one under another, a Run and a Cancel button, a message; it scrolls where the screen is small.

    Controls are reached by name however deep they lie (``panel.bin_width.value``), and all at once by
    :meth:`asdict` and :meth:`update`. Slots that reach outside the panel go through :meth:`tie`, so that a
    panel that is closed leaves nothing behind; docked again, it takes them up again.

    Parameters
    ----------
    viewer
        The viewer it sits in.
    *parts
        Controls and forms above the buttons.
    action, about
        The Run button's text and tooltip; without an action no buttons are seen.
    below
        Parts below the message.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        *parts: Widget,
        action: str = "",
        about: str = "",
        below: Sequence[Widget] = (),
    ) -> None:
        self.viewer = viewer
        self.task: Task | None = None
        self._is_quiet = False
        self._about = about
        self._ties: list[tuple[Any, Callable]] = []
        self._watcher: LayerWatcher | None = None
        self._began, self._doing = 0.0, ""
        self.run_button = button(action, about, "run_button")
        self.cancel_button = button("Cancel", "Stop; no layer is changed or added.", "cancel_button")
        self.cancel_button.enabled = False
        self.working = Message(name="working", label="Progress", gui_only=True)
        self.message = Message(name="message", label="Message", gui_only=True)
        super().__init__(layout="vertical", labels=False, scrollable=True)
        buttons = row(
            self.run_button, self.cancel_button, name="buttons", gui_only=True, visible=bool(action)
        )
        buttons.native.layout().setStretch(0, 1)
        self.extend([*parts, buttons, self.working, self.message, *below])
        self._set_up_native()
        self.run_button.changed.connect(self.safely(self.run))
        self.cancel_button.changed.connect(self.safely(self.cancel))
        self.watch()

    def _set_up_native(self) -> None:
        area: QScrollArea = self.native
        content: Any = area.widget()
        area.setFrameShape(area.Shape.NoFrame)
        area.setMinimumHeight(120)
        content.layout().setContentsMargins(8, 8, 8, 8)
        content.layout().setSpacing(6)
        content.layout().addStretch(0)  # takes what no part wants
        EventFilter(area, self._area_event)
        EventFilter(content, self._content_event)
        area.destroyed.connect(self._gone)
        self._clock = QTimer(area)
        self._clock.setInterval(500)
        self._clock.timeout.connect(self._show_working)
        self.turns = Turns(area, self.fail)
        mark(area)
        self._docked = QTimer(area)  # napari still moves docks about once the panel is in its own
        self._docked.setSingleShot(True)
        self._docked.timeout.connect(lambda: find_room(area))

    @property
    def native(self) -> QScrollArea:
        """The scroll area: what napari docks. The controls lie in its ``widget()``."""
        return self.root_native_widget

    def insert(self, key: int, widget: Widget) -> None:
        """See magicgui."""
        super().insert(key, widget)
        dress(widget)

    # -- values -----------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            for each in _controls(self._list):
                if each.name == name:
                    return each
        return super().__getattr__(name)

    def asdict(self) -> dict[str, Any]:
        """The value of every control by its name, however deep it lies."""
        return {each.name: each.value for each in _controls(self._list, values_only=True)}

    def update(self, mapping: Mapping | Iterable[tuple[str, Any]] = (), **kwargs: Any) -> None:
        """Set controls from a mapping of names to values, such as :meth:`asdict` gives.

        Raises
        ------
        EnsembleError
            If there is no control of a name.
        """
        values = {**dict(mapping), **kwargs}
        known = {each.name: each for each in _controls(self._list, values_only=True)}
        for name in values:
            if name not in known:
                raise EnsembleError(f"there is no control {name!r}; there are: {', '.join(known)}.")
        with self.changed.blocked():
            for name, value in values.items():
                known[name].value = value
        self.changed.emit(self)

    # -- what lies outside ------------------------------------------------------------------------

    def tie(self, signal: Any, slot: Callable) -> None:
        """Connect a signal of something that outlives the panel, for as long as the panel is open.

        ``signal`` has ``connect`` and ``disconnect``; ``slot`` is a bound method.
        """
        self._ties.append((signal, slot))
        if self._watcher is not None:
            signal.connect(slot)

    def watch(self) -> None:
        """Follow the viewer; does nothing if it does so already."""
        if self._watcher is None:
            self._watcher = LayerWatcher(self.viewer, self.layers_changed, self.data_changed)
            for signal, slot in self._ties:
                signal.connect(slot)

    def release(self, *_: object) -> None:
        """Cancel what runs and follow the viewer no more: the panel was closed."""
        self.turns.drop()
        if self.task is not None:
            self.task.cancel()
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
            for signal, slot in self._ties:
                signal.disconnect(slot)
            # napari has connected these as it docked the panel, and leaves them.
            events = self.viewer.layers.events
            for name in ("inserted", "removed", "reordered", "renamed"):
                if name in events.emitters:
                    events[name].disconnect(self.reset_choices)

    def _gone(self, *_: object) -> None:
        """The viewer was closed, and Qt's parts with it: what the task still has to tell is not heard."""
        self.release()
        self.task = None

    def layers_changed(self) -> None:
        """What to do when layers came, went, were renamed or got other data."""
        self.reset_choices()

    def data_changed(self, layer: Layer) -> None:
        """What to do when a layer got other data, or was painted in."""
        self.layers_changed()

    def _area_event(self, area: QScrollArea, event: QEvent) -> None:
        if event.type() == QEvent.Type.ParentChange:
            parent = area.parent()
            if parent is None:
                self.release()
            else:
                self.watch()
                self._docked.start(0)
            self.native_parent_changed.emit(parent)

    def _content_event(self, content: QWidget, event: QEvent) -> None:
        if event.type() == QEvent.Type.LayoutRequest:  # a part has come or gone: none may be cut off
            # What lies around the content: the bar, and the frame that a theme may give the area.
            around = self.native.verticalScrollBar().sizeHint().width() + 2 * self.native.frameWidth()
            self.native.setMinimumWidth(content.minimumSizeHint().width() + around)

    def safely(self, slot: Callable) -> Callable[..., None]:
        """The slot with its errors shown: one that leaves a slot would end up in whoever set the value."""

        @wraps(slot)
        def shielded(*_: object) -> None:
            try:
                slot()
            except Exception as error:
                self.fail(error)

        return shielded

    # -- work -------------------------------------------------------------------------------------

    def run(self) -> None:
        """What the Run button does."""
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        """Whether a task runs, or what came of one is still being added to the viewer."""
        return self.task is not None or self.turns.is_active

    def obstacle(self) -> str:
        """What is missing before the Run button can be pressed, as a sentence; empty if nothing is."""
        return ""

    def follow_obstacle(self) -> None:
        """Let the Run button be pressed if that leads anywhere; else its tooltip says what is missing."""
        reason = self.obstacle()
        self.run_button.tooltip = reason or self._about
        self.run_button.enabled = (self.task is None or self._is_quiet) and not reason

    def cancel(self) -> None:
        """Stop the running task, if any."""
        if self.task is not None:
            self.task.cancel()
            self.cancel_button.enabled = False
            self.say("Cancelling…")

    def say(self, text: str) -> None:
        """Show a few words under the buttons; none if empty."""
        self.message.value = text

    def fail(self, error: Exception) -> None:
        """Show what went wrong, here and as a notification."""
        known = isinstance(error, EnsembleError)
        text = str(error) if known else device_trouble(error) or f"{type(error).__name__}: {error}"
        self.say(text)
        show_error(text)

    def start(
        self,
        work: Callable[[Callable[[int, int, str], None]], Any],
        title: str,
        then: Callable[[Any], object],
        *,
        quiet: bool = False,
    ) -> None:
        """Run ``work`` beside the viewer, then call ``then`` with its result on the main thread.

        A quiet task leaves the message as it is, and gives way to whatever is started after it.

        Raises
        ------
        EnsembleError
            If a task that is not quiet runs already.
        """
        if self.task is not None:
            if not self._is_quiet:
                raise EnsembleError("This panel is at work; wait, or cancel what runs.")
            self.task.cancel()  # what comes of it is not heard: see below
        task = Task(work, title)
        self.task, self._is_quiet = task, quiet
        self._began, self._doing = time.monotonic(), title

        def if_current(slot: Callable) -> Callable:
            return lambda *values: slot(*values) if self.task is task else None

        def take(result: Any) -> None:
            try:
                then(result)
            except Exception as error:
                self.fail(error)

        task.progressed.connect(if_current(self._progressed))
        task.returned.connect(if_current(take))
        task.failed.connect(if_current(self.fail))
        task.cancelled.connect(if_current(self._was_cancelled))
        task.finished.connect(if_current(self._has_finished))
        self.cancel_button.enabled = True
        self._clock.start()
        self.follow_obstacle()
        if not quiet:
            self.say("")
        task.start()

    def _progressed(self, done: int, total: int, text: str) -> None:
        self._doing = f"{text[:1].upper()}{text[1:]}, {done / max(1, total):.0%}"

    def _show_working(self) -> None:
        """What is being done, and for how long; not for what takes but a moment."""
        self.working.value = f"{self._doing}, {time.monotonic() - self._began:.0f} s"

    def _was_cancelled(self) -> None:
        self.say("Cancelled; nothing was changed.")

    def _has_finished(self) -> None:
        self.task = None
        self._clock.stop()
        self.working.value = ""
        self.cancel_button.enabled = False
        self.follow_obstacle()


def shows_errors(method: Callable) -> Callable[..., None]:
    """A panel's method that shows what went wrong, in the panel and as a notification, and does not raise."""

    @wraps(method)
    def shielded(self: Panel, *arguments: Any, **keywords: Any) -> None:
        try:
            method(self, *arguments, **keywords)
        except Exception as error:
            self.fail(error)

    return shielded


def _controls(widgets: Iterable[Widget], *, values_only: bool = False) -> Iterator[Any]:
    """The controls within, those of inner containers too; only those that have a value to keep if asked."""
    for each in widgets:
        if values_only and each.gui_only:
            continue
        if isinstance(each, Container):
            yield from _controls(each, values_only=values_only)
        elif not values_only or (each.name and isinstance(each, BaseValueWidget)):
            yield each
