"""The command line, ``napari-ensir``."""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the console script; signals are handled before anything heavy is imported."""
    from napari_ensir.cli.signals import run_and_exit

    run_and_exit(lambda: import_module("napari_ensir.cli.app").app())
