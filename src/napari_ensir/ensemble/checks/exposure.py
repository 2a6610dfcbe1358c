"""Whether candidates are of the exposure that a table was learned on, and the gain and offset between them.

A table is keyed on intensities: where a camera's gain or offset changed, it is wrong. Percentiles of the
candidates' mean are compared with those kept in the table's report. Changes no table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.statistics.reference import PERCENTS, Samples, percentiles_of
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

__all__ = ["Exposure", "exposure_of", "matched"]

GROSS_GAIN = 1.5
"""A ratio of spreads beyond which, either way, images are unlikely to be of one exposure."""

GROSS_OFFSET = 0.5
"""A shift of the middle beyond which they are, as a share of the spread learned from."""


@dataclass(frozen=True)
class Exposure:
    """New intensities as ``gain * x + offset`` of those that a table was learned on.

    Attributes
    ----------
    gain : float
        Above 0.
    offset : float
        In intensity units.
    spread : float
        Between the outer percentiles of the images learned from, in intensity units.
    middle : float
        Median of the images learned from.
    """

    gain: float
    offset: float
    spread: float
    middle: float

    @property
    def differs(self) -> bool:
        """Whether the exposures differ grossly: beyond what other fields of one sample show."""
        moved = abs(self.gain * self.middle + self.offset - self.middle)
        off = moved > GROSS_OFFSET * self.spread * max(1.0, self.gain)
        return off or not 1 / GROSS_GAIN < self.gain < GROSS_GAIN

    def warning(
        self,
        remedy: str = "match it to them, with --match on the command line, lut.rescaled(gain, offset) in "
        "Python",
    ) -> str:
        """One sentence for a user who did not ask, with what can be done about it."""
        return (
            f"the images look as if taken at another exposure than those the table was learned on (about "
            f"{self.gain:.3g} x + {self.offset:.3g}), and it is keyed on intensities; {remedy}."
        )


def exposure_of(report: Mapping[str, Any], samples: Iterable[NDArray[np.float32]]) -> Exposure | None:
    """The exposure of images beside that of a table.

    Parameters
    ----------
    report
        The table's.
    samples
        Pixels of each image to combine; see :func:`~napari_ensir.ensemble.statistics.reference.sample_of`.

    Returns
    -------
    Exposure or None
        None if the table's report has no percentiles, or nothing can be said of the images.

    Examples
    --------
    >>> image = np.random.default_rng(0).gamma(4, 20, (64, 64))
    >>> learned = {"inputs": {"percentiles": percentiles_of(image)}}
    >>> found = exposure_of(learned, [2 * image + 100])
    >>> round(found.gain, 3), round(found.offset, 1)
    (2.0, 100.0)
    """
    inputs = report.get("inputs")
    kept = inputs.get("percentiles") if isinstance(inputs, dict) else None
    several = Samples()
    for sample in samples:
        several.add(sample.reshape(-1))
    now = percentiles_of(several.all())
    if not isinstance(kept, list) or len(kept) != len(PERCENTS) or now is None:
        return None
    try:
        before, after = np.asarray(kept, np.float64), np.asarray(now)
    except (TypeError, ValueError, OverflowError):  # of a file that somebody else wrote
        return None
    # The outermost are left out: saturation and single bright spots are no matter of exposure.
    before, after = before[1:-1], after[1:-1]
    spread, spread_now = float(before[-1] - before[0]), float(after[-1] - after[0])
    if not np.isfinite(before).all() or min(spread, spread_now) <= 0:
        return None
    gain = spread_now / spread
    slope, _ = np.polyfit(before, after, 1)
    gain = float(slope) if slope > 0 else gain
    return Exposure(gain, float(np.mean(after - gain * before)), spread, float(before[len(before) // 2]))


def matched(exposure: Exposure | None) -> tuple[float, float]:
    """Gain and offset to rescale a table by.

    Raises
    ------
    EnsembleError
        If nothing is known of the exposures.
    """
    if exposure is None:
        raise EnsembleError(
            "the table cannot be matched: its report has no percentiles of what it was learned from, or the "
            "images are constant or read chunk by chunk; in Python, lut.rescaled(gain, offset) takes figures."
        )
    return exposure.gain, exposure.offset
