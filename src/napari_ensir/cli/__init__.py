"""The command line, ``napari-ensir``."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the console script; signals are handled before anything heavy is imported."""
    from napari_ensir.cli.signals import run_and_exit

    run_and_exit(_run)


def _run() -> None:
    from napari_ensir.cli.app import app

    app()
