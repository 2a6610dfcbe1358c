"""Text on the terminal: names with control characters, and progress bars."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_ensir import fit_lut
from napari_ensir.cli import terminal
from napari_ensir.cli.app import app
from napari_ensir.files import write_image

NASTY = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202e[bold]a\\[/bold]"


def test_control_characters_are_escaped():
    assert terminal.printable("Ångström µm 日本 a b") == "Ångström µm 日本 a b"
    assert terminal.printable("\x1b[31m\r\n\u202e\udcff") == "\\x1b[31m\\r\\n\\u202e\\udcff"


def made(folder, names):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (24, 24), np.uint8)
    images = [truth // 2 + 9, truth // 3 + 5]
    for name, image in zip(names, images, strict=True):
        write_image(folder / f"{names.index(name)}.png", image)
    write_image(folder / "truth.png", truth)
    return fit_lut([(images, truth)], names=names, device="cpu").save(folder / "own")


@pytest.mark.parametrize("command", ["info", "apply", "evaluate", "compare", "fit"])
def test_names_are_printed_escaped(tmp_path, command):
    names = (NASTY, "B")
    lut = made(tmp_path, names)
    images = [part for k, name in enumerate(names) for part in ("-c", f"{name}={tmp_path / f'{k}.png'}")]
    arguments = {
        "info": [lut],
        "apply": ["--lut", lut, "-c", images[1], "-c", "C=x", "-o", tmp_path / "o.png"],
        "evaluate": [*images, "-t", tmp_path / "truth.png"],
        "compare": [*images, "-t", tmp_path / "truth.png", "--method", NASTY],
        "fit": [*images, "-t", tmp_path / "truth.png", "-o", tmp_path / NASTY],
    }[command]
    result = CliRunner().invoke(app, [command, *map(str, arguments)])
    said = result.stdout + result.stderr
    assert not set("\x1b\x07\x9b\u202e") & set(said)
    assert "\\x1b[31mred" in said
    assert "[bold]a\\[/bold]" in said


class Terminal(StringIO):
    def isatty(self):
        return True


def test_the_progress_bar_escapes_names(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "stderr", Terminal())
    output = terminal.Output(overwrite=False, json=None, quiet=False, verbose=False)
    with output.progress() as move:
        move(1, 2, NASTY)
    shown = sys.stderr.getvalue()
    assert "\\x1b[31mred" in shown
    assert "[bold]a" in shown
    assert not set("\x07\x9b\u202e") & set(shown)  # escape sequences of its own a bar does have


def test_file_names_that_cannot_be_decoded_are_printed_escaped(tmp_path):
    """A name of bytes that no encoding knows must not stop its own message."""
    done = subprocess.run(
        [sys.executable, "-m", "napari_ensir.cli", "info", b"\xff\x1b.lut.safetensors"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 1
    assert b"\\udcff\\x1b.lut.safetensors" in done.stderr
