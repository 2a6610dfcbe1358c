"""The command line: what can be asked, what is done, what a terminal shows.

``app`` is imported when it is first used, so that :func:`main` can be asked to stop from its first moment on.
"""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["app", "main"]


def main() -> NoReturn:
    """The console script."""
    from napari_ensir.cli.interruption import end

    end(_run)


def _run() -> None:
    from napari_ensir.cli.commands import app

    app()


def __getattr__(name: str) -> Any:
    if name == "app":
        from napari_ensir.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
