"""Exceptions and the warning class of the package."""

from __future__ import annotations

__all__ = ["Cancelled", "EnsembleError", "EnsembleWarning", "MissingRestorer"]


class EnsembleError(ValueError):
    """Input that cannot be used; the message says what is wrong, where, and what would be right.

    Nothing is written and no input is changed when it is raised.
    """


class EnsembleWarning(UserWarning):
    """Images or settings that can be used but look wrong; the message is that of a diagnostic."""


class Cancelled(Exception):
    """Raised by a ``progress`` callback to stop the work; it passes through unchanged."""


class MissingRestorer(EnsembleError):
    """A checkpoint of DP-IR needs the restorer that it was trained around and could not hold.

    Attributes
    ----------
    name
        What that restorer is called.
    """

    def __init__(self, where: str, shown: str, name: object) -> None:
        super().__init__(
            f"{where} was trained around the restorer {shown}, which it cannot hold; give that one too: in "
            "Restore open it first, on the command line --ir FILE, in Python ir=."
        )
        self.name = name
