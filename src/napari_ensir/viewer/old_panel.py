"""What our dock widgets share: a message line, a Run and a Cancel button, one task at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_ensir.devices import device_trouble
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.task import Task
from napari_ensir.viewer.texts import explain

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari

__all__ = ["Panel"]


class Panel(QWidget):
    """A dock widget that runs one task at a time and says what came of it.

    Parameters
    ----------
    viewer
        The viewer it sits in.
    run_key
        Which tooltip the Run button has, and its label.
    """

    def __init__(self, viewer: napari.Viewer, run_key: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.task: Task | None = None
        self._run_key = run_key
        self.run_button = QPushButton(run_key.capitalize())
        explain(self.run_button, run_key)
        self.run_button.clicked.connect(self.run)
        self.cancel_button = QPushButton("Cancel")
        explain(self.cancel_button, "cancel")
        self.cancel_button.setEnabled(False)
        self.cancel_button.clicked.connect(self.cancel)
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.message.hide()
        self.buttons = QHBoxLayout()
        self.buttons.addWidget(self.run_button, 1)
        self.buttons.addWidget(self.cancel_button)
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(8, 8, 8, 8)
        self.body.setSpacing(6)

    def run(self) -> None:
        """What the Run button does."""
        raise NotImplementedError

    def obstacle(self) -> str:
        """What is missing before the Run button can be pressed, as a sentence; empty if nothing is."""
        return ""

    def follow_obstacle(self) -> None:
        """Let the Run button be pressed if that leads anywhere; else its tooltip says what is missing."""
        reason = self.obstacle()
        explain(self.run_button, self._run_key)
        if reason:
            self.run_button.setToolTip(reason)
        self.run_button.setEnabled(self.task is None and not reason)

    def cancel(self) -> None:
        """Stop the running task, if any."""
        if self.task is not None:
            self.task.cancel()
            self.cancel_button.setEnabled(False)
            self.say("Cancelling…")

    def say(self, text: str) -> None:
        """Show a line under the buttons; none if empty."""
        self.message.setText(text)
        self.message.setVisible(bool(text))

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

        A quiet task leaves the message as it is.
        """
        task = Task(work, title)
        self.task = task
        task.returned.connect(then)
        task.failed.connect(self.fail)
        task.cancelled.connect(self._was_cancelled)
        task.finished.connect(self._has_finished)
        # The widget may go while the work goes on: the thread must end, and soon.
        self.destroyed.connect(task.cancel)
        self.run_button.setEnabled(False)
        self.cancel_button.setEnabled(True)
        if not quiet:
            self.say("")
        task.start()

    def _was_cancelled(self) -> None:
        self.say("Cancelled; nothing was changed.")

    def _has_finished(self) -> None:
        self.task = None
        self.follow_obstacle()
        self.cancel_button.setEnabled(False)
