"""Checks of candidates before a table is applied to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.checks.alignment import (
    SLACK,
    about_candidates,
    check_alignment,
    check_scale,
    correlation,
    correlations,
    most_typical,
    overlap,
    thinned,
    varies,
)
from napari_ensir.ensemble.checks.diagnostic import Diagnostic, diagnose
from napari_ensir.ensemble.checks.exposure import exposure_of
from napari_ensir.ensemble.checks.fit import check_range
from napari_ensir.ensemble.checks.planes import middle_plane
from napari_ensir.ensemble.statistics.reference import sample_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Field
    from napari_ensir.ensemble.statistics.binning import Binning


DISAGREEMENT, LEAST_DISAGREEMENT = 2.0, 0.03
"""Candidates are compared where ``1 - r`` of two is this many times that of the fit, and above the least."""

UNLIKE = 0.5
"""Candidates whose correlation is below this share of that of the fit are reported without another reason."""


def check_agreement(
    report: Mapping[str, Any],
    names: Sequence[str],
    candidates: Sequence[Any],
    channel_axis: int | None = None,
) -> list[Diagnostic]:
    """Check that candidates lie on each other as they did when the table was learned.

    The correlation of each two is compared with that in the table's report. Where it is much lower, shifts,
    flips and rotations are looked for.

    Parameters
    ----------
    report
        Of the table.
    names : M strings
    candidates : M arrays of one shape
        At most 256 x 256 pixels of one plane are read.
    channel_axis : int, optional

    Returns
    -------
    list of Diagnostic
        Most severe first.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64]
    >>> image = np.sin(x / 3) + np.cos(y / 4 + x / 11)
    >>> report = {"correlations": [[1.0, 0.99], [0.99, 1.0]]}
    >>> print(*check_agreement(report, "AB", [image, np.roll(image, 5, axis=1) + 0.01]))
    candidate "B": shifted by 5 pixels to the right against candidate "A"; align them.
    """
    planes = [middle_plane(candidate, channel_axis) for candidate in candidates]
    flat = [not varies(plane) for plane in planes]
    found = [
        diagnose(
            "constant/apply",
            {"action": "drop-candidate", "candidates": [name]},
            name=name,
            value=plane[np.isfinite(plane)][0],
        )
        for name, plane, is_flat in zip(names, planes, flat, strict=True)
        # All of them may be empty in this part of the image.
        if is_flat and np.isfinite(plane).any() and not all(flat)
    ]
    before = _correlations_of(report, len(planes))
    if found or before is None:
        return found
    return _check_correlations(before, names, candidates, planes, channel_axis) or _check_scales(
        report, names, planes
    )


def _check_correlations(
    before: NDArray[np.float64],
    names: Sequence[str],
    candidates: Sequence[Any],
    planes: Sequence[NDArray[np.float64]],
    channel_axis: int | None,
) -> list[Diagnostic]:
    """Candidates that correlate less than when the table was learned, and why."""
    limit = np.maximum(DISAGREEMENT * (1 - before), LEAST_DISAGREEMENT)
    if not (SLACK * (1 - correlations([thinned(plane) for plane in planes])) > limit).any():
        return []
    now = correlations(planes)
    if not (1 - now > limit).any():
        return []
    place = most_typical(planes)

    def explains(one: Diagnostic) -> bool:
        """Whether candidates agree as before once it is corrected; a shift may also fit by chance."""
        if one.code != "shifted" or one.fix is None:
            return one.code in ("turned", "other-field", "inverted", "channels-reversed")
        m = names.index(one.fix["candidates"][0])
        back = overlap(planes[place].mean(axis=-1), planes[m].mean(axis=-1), tuple(one.fix["shift"]))
        return bool(1 - correlation(*back) <= min(limit[place, m], (1 - now[place, m]) / 2))

    found = [one for one in check_alignment(candidates, None, names, channel_axis) if explains(one)]
    if found:
        return found
    m, k = sorted(divmod(int(np.argmin(now - UNLIKE * before)), len(planes)))
    if now[m, k] >= UNLIKE * before[m, k]:
        return []
    about = {"first": names[m], "second": names[k], "now": now[m, k], "before": before[m, k]}
    return [diagnose("disagreement", {"candidates": [names[m], names[k]]}, **about)]


def _check_scales(
    report: Mapping[str, Any], names: Sequence[str], planes: Sequence[NDArray[np.float64]]
) -> list[Diagnostic]:
    """Candidates that are on another scale than the most typical one, and were not in the fit."""
    fitted = [one for one in report.get("diagnostics", ()) if isinstance(one, dict)]
    if planes[0].ndim < 3 or any(one.get("code") in ("scale-mismatch", "tone-curve") for one in fitted):
        return []
    place = most_typical([thinned(plane) for plane in planes])
    found = [
        (name, check_scale(plane, planes[place]))
        for name, plane in zip(names, planes, strict=True)
        if plane is not planes[place]
    ]
    against = f'candidate "{names[place]}"'
    return [about_candidates(one, [name], against) for name, one in found if one is not None]


def _correlations_of(report: Mapping[str, Any], n: int) -> NDArray[np.float64] | None:
    """The correlations of a table's report; None in a table of an earlier version."""
    try:
        values = np.asarray(report.get("correlations"), np.float64)
    except (TypeError, ValueError):
        return None
    return values if values.shape == (n, n) and np.isfinite(values).all() else None


def check_candidates(
    report: Mapping[str, Any], binning: Binning, names: Sequence[str], field: Field
) -> list[Diagnostic]:
    """Check candidates in memory before a table is applied: agreement, exposure, range.

    Parameters
    ----------
    report, binning, names
        Of the table.
    field : Field
        The candidates.

    Returns
    -------
    list of Diagnostic
        Those of the first check that finds something: each explains the later ones.
    """
    found = check_agreement(report, names, field.candidates, field.channel_axis)
    if found:
        return found
    exposure = exposure_of(report, [sample_pixels(field)])
    if exposure is not None and (found := exposure.check()):
        return found
    for name, candidate in zip(names, field.candidates, strict=True):
        found += check_range(binning, name, middle_plane(candidate, field.channel_axis))
    return found
