"""The command line: what can be asked, what is done, what a terminal shows."""

from __future__ import annotations

from napari_ensir.cli.commands import app, main

__all__ = ["app", "main"]
