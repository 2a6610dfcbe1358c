"""Files are written under the name that was asked about."""

from __future__ import annotations

import pytest
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_ensir.viewer.controls.dialogs import ask_where_to_save


@pytest.fixture
def dialog(monkeypatch):
    """Stands for a user who types a name, and answers whether to overwrite."""

    def stand_in(typed, answer=QMessageBox.StandardButton.No):
        asked = []
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (typed, ""))
        monkeypatch.setattr(QMessageBox, "question", lambda *said: asked.append(said[2]) or answer)
        return asked

    return stand_in


def ask():
    return ask_where_to_save(None, "Save", "a.safetensors", "Restorer", ".safetensors")


def test_nothing_is_overwritten_unasked(dialog, tmp_path):
    there = tmp_path / "mine.safetensors"
    there.write_text("kept")
    asked = dialog(str(tmp_path / "mine"))
    assert ask() is None
    assert asked == ["mine.safetensors exists already. Overwrite it?"]
    dialog(str(tmp_path / "mine"), QMessageBox.StandardButton.Yes)
    assert ask() == there


def test_what_the_dialog_has_asked_about_is_not_asked_again(dialog, tmp_path):
    there = tmp_path / "mine.safetensors"
    there.write_text("kept")
    asked = dialog(str(there))
    assert ask() == there
    asked += dialog(str(tmp_path / "new"))
    assert ask() == tmp_path / "new.safetensors"
    asked += dialog("")
    assert ask() is None
    assert asked == []
