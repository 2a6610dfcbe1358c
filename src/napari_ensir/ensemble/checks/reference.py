"""Checks of a reference set before it is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays.blocks import as_array
from napari_ensir.ensemble.arrays.image_set import make_field
from napari_ensir.ensemble.checks.alignment import check_reference
from napari_ensir.ensemble.checks.diagnostic import Diagnostic, diagnose, sort_diagnostics
from napari_ensir.ensemble.checks.exposure import MatchedTruths, match_truths
from napari_ensir.ensemble.checks.noise import check_noise_level, check_own_input
from napari_ensir.ensemble.checks.planes import remember
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import FitSettings

if TYPE_CHECKING:
    from collections.abc import Iterable


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
        found += check_reference(head, names, channel_axis, getattr(head, "labels", None))
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
