"""The lookup table: weights with names, method and report, and what is done with them. Fits nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np

from napari_ensir.ensemble.arrays.image_set import check_names, make_field
from napari_ensir.ensemble.checks.fit import doubts
from napari_ensir.ensemble.combine.combine import combine_field
from napari_ensir.ensemble.combine.lookup import Lookup
from napari_ensir.ensemble.estimators.base import OUTCOMES, Settings, find_method
from napari_ensir.ensemble.lut.format import TableParts, write_table
from napari_ensir.ensemble.statistics.reference import PERCENTS, ReferenceSet, made_now
from napari_ensir.ensemble.uncertainty.bias import rescaled_fidelity
from napari_ensir.ensemble.uncertainty.calibrate import calibrate, noise_in
from napari_ensir.ensemble.uncertainty.error_table import ErrorTable, expected_error_of
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Field, Progress
    from napari_ensir.ensemble.statistics.binning import Binning
    from napari_ensir.ensemble.statistics.reference import Reference
    from napari_ensir.ensemble.statistics.statistics import Statistics

__all__ = ["WeightLUT", "bin_centres", "estimate_lut", "figures", "pair_map", "weights_along_intensity"]


@dataclass(frozen=True, eq=False)
class WeightLUT:
    """How far to trust each candidate at each combination of intensities (EnsIR, section 3.4).

    Made by :func:`~napari_ensir.fit_lut`, :func:`~napari_ensir.load_lut` or
    :func:`~napari_ensir.import_lut` rather than by hand.

    Attributes
    ----------
    names : tuple of str
        One per candidate, in the order of the table's axes.
    method : str
        What estimated the weights.
    binning : Binning
    rows : (R, M + 1) uint16
        Occupied bin sets: the bin of each candidate, then the channel; sorted.
    weights : (R, M) float64
        On the simplex.
    counts : (R,) int64
        Pixels that each bin set's weights were learned from; -1: not known.
    fallback : (C, M) float64
        Weights, by channel, where nothing was learned.
    unseen : "fallback" or "previous"
        Whether a bin set that the table lacks takes the fallback, or the weights of the one before it (the
        EnsIR authors' rule).
    channel_axis : int or None
        Axis with one table per place along it; negative: counted from the end.
    report : dict
        How the fit went: plain numbers, strings and lists. ``report["warnings"]`` of a fit holds sentences on
        what should be known before the table is trusted.
    errors : ErrorTable or None
        How far off the ensemble was where it had not learned; see :meth:`calibrated`.
    """

    names: tuple[str, ...]
    method: str
    binning: Binning
    rows: NDArray[np.uint16]
    weights: NDArray[np.float64]
    counts: NDArray[np.int64]
    fallback: NDArray[np.float64]
    unseen: Literal["fallback", "previous"] = "fallback"
    channel_axis: int | None = None
    report: dict[str, Any] = field(default_factory=dict)
    errors: ErrorTable | None = None

    def __post_init__(self) -> None:
        n, m = len(self.rows), len(self.names)
        check_names(self.names, m)
        shapes = (self.rows.shape, self.weights.shape, self.counts.shape, self.fallback.shape[1:])
        if shapes != ((n, m + 1), (n, m), (n,), (m,)) or self.fallback.ndim != 2:
            raise EnsembleError(
                f"the table's parts do not fit {m} candidates and {n} bin sets: their shapes are {shapes}."
            )
        for array in (self.rows, self.weights, self.counts, self.fallback):
            array.flags.writeable = False

    @property
    def bin_width(self) -> float:
        """Bin width in intensity units."""
        return self.binning.width

    @property
    def data_range(self) -> tuple[float, float]:
        """Lowest and highest intensity that has a bin of its own; values outside go to the end bins."""
        return (self.binning.low, self.binning.high)

    @property
    def n_candidates(self) -> int:
        """Number of candidates, M."""
        return len(self.names)

    @property
    def n_channels(self) -> int:
        """Number of channels with a table of their own; 1 if pooled."""
        return len(self.fallback)

    def __repr__(self) -> str:
        return (
            f"<WeightLUT {self.method!r} of {', '.join(self.names)}: {len(self.rows)} bin sets, "
            f"bin width {self.bin_width:g}, range {self.binning.low:g} to {self.binning.high:g}, "
            f"{self.n_channels} channel{'s' if self.n_channels > 1 else ''}>"
        )

    @cached_property
    def lookup(self) -> Lookup:
        """Bin set to weights: all that combining needs of the table."""
        return Lookup(self.binning, self.rows, self.weights, self.fallback, self.unseen)

    def weights_for(self, intensities: Sequence[float], channel: int = 0) -> NDArray[np.float64]:
        """Weights of the bin set that these intensities fall in.

        Parameters
        ----------
        intensities : M numbers
            One per candidate, in intensity units.
        channel : int
            Which channel's table; 0 where channels are pooled.

        Returns
        -------
        (M,) float64
            Non-negative, summing to one.

        Raises
        ------
        EnsembleError
            If there is not one intensity per candidate, or no such channel.
        """
        return np.array(self.lookup.all_weights[self._row_for(intensities, channel)])

    def count_for(self, intensities: Sequence[float], channel: int = 0) -> int:
        """Pixels behind the weights of that bin set: 0 if it was never seen, -1 if not known.

        Parameters
        ----------
        intensities, channel
            As for :meth:`weights_for`.

        Returns
        -------
        int

        Raises
        ------
        EnsembleError
            As :meth:`weights_for`.
        """
        row = self._row_for(intensities, channel)
        place = self.binning.bins(np.asarray(intensities, np.float64))
        seen = row < len(self.rows) and np.array_equal(self.rows[row], [*place, channel])
        return int(self.counts[row]) if seen else 0

    def _row_for(self, intensities: Sequence[float], channel: int) -> int:
        import torch

        values = np.asarray(intensities, np.float64)
        if values.shape != (self.n_candidates,):
            raise EnsembleError(
                f"{values.size} intensities were given; give {self.n_candidates}, one for each of "
                f"{', '.join(self.names)}."
            )
        if np.isnan(values).any():
            raise EnsembleError(f"the intensities {values.tolist()} are not all a number; NaN has no bin.")
        if not 0 <= channel < self.n_channels:
            raise EnsembleError(f"there is no channel {channel}; the table has 0 to {self.n_channels - 1}.")
        columns = [torch.tensor(int(t)) for t in self.binning.bins(values)]
        return int(self.lookup.row_of([*columns, torch.tensor(channel)]))

    def apply(
        self,
        candidates: Sequence[Any],
        device: str | torch.device = "auto",
        *,
        channel_axis: int | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Combine candidates into the ensemble (EnsIR, equations 14 and 15).

        Parameters
        ----------
        candidates : M arrays of one shape
            Numpy, torch, dask or anything that can be sliced, in the order of ``names``.
        device
            ``"auto"``, or any torch device.
        channel_axis : int, optional
            If it differs from the one of the fit.
        progress
            Called with (pixels done, pixels, text); what it raises stops the work.

        Returns
        -------
        float32 array of the candidates' shape
            Between the least and the greatest candidate at each pixel; NaN where a candidate is NaN. Dask
            arrays in, a dask array out, nothing computed.

        Raises
        ------
        EnsembleError
            If the candidates do not fit the table or each other.
        """
        field = self.field(candidates, channel_axis)
        return combine_field(self.lookup, field, device, as_maps=False, progress=progress)

    def weight_maps(
        self,
        candidates: Sequence[Any],
        device: str | torch.device = "auto",
        *,
        channel_axis: int | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Each candidate's weight at each pixel.

        Parameters
        ----------
        candidates, device, channel_axis, progress
            As for :meth:`apply`.

        Returns
        -------
        (M, *shape) float32 array
            Sums to one over the first axis. Dask arrays in, a dask array out, nothing computed.
        """
        field = self.field(candidates, channel_axis)
        return combine_field(self.lookup, field, device, as_maps=True, progress=progress)

    def field(self, candidates: Sequence[Any], channel_axis: int | None = None) -> Field:
        """Check candidates against the table.

        Raises
        ------
        EnsembleError
            If their number or their channels differ from the table's, or they differ in shape.
        """
        candidates = list(candidates)
        if len(candidates) != self.n_candidates:
            raise EnsembleError(
                f"the LUT combines {self.n_candidates} candidates ({', '.join(self.names)}), but "
                f"{len(candidates)} were given; give these, in that order."
            )
        axis = self.channel_axis if channel_axis is None else channel_axis
        if self.n_channels == 1 and self.channel_axis is None:
            axis = None
        made = make_field(candidates, names=self.names, channel_axis=axis)
        if made.n_channels != self.n_channels:
            raise EnsembleError(
                f"the LUT has {self.n_channels} channels, but the candidates have {made.n_channels} along "
                f"axis {axis} (shape {made.shape}); give images with {self.n_channels} channels there."
            )
        return made

    def calibrated(
        self,
        reference: Iterable[tuple[Sequence[Any], Any]],
        mask: Sequence[Any] | None = None,
        device: str | torch.device = "auto",
        progress: Progress | None = None,
        *,
        planes: tuple[int, int] | None = None,
        folds: Sequence[Statistics] = (),
    ) -> WeightLUT:
        """The same table with the errors to expect of it, learned from a reference set.

        Also learns its mean errors by intensity; see
        :func:`napari_ensir.ensemble.uncertainty.bias.fidelity_of`.
        Each part of the reference set is scored by weights that were learned, by the table's method and
        settings, from the other parts; an imported table, whose weights cannot be learned anew, scores all
        itself. The set is read twice.

        Parameters
        ----------
        reference, mask, device, progress, planes
            As for :func:`~napari_ensir.fit_lut`; the images that the table was learned from, or others alike.
        folds : sequence of Statistics, optional
            Of the parts of this very set, where they are known: it is then read once.

        Returns
        -------
        WeightLUT

        Raises
        ------
        EnsembleError
            If the images do not fit the table, or the truth carried noise of a variance not known.

        Examples
        --------
        >>> from napari_ensir import fit_lut
        >>> rng = np.random.default_rng(0)
        >>> truth = rng.integers(0, 200, (96, 96)).astype(np.float32)
        >>> noisy = [truth + rng.normal(0, 6, truth.shape) for _ in range(2)]
        >>> lut = fit_lut([(noisy, truth)], method="least-squares", device="cpu").calibrated([(noisy, truth)])
        >>> 3 < float(np.median(lut.expected_error(noisy))) < 6
        True
        """
        fields = ReferenceSet(reference, self.names, self.channel_axis, mask, self.data_range, planes)
        self.field(fields.first.candidates)  # their number and channels
        settings = Settings.from_dict(self.report.get("settings"), self.n_candidates)
        how = (settings, noise_in(self.report), device, progress, folds)
        errors, told = calibrate(self.lookup, fields, self.method, *how)
        said = {"warnings": [*self.report.get("warnings", ()), *told["warnings"]]}
        return replace(self, errors=errors, report=self.report | told | said)

    def expected_error(
        self,
        candidates: Sequence[Any],
        device: str | torch.device = "auto",
        *,
        channel_axis: int | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """The root mean square error to expect of the ensemble at each pixel.

        It is read off the ensemble's intensity and the spread of the candidates. Where all candidates agree
        on something false, it is blind.

        Parameters
        ----------
        candidates, device, channel_axis, progress
            As for :meth:`apply`.

        Returns
        -------
        float32 array of the candidates' shape
            In intensity units. Dask arrays in, a dask array out, nothing computed.

        Raises
        ------
        EnsembleError
            If the table was not calibrated, or as :meth:`apply`.
        """
        if self.errors is None:
            raise EnsembleError(
                "the table has no expected error; give it one with lut.calibrated(reference), or fit again."
            )
        field = self.field(candidates, channel_axis)
        return expected_error_of(self.errors, self.lookup, field, device, progress)

    def rescaled(self, gain: float, offset: float = 0.0) -> WeightLUT:
        """The same table for intensities ``gain * x + offset`` of those that it was learned on.

        A table is keyed on intensities: it fits no other gain or offset of a camera. Exact where gain,
        offset and bins are whole; else up to how ``gain * x + offset`` is rounded.

        Parameters
        ----------
        gain : float
            Above 0.
        offset : float
            In intensity units.

        Returns
        -------
        WeightLUT

        Raises
        ------
        EnsembleError
            If the gain is not a finite number above 0, or the offset is not finite.

        Examples
        --------
        >>> from napari_ensir import fit_lut
        >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
        >>> lut = fit_lut([((truth // 2 * 2, truth // 4 * 4), truth)], device="cpu")
        >>> twice = lut.rescaled(2, 100)
        >>> bool((twice.weights_for((300, 300)) == lut.weights_for((100, 100))).all())
        True
        """
        binning = self.binning.rescaled(gain, offset)
        errors = self.errors
        if errors is not None:
            low, high = (gain * edge + offset for edge in (errors.low, errors.high))
            errors = replace(errors, low=low, high=high, noise=errors.noise * gain)
        return replace(
            self,
            binning=binning,
            errors=errors,
            report=_rescaled_report(self.report, gain, offset),
        )

    def save(self, path: str | Path) -> Path:
        """Write the table to a ``.lut.safetensors`` file, whole or not at all.

        :func:`~napari_ensir.load_lut` reads it back.

        Parameters
        ----------
        path : str or Path
            Where to; a file that is there is replaced.

        Returns
        -------
        Path
            Where it was written: ``.lut.safetensors`` is added where the name lacks it.

        Raises
        ------
        EnsembleError
            If the file cannot be written; one that was there is then unchanged.
        """
        parts: TableParts = {
            "names": self.names,
            "method": self.method,
            "binning": self.binning,
            "rows": self.rows,
            "weights": self.weights,
            "counts": self.counts,
            "fallback": self.fallback,
            "unseen": self.unseen,
            "channel_axis": self.channel_axis,
            "report": self.report,
            "errors": self.errors,
        }
        return write_table(path, parts)


def figures(value: float) -> str:
    """An intensity or a bin width for reading: four digits, or all those before the point.

    Parameters
    ----------
    value : float
        Intensity units.

    Returns
    -------
    str

    Examples
    --------
    >>> figures(0.11962890625), figures(32.0), figures(8191.875), figures(65535)
    ('0.1196', '32', '8192', '65535')
    """
    return f"{value:.{max(4, len(str(int(abs(value)))))}g}"


def bin_centres(lut: WeightLUT) -> NDArray[np.float64]:
    """Middle of each intensity bin, (T,), intensity units; the last one's within the data range."""
    edges = lut.binning.low + lut.binning.width * np.arange(lut.binning.n_bins + 1)
    edges[-1] = min(edges[-1], lut.binning.high)
    return np.asarray((edges[:-1] + edges[1:]) / 2, np.float64)


def _shares(
    lut: WeightLUT, channel: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Bins, weights and pixels of a channel's bin sets; each set counts one where pixels are not known."""
    here = lut.rows[:, -1] == channel
    counts = lut.counts[here]
    known = np.where(counts < 0, 1, counts).astype(np.float64)
    return lut.rows[here, :-1].astype(np.int64), lut.weights[here], known


def weights_along_intensity(
    lut: WeightLUT, channel: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each candidate's weight where the candidates together have an intensity.

    Parameters
    ----------
    lut : WeightLUT
    channel : int

    Returns
    -------
    weights : (T, M) float64
        Mean over the bin sets whose median candidate lies in bin ``t``, by pixels; NaN where there is none.
    counts : (T,) float64
        Pixels behind them; bin sets, where the table does not know its pixels.
    """
    bins, weights, counts = _shares(lut, channel)
    # The median candidate's bin: a real bin, and not moved by one candidate that strays.
    place = np.sort(bins, axis=1)[:, (bins.shape[1] - 1) // 2]
    total = np.bincount(place, counts, minlength=lut.binning.n_bins).astype(np.float64)
    sums = np.stack([np.bincount(place, counts * w, minlength=lut.binning.n_bins) for w in weights.T], axis=1)
    mean = np.full_like(sums, np.nan)
    np.divide(sums, total[:, None], out=mean, where=total[:, None] > 0)
    return np.asarray(mean, np.float64), total


def pair_map(
    lut: WeightLUT, first: int, second: int, channel: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight of one candidate where it and another have given intensities.

    Parameters
    ----------
    lut : WeightLUT
    first, second : int
        Candidates: rows and columns of the map. The weight is the first's.
    channel : int

    Returns
    -------
    weights : (T, T) float64
        Mean over the other candidates' bins, by pixels; NaN where no pixel was seen.
    counts : (T, T) float64
    """
    bins, weights, counts = _shares(lut, channel)
    n = lut.binning.n_bins
    place = bins[:, first] * n + bins[:, second]
    total = np.bincount(place, counts, minlength=n * n).astype(np.float64)
    sums = np.bincount(place, counts * weights[:, first], minlength=n * n)
    mean = np.full(n * n, np.nan)
    np.divide(sums, total, out=mean, where=total > 0)
    return mean.reshape(n, n), total.reshape(n, n)


def estimate_lut(
    reference: Reference,
    method: str = "em",
    settings: Settings | None = None,
    *,
    binning: Binning | None = None,
    progress: Progress | None = None,
) -> WeightLUT:
    """Weights from statistics, by any method and in any bins that those collected fit into.

    Parameters
    ----------
    reference : Reference
    method : str
        A key of :data:`~napari_ensir.ensemble.estimators.base.METHODS`.
    settings : Settings, optional
    binning : Binning, optional
        Coarser bins of the same range; None: as collected.
    progress
        Called with (done, total, text); what it raises stops the work.

    Returns
    -------
    WeightLUT

    Raises
    ------
    EnsembleError
        If there is no such method, or the bins do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir.ensemble.statistics.reference import collect_reference
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (2, 8)]
    >>> collected = collect_reference([(noisy, truth)], device="cpu")
    >>> [estimate_lut(collected, method).method for method in ("em", "least-squares")]
    ['em', 'least-squares']
    """
    found = find_method(method)
    estimator, settings = found.load(), settings or Settings()
    statistics = reference.statistics if binning is None else reference.statistics.in_bins(binning)
    estimate = estimator(statistics, settings, progress)
    counts = statistics.counts
    report = {
        **made_now(),
        "settings": settings.to_dict(found.uses),
        "inputs": reference.inputs,
        "pixels": statistics.n_pixels,
        "images": reference.n_images,
        "bin_sets": len(counts),
        "statistics_bytes": statistics.nbytes,
        "data_range_from": reference.range_from,
        "not_finite": statistics.not_finite,
        "outside_range": [int(n) for n in statistics.outside],
        "outcomes": {text: int((estimate.outcome == code).sum()) for code, text in enumerate(OUTCOMES)},
        "iterations": [int(n) for n in estimate.iterations],
        "outcome": [int(code) for code in estimate.outcome],
        "warnings": doubts(statistics, reference.names, estimate),
    }
    return WeightLUT(
        reference.names,
        method,
        statistics.binning,
        statistics.rows,
        estimate.weights,
        counts,
        estimate.fallback,
        estimate.unseen,
        reference.channel_axis,
        report,
    )


def _rescaled_report(report: dict[str, Any], gain: float, offset: float) -> dict[str, Any]:
    """A table's report where intensities are now ``gain * x + offset``."""
    before = report.get("rescaled")
    first = before if _are_numbers(before, 2) else [1.0, 0.0]
    kept = {**report, "rescaled": [gain * first[0], gain * first[1] + offset]}
    if "fidelity" in report:
        kept["fidelity"] = rescaled_fidelity(report["fidelity"], gain, offset)
    inputs = report.get("inputs")
    percentiles = inputs.get("percentiles") if isinstance(inputs, dict) else None
    if isinstance(inputs, dict) and _are_numbers(percentiles, len(PERCENTS)):
        kept["inputs"] = {**inputs, "percentiles": [gain * value + offset for value in percentiles]}
    return kept


def _are_numbers(value: Any, n: int) -> TypeGuard[list[float]]:
    """Whether this, maybe of a file that somebody else wrote, is so many numbers."""
    return isinstance(value, list) and len(value) == n and all(type(one) in (int, float) for one in value)
