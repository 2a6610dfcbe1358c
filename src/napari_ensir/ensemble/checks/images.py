"""Checks of images before they are learned from, and before a table is applied to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import as_array
from napari_ensir.ensemble.arrays.image_set import as_numbers, make_field
from napari_ensir.ensemble.checks import alignment
from napari_ensir.ensemble.checks.diagnostic import Diagnostic, diagnose, sort_diagnostics
from napari_ensir.ensemble.checks.exposure import Exposure, MatchedTruths, exposure_of, match_truths
from napari_ensir.ensemble.checks.fit import check_range
from napari_ensir.ensemble.checks.noise import check_noise_level, check_own_input
from napari_ensir.ensemble.checks.planes import middle_plane, remember
from napari_ensir.ensemble.statistics.reference import Samples, sample_pixels
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import FitSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Field
    from napari_ensir.ensemble.statistics.binning import Binning


DISAGREEMENT, LEAST_DISAGREEMENT = 2.0, 0.03
"""Candidates are compared where ``1 - r`` of two is this many times that of the fit, and above the least."""

UNLIKE = 0.5
"""Candidates whose correlation is below this share of that of the fit are reported without another reason."""


def diagnose_reference(
    reference: Iterable[tuple[Sequence[Any], Any]],
    names: Sequence[str] | None = None,
    settings: FitSettings | None = None,
    mask: Sequence[Any] | None = None,
) -> tuple[list[Diagnostic], Iterable[tuple[Sequence[Any], Any]]]:
    """Check a few images of a reference set, and correct the brightness of second exposures.

    Parameters
    ----------
    reference, names, settings, mask
        As for :class:`~napari_ensir.FitSession`. Up to four images of a sequence are read, evenly spaced; the
        first of anything else. ``reference.labels``, if present, are the images' names in messages.

    Returns
    -------
    diagnostics : list of Diagnostic
        Most severe first. Empty if the set cannot be used: reading it says why.
    reference : iterable
        To be read instead of the one given.
    """
    found: list[Diagnostic] = []
    settings = settings or FitSettings()
    noise, channel_axis = settings.truth_noise, settings.channel_axis
    try:
        if noise is not None and settings.match_truth == "auto":
            reference = reference if isinstance(reference, Sequence) else list(reference)
            reference, found = match_truths(reference, channel_axis)
        if isinstance(reference, Sequence):
            head: Sequence[Any] = reference
        else:
            source = iter(reference)
            head = list(islice(source, 1))
            reference = chain(head, source)
        candidates, truth = head[0]
        field = make_field(candidates, truth, names=names, channel_axis=channel_axis)
        found += alignment.check_reference(head, names, channel_axis, getattr(head, "labels", None))
        # A candidate of another scale or field has residuals that say nothing of the noise.
        wrong = {name for one in found if one.fix for name in one.fix.get("candidates", ())}
        named = names or [str(number + 1) for number in range(len(field.candidates))]
        right = [remember(x) for name, x in zip(named, field.candidates, strict=True) if name not in wrong]
        if right:
            true, axis = remember(field.truth), field.channel_axis
            found += check_own_input(right, true, channel_axis=axis)
            if isinstance(noise, float | int):
                gain = reference.drifts[0].correction[0] if isinstance(reference, MatchedTruths) else 1.0
                found += check_noise_level(right, true, noise * gain, axis)
        found += _check_mask(mask)
    except (EnsembleError, IndexError, TypeError, ValueError):
        pass  # reading the set says why
    return sort_diagnostics(found), reference


def _check_mask(mask: Sequence[Any] | None) -> list[Diagnostic]:
    """A mask of probabilities, of which every value above 0 counts as true."""
    first = None if mask is None or not len(mask) else as_array(mask[0])
    if first is None or "float" not in str(first.dtype):
        return []
    values = np.asarray(first[tuple(slice(0, 1024) for _ in first.shape)])
    between = (values > 0) & (values < 1)
    fix = {"action": "threshold-mask", "value": 0.5}
    return [diagnose("mask-not-binary", fix, share=between.mean())] if between.any() else []


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
    flat = [not alignment.varies(plane) for plane in planes]
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
    before = as_numbers(report.get("correlations"), (len(planes),) * 2)
    if found or before is None:  # a table of an earlier version has none
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
    few = alignment.correlations([alignment.thinned(plane) for plane in planes])
    if not (alignment.SLACK * (1 - few) > limit).any():
        return []
    now = alignment.correlations(planes)
    if not (1 - now > limit).any():
        return []
    place = alignment.most_typical(planes)

    def explains(one: Diagnostic) -> bool:
        """Whether candidates agree as before once it is corrected; a shift may also fit by chance."""
        if one.code != "shifted" or one.fix is None:
            return one.code in ("turned", "other-field", "inverted", "channels-reversed")
        m = names.index(one.fix["candidates"][0])
        one_plane, other = (planes[number].mean(axis=-1) for number in (place, m))
        left = 1 - alignment.correlation(*alignment.overlap(one_plane, other, tuple(one.fix["shift"])))
        return bool(left <= min(limit[place, m], (1 - now[place, m]) / 2))

    found = [one for one in alignment.check_alignment(candidates, None, names, channel_axis) if explains(one)]
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
    place = alignment.most_typical([alignment.thinned(plane) for plane in planes])
    found = [
        (name, alignment.check_scale(plane, planes[place]))
        for name, plane in zip(names, planes, strict=True)
        if plane is not planes[place]
    ]
    against = f'candidate "{names[place]}"'
    return [alignment.about_candidates(one, [name], against) for name, one in found if one is not None]


class ApplyChecks:
    """Checks of any number of images before a table is applied to them, in bounded memory.

    Parameters
    ----------
    report, binning, names
        Of the table.

    Attributes
    ----------
    disagreement : list of Diagnostic
        Problems of candidates that do not lie on each other; see :func:`check_agreement`.

    Examples
    --------
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(4096.0).reshape(64, 64)
    >>> lut = fit_lut([([truth + 1, truth - 1], truth)])
    >>> checks = ApplyChecks(lut.report, lut.binning, lut.names)
    >>> checks.look(lut.field([truth + 50001, truth + 49999]))
    >>> [each.code for each in checks.diagnostics()]
    ['other-exposure']
    """

    def __init__(self, report: Mapping[str, Any], binning: Binning, names: Sequence[str]) -> None:
        self.report, self.binning, self.names = report, binning, names
        self._samples = Samples()
        self._outside: list[Diagnostic] = []
        self.disagreement: list[Diagnostic] = []

    def look(self, field: Field, label: str = "") -> None:
        """Check the candidates of one image.

        Parameters
        ----------
        field : Field
            The candidates, checked against the table.
        label : str
            Name of the image, if there are several.
        """
        self._samples.add(sample_pixels(field))
        axis = field.channel_axis
        found = check_agreement(self.report, self.names, field.candidates, axis)
        known = self.disagreement if found else self._outside
        if not found:
            for name, candidate in zip(self.names, field.candidates, strict=True):
                found += check_range(self.binning, name, middle_plane(candidate, axis))
        where = f"image {label}: " if label else ""
        known[:] = sort_diagnostics([*known, *(replace(one, message=where + one.message) for one in found)])

    @property
    def exposure(self) -> Exposure | None:
        """The exposure of the images relative to that of the table; see :func:`exposure_of`."""
        return exposure_of(self.report, self._samples.all())

    def diagnostics(self, **remedy: str) -> list[Diagnostic]:
        """Return what was found; ``remedy`` is that of :meth:`Exposure.check`.

        Candidates that do not lie on each other explain another exposure, and that explains intensities
        outside the range of the table.
        """
        if self.disagreement:
            return [*self.disagreement, *self._outside]
        exposure = self.exposure
        other = [] if exposure is None else exposure.check(**remedy)
        return other or self._outside
