"""Asks where to write a file, so that nothing is overwritten unasked. Writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QMessageBox

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

__all__ = ["ask_where_to_save", "with_suffix"]


def with_suffix(path: str | Path, suffix: str) -> Path:
    """The path, with this suffix added where its name lacks it.

    Examples
    --------
    >>> with_suffix("plot", ".png").name, with_suffix("a.PNG", ".png").name, with_suffix("v1.2", ".png").name
    ('plot.png', 'a.PNG', 'v1.2.png')
    """
    path = Path(path).expanduser()
    return path if path.name.lower().endswith(suffix) else path.with_name(path.name + suffix)


def ask_where_to_save(parent: QWidget | None, title: str, name: str, kind: str, suffix: str) -> Path | None:
    """Let the user choose a file to write; None if they think better of it.

    Parameters
    ----------
    parent
        Over which widget to ask.
    title, name, kind
        The dialog's title, the name it proposes, and what the files are: ``"Image"``.
    suffix
        That the file's name will end with: ``".png"``.
    """
    typed, _ = QFileDialog.getSaveFileName(parent, title, name, f"{kind} (*{suffix})")
    if not typed:
        return None
    path = with_suffix(typed, suffix)
    # The dialog has asked about the name as it was typed, and that is another file.
    if path != Path(typed).expanduser() and path.exists():
        question = f"{path.name} exists already. Overwrite it?"
        if QMessageBox.question(parent, title, question) != QMessageBox.StandardButton.Yes:
            return None
    return path
