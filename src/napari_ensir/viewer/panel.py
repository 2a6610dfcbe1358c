"""Base class of the panels, with named controls in a scroll area and one background task at a time."""

from __future__ import annotations

import time
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from magicgui.widgets import Container
from magicgui.widgets.bases import BaseValueWidget
from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QTimer

from napari_ensir.devices import device_error_message
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.controls.docking import arrange_dock, mark_panel
from napari_ensir.viewer.controls.forms import EventFilter, button, row, set_accessible_names
from napari_ensir.viewer.controls.inputs import Message
from napari_ensir.viewer.controls.worker import MainThreadQueue, Task, delayed
from napari_ensir.viewer.layers.layers import unwrap_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import napari
    from magicgui.widgets.bases import Widget
    from napari.layers import Layer
    from qtpy.QtWidgets import QScrollArea, QWidget

_Kind = TypeVar("_Kind")


class Panel(Container):
    """Scrollable dock widget with controls, a Run and a Cancel button, and a message.

    All controls, including nested ones, are attributes (``panel.bin_width.value``); :meth:`asdict` and
    :meth:`update` read and set all values. A closed panel is disconnected from the viewer.

    Parameters
    ----------
    viewer
    *parts
        Controls and forms above the buttons.
    action, about
        Text and tooltip of the Run button; if the text is empty, the buttons are hidden.
    below
        Controls and forms below the message.
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
        self._tooltips: dict[str, str] = {}
        # The events of the list of layers include those of each layer.
        self._connections: list[tuple[Any, Callable]] = [
            (unwrap_proxy(viewer).layers.events, self._layers_event)
        ]
        self._is_connected = False
        self._started = 0.0
        self.run_button = button(action, about, "run_button")
        self.cancel_button = button("Cancel", "Stop the task; no layer is changed or added.", "cancel_button")
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
        self.on_change(run_button=self.run, cancel_button=self.cancel)
        self.watch()

    def _set_up_native(self) -> None:
        area: QScrollArea = self.native
        content: Any = area.widget()
        area.setFrameShape(area.Shape.NoFrame)
        area.setMinimumHeight(120)
        content.layout().setContentsMargins(8, 8, 8, 8)
        content.layout().setSpacing(6)
        content.layout().addStretch(0)  # takes the remaining space
        EventFilter(area, self._area_event)
        EventFilter(content, self._content_event)
        area.destroyed.connect(self._viewer_closed)
        self._elapsed_timer = QTimer(area)
        self._elapsed_timer.setInterval(500)
        self._elapsed_timer.timeout.connect(self._show_elapsed)
        self.queue = MainThreadQueue(area, self.fail)
        mark_panel(area)
        # Later, since napari moves docks after the panel is docked.
        self._dock_timer = delayed(area, lambda: arrange_dock(area))

    @property
    def native(self) -> QScrollArea:
        """The scroll area, which napari docks; its ``widget()`` contains the controls."""
        return self.root_native_widget

    def insert(self, key: int, widget: Widget) -> None:
        """See magicgui."""
        super().insert(key, widget)
        set_accessible_names(widget)

    # -- values -----------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            for each in _controls(self._list):
                if each.name == name:
                    return each
        return super().__getattr__(name)

    def asdict(self) -> dict[str, Any]:
        """Return the values of all controls by name, including nested ones."""
        return {each.name: each.value for each in _controls(self._list, values_only=True)}

    def update(self, mapping: Mapping | Iterable[tuple[str, Any]] = (), **kwargs: Any) -> None:
        """Set the values of controls by name, for example from :meth:`asdict`.

        Raises
        ------
        EnsembleError
            If a control does not exist.
        """
        values = {**dict(mapping), **kwargs}
        known = {each.name: each for each in _controls(self._list, values_only=True)}
        for name in values:
            if name not in known:
                raise EnsembleError(f"there is no control {name!r}; choose from: {', '.join(known)}.")
        with self.changed.blocked():
            for name, value in values.items():
                known[name].value = value
        self.changed.emit(self)

    def settings_from(self, kind: type[_Kind], *names: str) -> _Kind:
        """Return the settings of a class with the values of the controls of these names.

        Raises
        ------
        EnsembleError
            If a value is invalid.
        """
        return kind(**{name: self[name].value for name in names})

    # -- connections ------------------------------------------------------------------------------

    def on_change(self, **slots: Callable[[], object]) -> None:
        """Call a method when the control of the same name changes, and show its exceptions."""
        for name, slot in slots.items():
            self[name].changed.connect(self.safely(slot))

    def connect_while_open(self, signal: Any, slot: Callable) -> None:
        """Connect a signal of an object outside the panel while the panel is open.

        ``signal`` has ``connect`` and ``disconnect``; ``slot`` is a bound method.
        """
        self._connections.append((signal, slot))
        if self._is_connected:
            signal.connect(slot)

    def watch(self) -> None:
        """Connect to the viewer if not connected yet."""
        if not self._is_connected:
            self._is_connected = True
            for signal, slot in self._connections:
                signal.connect(slot)

    def release(self, *_: object) -> None:
        """Cancel the task and disconnect from the viewer when the panel is closed."""
        self.queue.clear()
        if self.task is not None:
            self.task.cancel()
        if self._is_connected:
            self._is_connected = False
            for signal, slot in self._connections:
                signal.disconnect(slot)
            # napari connects these when it docks a magicgui widget, and never disconnects them.
            events = self.viewer.layers.events
            for name in ("inserted", "removed", "reordered", "renamed"):
                if name in events.emitters:
                    events[name].disconnect(self.reset_choices)

    def _viewer_closed(self, *_: object) -> None:
        """Release all connections after Qt has deleted the widget; ignore the result of the task."""
        self.release()
        self.task = None

    def _layers_event(self, event: Any) -> None:
        if event.type in ("inserted", "removed", "reordered", "name"):
            self.layers_changed()
        elif event.type in ("data", "paint", "labels_update"):
            self.data_changed(event.sources[0])

    def layers_changed(self) -> None:
        """Update the panel after layers were added, removed, renamed or changed."""
        self.reset_choices()
        self.update_run_button()

    def data_changed(self, layer: Layer) -> None:
        """Update the panel after a layer's pixels have changed."""
        self.layers_changed()

    def _area_event(self, area: QScrollArea, event: QEvent) -> None:
        if event.type() == QEvent.Type.ParentChange:
            parent = area.parent()
            if parent is None:
                self.release()
            else:
                self.watch()
                self._dock_timer.start()
            self.native_parent_changed.emit(parent)

    def _content_event(self, content: QWidget, event: QEvent) -> None:
        if event.type() == QEvent.Type.LayoutRequest:  # keep all parts as wide as they need
            frame = self.native.verticalScrollBar().sizeHint().width() + 2 * self.native.frameWidth()
            self.native.setMinimumWidth(content.minimumSizeHint().width() + frame)

    def safely(self, slot: Callable) -> Callable[..., None]:
        """Wrap a slot to show its exceptions; otherwise they would propagate to the code that set a value."""

        @wraps(slot)
        def wrapper(*_: object) -> None:
            try:
                slot()
            except Exception as error:
                self.fail(error)

        return wrapper

    # -- work -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Do the work of the Run button."""
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        """Whether a task is running or its results are still being added to the viewer."""
        return self.task is not None or self.queue.is_active

    def missing_input(self) -> str:
        """Return a sentence that states which input is missing; empty if the panel is ready to run."""
        return ""

    def obstacles(self) -> Mapping[str, str]:
        """Return for each button what is missing before it can run, as a sentence; empty if nothing is."""
        return {"run_button": self.missing_input()}

    def update_run_button(self) -> None:
        """Enable the buttons that can run; the tooltips of the others say what is missing."""
        busy = self.task is not None and not self._is_quiet
        for name, missing in self.obstacles().items():
            control = self[name]
            tooltip = self._tooltips.setdefault(name, control.tooltip)
            reason = missing or ("Wait until the work is done, or cancel it." if busy else "")
            control.tooltip = reason or tooltip
            control.enabled = not reason

    def cancel(self) -> None:
        """Cancel the running task, if any."""
        if self.task is not None:
            self.task.cancel()
            self.cancel_button.enabled = False
            self.say("Cancelling…")

    def say(self, text: str) -> None:
        """Show a message below the buttons; an empty text hides it."""
        self.message.value = text

    def fail(self, error: Exception) -> None:
        """Show an exception in the panel and as a notification."""
        known = isinstance(error, EnsembleError)
        text = str(error) if known else device_error_message(error) or f"{type(error).__name__}: {error}"
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
        """Run ``work`` in a thread, then call ``then`` with its result on the main thread.

        ``work`` may return an iterator: ``then`` is called with each result, and the task is quiet after the
        first. A quiet task does not clear the message, and is cancelled when another task starts.

        Raises
        ------
        EnsembleError
            If another task is running that is not quiet.
        """
        if self.task is not None:
            if not self._is_quiet:
                raise EnsembleError("A task is running in this panel; wait for it, or cancel it.")
            self.task.cancel()  # its signals are ignored from now on
        task = Task(work, title)
        self.task, self._is_quiet, self._started = task, quiet, time.monotonic()

        def take(result: Any) -> None:
            if self.task is task and not task.is_cancelling:
                self._is_quiet = True
                self.safely(lambda: then(result))()

        task.returned.connect(take)
        task.failed.connect(lambda error: self.fail(error) if self.task is task else None)
        task.finished.connect(lambda: self._has_finished() if self.task is task else None)
        self.cancel_button.enabled = True
        self._elapsed_timer.start()
        self.update_run_button()
        if not quiet:
            self.say("")
        task.start()

    def _show_elapsed(self) -> None:
        """Show the current step of the task and the elapsed time, from half a second on."""
        if self.task is not None:
            self.working.value = f"{self.task.step}, {time.monotonic() - self._started:.0f} s"

    def _was_cancelled(self) -> None:
        self.say("Cancelled; nothing was changed." if not self._is_quiet else "Cancelled.")

    def _has_finished(self) -> None:
        if self.task is not None and self.task.is_cancelling:
            self._was_cancelled()
        self.task = None
        self._elapsed_timer.stop()
        self.working.value = ""
        self.cancel_button.enabled = False
        self.update_run_button()


def shows_errors(method: Callable) -> Callable[..., None]:
    """Decorate a method of a panel to show exceptions instead of raising them."""

    @wraps(method)
    def wrapper(self: Panel, *arguments: Any, **keywords: Any) -> None:
        self.safely(lambda: method(self, *arguments, **keywords))()

    return wrapper


def _controls(widgets: Iterable[Widget], *, values_only: bool = False) -> Iterator[Any]:
    """Yield all controls, including nested ones; ``values_only`` excludes controls without a value."""
    for each in widgets:
        if values_only and each.gui_only:
            continue
        if isinstance(each, Container):
            yield from _controls(each, values_only=values_only)
        elif not values_only or (each.name and isinstance(each, BaseValueWidget)):
            yield each
