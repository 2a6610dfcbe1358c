"""Checks of the candidates that a lookup table combines."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_ensir.ensemble.checks.candidates import check_agreement
from napari_ensir.ensemble.checks.exposure import Exposure, exposure_of
from napari_ensir.ensemble.checks.fit import check_range
from napari_ensir.ensemble.checks.planes import middle_plane
from napari_ensir.ensemble.statistics.reference import Samples, sample_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_ensir.ensemble.checks.diagnostic import Diagnostic
    from napari_ensir.ensemble.lut.lut import WeightLUT


class ApplyChecks:
    """Checks of any number of images against a table, in bounded memory.

    Parameters
    ----------
    lut : WeightLUT

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(4096.0).reshape(64, 64)
    >>> checks = ApplyChecks(fit_lut([([truth + 1, truth - 1], truth)]))
    >>> checks.look([truth + 50001, truth + 49999])
    >>> [each.code for each in checks.diagnostics()]
    ['other-exposure']
    """

    def __init__(self, lut: WeightLUT) -> None:
        self.lut = lut
        self._samples = Samples()
        self._agreement: dict[str, Diagnostic] = {}
        self._range: dict[str, Diagnostic] = {}

    def look(self, candidates: Sequence[Any], label: str = "", channel_axis: int | None = None) -> None:
        """Check the candidates of one image.

        Parameters
        ----------
        candidates : M arrays of one shape
        label : str
            Name of the image, if there are several.
        channel_axis : int, optional
            Default: that of the table.

        Raises
        ------
        EnsembleError
            If the candidates do not fit the table.
        """
        lut, axis = self.lut, self.lut.channel_axis
        self._samples.add(sample_pixels(lut.field(candidates, channel_axis)))

        def keep(known: dict[str, Diagnostic], key: str, found: Diagnostic) -> None:
            message = f"image {label}: {found}" if label else found.message
            known.setdefault(key, replace(found, message=message))

        disagreement = check_agreement(lut.report, lut.names, candidates, axis)
        for each in disagreement:
            keep(self._agreement, each.code, each)
        if not disagreement:
            for name, candidate in zip(lut.names, candidates, strict=True):
                for each in check_range(lut.binning, name, middle_plane(candidate, axis)):
                    keep(self._range, name, each)

    @property
    def disagreement(self) -> list[Diagnostic]:
        """What was found of candidates that do not lie on each other; see :func:`check_agreement`."""
        return list(self._agreement.values())

    @property
    def found(self) -> list[Diagnostic]:
        """What was found apart from another exposure."""
        return [*self._agreement.values(), *self._range.values()]

    @property
    def exposure(self) -> Exposure | None:
        """The exposure of the images relative to that of the table; see :func:`exposure_of`."""
        return exposure_of(self.lut.report, self._samples.parts)

    def diagnostics(self, **remedy: str) -> list[Diagnostic]:
        """Return what was found; ``remedy`` is that of :meth:`Exposure.check`.

        Candidates that do not lie on each other explain another exposure, and that explains intensities
        outside the range of the table.
        """
        if self._agreement:
            return self.found
        exposure = self.exposure
        other = [] if exposure is None else exposure.check(**remedy)
        return other or list(self._range.values())
