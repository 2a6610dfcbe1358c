"""Questions before files are overwritten."""

from __future__ import annotations

import pytest
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_ensir.viewer.controls.dialogs import ask_where_to_save


@pytest.fixture
def dialog(monkeypatch):
    """Replace the dialogs by a typed name and an answer; the list collects the questions."""

    def replace(typed, answer=QMessageBox.StandardButton.No):
        asked = []
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (typed, ""))
        monkeypatch.setattr(QMessageBox, "question", lambda *arguments: asked.append(arguments[2]) or answer)
        return asked

    return replace


def ask():
    return ask_where_to_save(None, "Save", "a.safetensors", "Restorer", ".safetensors")


def test_the_user_is_asked_before_a_file_is_overwritten(dialog, tmp_path):
    there = tmp_path / "mine.safetensors"
    there.write_text("kept")
    asked = dialog(str(tmp_path / "mine"))
    assert ask() is None
    assert asked == ["mine.safetensors exists already. Overwrite it?"]
    dialog(str(tmp_path / "mine"), QMessageBox.StandardButton.Yes)
    assert ask() == there


def test_the_user_is_not_asked_twice(dialog, tmp_path):
    there = tmp_path / "mine.safetensors"
    there.write_text("kept")
    asked = dialog(str(there))
    assert ask() == there
    asked += dialog(str(tmp_path / "new"))
    assert ask() == tmp_path / "new.safetensors"
    asked += dialog("")
    assert ask() is None
    assert asked == []
