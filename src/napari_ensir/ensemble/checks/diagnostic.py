"""The form in which every check reports what looks wrong and what can be done about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Diagnostic", "add_diagnostics", "sort_diagnostics"]

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Diagnostic:
    """A problem found in the data.

    Attributes
    ----------
    code : str
        Stable identifier, such as ``"scale-mismatch"``, ``"shifted"`` or ``"own-input"``.
    severity : "error", "warning" or "info"
        ``"error"``: results are wrong until this is corrected; ``"warning"``: results are probably worse than
        they could be; ``"info"``: something was done that the user should know.
    message : str
        One sentence.
    fix : dict, optional
        What can be done: ``"action"``, ``"candidates"`` (a list of names) where it concerns some of them, and
        the action's values:

        - ``"match-intensities"``: ``gain`` and ``offset``; the reference is about gain * candidate + offset
        - ``"align"``: ``shift``, in pixels down and to the right, by which the candidates are off
        - ``"transform"``: ``how`` the candidates are flipped, rotated or transposed
        - ``"reverse-channels"``
        - ``"crop"``: ``region``, a list of (start, stop) along rows and columns to leave out
        - ``"drop-candidate"``
        - ``"set-noise"``: ``value``, the standard deviation of the noise
        - ``"set-bin-width"``: ``value``
        - ``"threshold-mask"``: ``value``

    Examples
    --------
    >>> fix = {"action": "align", "candidates": ["A"], "shift": [0, 2]}
    >>> found = Diagnostic("shifted", "error", 'candidate "A": shifted', fix)
    >>> found.to_dict()["fix"]["shift"]
    [0, 2]
    """

    code: str
    severity: Severity
    message: str
    fix: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def sort_diagnostics(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Sort by severity, and drop what is said a second time about the same candidates.

    Examples
    --------
    >>> one = Diagnostic("a", "info", "first")
    >>> [each.code for each in sort_diagnostics([one, Diagnostic("b", "error", "second"), one])]
    ['b', 'a']
    """
    kept: dict[Any, Diagnostic] = {}
    for each in found:
        candidates = tuple(each.fix.get("candidates", ())) if each.fix else ()
        kept.setdefault((each.code, candidates or each.message), each)
    return sorted(kept.values(), key=lambda each: SEVERITIES.index(each.severity))


def add_diagnostics(report: Mapping[str, Any], found: Iterable[Diagnostic]) -> dict[str, Any]:
    """Return a report with further diagnostics in ``"diagnostics"`` and their messages in ``"warnings"``."""
    try:
        known = [Diagnostic(**each) for each in report["diagnostics"]]
    except (KeyError, TypeError):  # a table of an earlier version, or of another program
        known = [Diagnostic("other", "warning", str(text)) for text in report.get("warnings", ())]
    every = sort_diagnostics([*found, *known])
    return {
        **report,
        "warnings": [each.message for each in every],
        "diagnostics": [each.to_dict() for each in every],
    }
