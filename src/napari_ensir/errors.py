"""Exceptions and the warning class of the package."""

from __future__ import annotations

__all__ = ["Cancelled", "EnsembleError", "EnsembleWarning", "MissingRestorer"]


class EnsembleError(ValueError):
    """Invalid input; the message says what is wrong, where, and how to correct it.

    When it is raised, no output has been written and no input has been changed.
    """


class EnsembleWarning(UserWarning):
    """Images or settings that can be used but look wrong; the message is that of a diagnostic."""


class Cancelled(Exception):
    """Raised by a ``progress`` callback to cancel the computation; it is not caught by the package."""


class MissingRestorer(EnsembleError):
    """A DP-IR checkpoint refers to a restorer that it does not contain.

    Attributes
    ----------
    name : object
        Name of that restorer, as in the checkpoint.
    """

    def __init__(self, where: str, shown: str, name: object) -> None:
        super().__init__(
            f"{where} was trained with the restorer {shown}, which it does not contain; provide it too: open "
            "it first in the Restore panel, or use --ir FILE on the command line, ir= in Python."
        )
        self.name = name
