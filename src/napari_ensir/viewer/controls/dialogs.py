"""Save dialog that asks before a file is overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QMessageBox

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtWidgets import QWidget


def with_suffix(path: str | Path, suffix: str) -> Path:
    """Append a suffix to a path unless its name ends with it.

    Examples
    --------
    >>> with_suffix("plot", ".png").name, with_suffix("a.PNG", ".png").name, with_suffix("v1.2", ".png").name
    ('plot.png', 'a.PNG', 'v1.2.png')
    >>> with_suffix("a.safetensors", ".lut.safetensors").name
    'a.lut.safetensors'
    """
    path = Path(path).expanduser()
    if path.name.lower().endswith(suffix):
        return path
    name = path.name
    for part in reversed(suffix.split(".")[1:]):
        name = name.removesuffix(f".{part}")
    return path.with_name(name + suffix)


def ask_where_to_save(parent: QWidget | None, title: str, name: str, kind: str, suffix: str) -> Path | None:
    """Ask for a file to write; return None if the user cancels or does not overwrite an existing file.

    Parameters
    ----------
    parent
        Parent of the dialog.
    title, name, kind
        Title of the dialog, proposed file name, and file type, such as ``"Image"``.
    suffix
        Appended if the name lacks it, such as ``".png"``.
    """
    typed, _ = QFileDialog.getSaveFileName(parent, title, name, f"{kind} (*{suffix})")
    if not typed:
        return None
    path = with_suffix(typed, suffix)
    # The dialog has asked only about the name as it was typed.
    if path != Path(typed).expanduser() and path.exists():
        question = f"{path.name} exists already. Overwrite it?"
        if QMessageBox.question(parent, title, question) != QMessageBox.StandardButton.Yes:
            return None
    return path


def save_asked(
    parent: QWidget | None,
    title: str,
    name: str,
    kind: str,
    suffix: str,
    save: Callable[[Path], object],
) -> None:
    """Call a function with the file of :func:`ask_where_to_save`, unless the user cancels."""
    path = ask_where_to_save(parent, title, name, kind, suffix)
    if path is not None:
        save(path)


def open_asked(parent: QWidget | None, title: str, kinds: str, take: Callable[[str], object]) -> None:
    """Ask for an existing file, and call a function with its path, unless the user cancels.

    Parameters
    ----------
    parent
        Parent of the dialog.
    title, kinds
        Title of the dialog, and the file types that it offers.
    take
        Called with the path.
    """
    path, _ = QFileDialog.getOpenFileName(parent, title, "", kinds)
    if path:
        take(path)
