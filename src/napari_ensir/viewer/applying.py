"""A table on sets of arrays, with their exposure and the error to expect. Knows no layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_ensir.ensemble.exposure import exposure_of, matched
from napari_ensir.ensemble.provenance import sample_of
from napari_ensir.viewer.combining import Combined, combine
from napari_ensir.viewer.expecting import expected_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_ensir.ensemble.inputs import Progress
    from napari_ensir.ensemble.lut import WeightLUT

__all__ = ["Applied", "apply_table"]

REMEDY = "tick Match exposure and apply again"


@dataclass(frozen=True)
class Applied:
    """What came of applying a table.

    Attributes
    ----------
    lut : WeightLUT
        The table used: rescaled where that was asked for.
    combined : list of Combined
        One for each set.
    expected : list of arrays
        The error to expect, for each set; empty where it was not asked for.
    exposure : str
        What to say of the exposure; empty where nothing is.
    """

    lut: WeightLUT
    combined: list[Combined]
    expected: list[Any]
    exposure: str = ""


def apply_table(
    lut: WeightLUT,
    sets: Sequence[Sequence[Any]],
    rgb: bool,
    device: str,
    progress: Progress | None = None,
    *,
    match: bool = False,
    with_errors: bool = False,
) -> Applied:
    """Combine sets of candidates, all of one exposure.

    Parameters
    ----------
    lut
    sets
        The candidates of each, in the table's order.
    rgb
        Whether the last axis is colour.
    device, progress
        As for :meth:`napari_ensir.WeightLUT.apply`.
    match
        Rescale the table to the sets' exposure first.
    with_errors
        Work out the error to expect as well.

    Raises
    ------
    EnsembleError
        If the candidates do not fit the table, the exposures cannot be matched, or the table has no
        expected error.
    """
    axis = -1 if rgb and lut.n_channels > 1 else None
    exposure = exposure_of(lut.report, [sample_of(lut.field(each, axis)) for each in sets])
    said = ""
    if match:
        gain, offset = matched(exposure)
        lut = lut.rescaled(gain, offset)
        said = f"The table was matched to intensities of about {gain:.3g} x + {offset:.3g}."
    elif exposure is not None and exposure.differs:
        warning = exposure.warning(REMEDY)
        said = f"{warning[:1].upper()}{warning[1:]}"
    combined = [combine(lut, each, rgb, device, progress) for each in sets]
    errors = [expected_error(lut, each, rgb, device, progress) for each in sets] if with_errors else []
    return Applied(lut, combined, errors, said)
