"""The one exception a user meets."""

from __future__ import annotations

__all__ = ["Cancelled", "EnsembleError"]


class EnsembleError(ValueError):
    """Input that cannot be used; the message says what is wrong, where, and what would be right.

    Nothing is written and no input is changed when it is raised.
    """


class Cancelled(Exception):
    """Raised by a ``progress`` callback to stop the work; it passes through unchanged."""
