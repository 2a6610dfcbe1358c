"""The form in which every check reports what looks wrong and what can be done about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

ERRORS = {
    "constant": "constant (every examined pixel is {value:g}); drop it, or check how it was saved.",
    "equals-truth": "equal to the ground truth in every pixel; drop it, or it will get all the weight.",
    "inverted": "dark where the ground truth is bright; invert it.",
    "turned": "{how} against the ground truth; transform it back.",
    "shifted": "shifted by {how} against the ground truth; align them.",
    "channels-reversed": "closer to the ground truth with its channels in reverse order (BGR for RGB?); "
    "reorder them.",
    "tone-curve": "on another tone curve than the ground truth (gamma?); convert both to linear intensities.",
    "scale-mismatch": "on another scale than the ground truth, which is about {scale}; match its "
    "intensities.",
    "other-plane": "closer to the ground truth one plane {where}; realign the stacks.",
    "other-field": "hardly correlates with the ground truth; does it show the same field?",
    "constant-truth": "the ground truth is constant ({value}) in the examined plane.",
    "truth-clipped": "{share:.0%} of the ground truth's pixels have its {which} value, {value:g}, where "
    "the candidates vary; is it saturated? The table will learn to clip.",
    "truth-is-candidate": 'candidate "{name}" differs from the ground truth by only {error:.3g} (root '
    "mean square), so one seems to be a copy of the other; check the ground truth, or drop the candidate.",
    "other-order": 'candidate "{name}": its image {label} is closer to the ground truth of image {other}; '
    "check that all files are in the same order.",
    "own-input": "the reference seems to be the image that the candidates were restored from (the "
    "candidates contain its noise, score {score:.2f} above {limit:g}), so scores and weights are biased "
    "toward the least denoised candidate; take another exposure, or learn from the noisy image alone.",
    "noise-level": "truth_noise is {given:.3g}, but the flat parts of the ground truth have a noise of "
    "about {measured:.3g} (standard deviation); the scores would be wrong.",
    "constant/fit": "{who} is constant ({mean:.6g}), so it cannot contribute.",
    "scale-mismatch/fit": "{who} has a mean of {mean:.3g} and a standard deviation of {deviation:.3g}; "
    "the ground truth has {true_mean:.4g} and {true_deviation:.4g}. Bring them to one scale.",
    "constant/apply": 'candidate "{name}": constant ({value:g} in every pixel examined); how was it saved?',
}

WARNINGS = {
    "not-finite": "{share:.0%} of its pixels are NaN or infinite; they are not learned from.",
    "not-finite/plane": "no pixel is finite in the examined plane, so nothing can be learned from it.",
    "clipped": "{share:.0%} of its pixels have its {which} value, {value:g}, where the ground truth "
    "varies; was it clipped?",
    "empty-region": "empty region: every pixel is {value:g} in rows {rows[0]} to {rows[1]}, columns "
    "{columns[0]} to {columns[1]} ({share:.1%} of the examined part), but the ground truth varies there; "
    "crop all images, or exclude the region with a mask.",
    "equal-candidates": 'candidates "{first}", "{second}": equal in every pixel; drop one.',
    "mask-not-binary": "{share:.0%} of the mask's values lie between 0 and 1, and every value above 0 "
    "counts as true; apply a threshold first, such as mask > 0.5.",
    "truth-drifted": "{difference}; the scores include this difference. Match the exposures first.",
    "outside-range/fit": "{share:.1%} of the pixels of {who} lie outside the data range, {low:g} to "
    "{high:g}, and count in its end bins.",
    "no-solution": "EM has no solution in {n} of {total} bin sets, {share:.0%} of the pixels, and keeps "
    "its start weights there: {who} constant in them.",
    "too-few-pixels": "EM has too few pixels in {n} of {total} bin sets, {share:.0%} of the pixels, and "
    "keeps its start weights there; use wider bins than {width:g}, or more images.",
    "many-channels": "channel_axis is {axis}, of length {n}, so {n} tables were learned; is it the "
    "channel axis?",
    "no-gain": 'no method is significantly better than the candidate "{name}" alone on parts held out '
    "({method}: {amount}); {remedy}.",
    "calibration": "where the ensemble is between {low:.4g} and {high:.4g}, the noise of the ground truth is "
    "less than the given {noise:.4g}, so expected errors are too low there. Photon noise, which grows with "
    "intensity, has no single standard deviation.",
    "sampled": "estimated from {share:.1%} of the pixels.",
    "disagreement": 'candidates "{first}", "{second}": correlation {now:.2f}, but {before:.2f} when the '
    "table was learned; are they of the same field?",
    "outside-range": '{share:.0%} of the pixels of "{name}" lie far outside the table\'s range, {low:g} '
    "to {high:g}: it was learned on another scale.",
    "one-bin": 'All of "{name}" ({least:g} to {most:g}) lies in one bin of the table, {low:g} to {high:g} '
    "in bins of {width:g}: it was learned on another scale.",
    "other-exposure": "the images seem to be of another exposure than those that the table was learned "
    "on: about {scale}. The weights depend on intensity; {remedy}.",
}

INFOS = {"truth-matched": "{difference}; it was matched to them."}
"""Messages by severity and code; what follows "/" tells messages of one code apart.

Those of one candidate get "candidate ...: " in front.
"""


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


def diagnose(key: str, fix: Mapping[str, Any] | None = None, /, **values: Any) -> Diagnostic:
    """Return a diagnostic with the message of a key of :data:`ERRORS`, :data:`WARNINGS` or :data:`INFOS`.

    Examples
    --------
    >>> print(diagnose("shifted", {"action": "align"}, how="2 pixels down"))
    shifted by 2 pixels down against the ground truth; align them.
    """
    for severity, messages in zip(SEVERITIES, (ERRORS, WARNINGS, INFOS), strict=True):
        if key in messages:
            return Diagnostic(key.partition("/")[0], severity, messages[key].format(**values), fix)
    raise KeyError(key)


def linear_text(gain: float, what: str, offset: float, unit: float, digits: int = 3) -> str:
    """Format ``gain * what + offset``, without an offset that is below a thousandth of a unit.

    Examples
    --------
    >>> linear_text(16, "the candidate", -3.57e-13, 100), linear_text(0.5, "", -3, 100)
    ('16 x the candidate', '0.5 x - 3')
    """
    text = f"{gain:.{digits}g} x {what}".rstrip()
    if abs(offset) < unit / 1000:
        return text
    return f"{text} {'-' if offset < 0 else '+'} {abs(offset):.{digits}g}"


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
