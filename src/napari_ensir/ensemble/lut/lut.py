"""The lookup table of weights: how it is made from statistics, applied, rescaled, calibrated and saved."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.ensemble.arrays.image_set import as_numbers, check_names, make_field
from napari_ensir.ensemble.checks.diagnostic import add_diagnostics
from napari_ensir.ensemble.checks.exposure import exposure_of, match_truths, matched
from napari_ensir.ensemble.checks.fit import check_fit, correlations
from napari_ensir.ensemble.checks.images import ApplyChecks
from napari_ensir.ensemble.combine.combine import combine_field
from napari_ensir.ensemble.combine.lookup import Lookup
from napari_ensir.ensemble.estimators.base import OUTCOMES, Settings, find_method
from napari_ensir.ensemble.lut.format import write_table
from napari_ensir.ensemble.lut.report import FitReport
from napari_ensir.ensemble.statistics.count import is_lazy
from napari_ensir.ensemble.statistics.reference import ReferenceSet, current_versions, sample_pixels
from napari_ensir.ensemble.uncertainty.bias import rescale, rescale_bias_report
from napari_ensir.ensemble.uncertainty.calibrate import calibrate, read_error_factor, read_truth_noise
from napari_ensir.ensemble.uncertainty.error_table import ErrorTable, map_expected_error
from napari_ensir.errors import EnsembleError, EnsembleWarning
from napari_ensir.settings import FitSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Field, Progress
    from napari_ensir.ensemble.statistics.binning import Binning
    from napari_ensir.ensemble.statistics.reference import Reference
    from napari_ensir.ensemble.statistics.statistics import Statistics


@dataclass(frozen=True, eq=False)
class WeightLUT:
    """How far to trust each candidate at each combination of intensities (EnsIR, section 3.4).

    Use :func:`~napari_ensir.fit_lut`, :func:`~napari_ensir.load_lut` or :func:`~napari_ensir.import_lut` to
    make one.

    Attributes
    ----------
    names : tuple of str
        One per candidate, in the order of the table's axes.
    method : str
        The method that estimated the weights.
    binning : Binning
    rows : (R, M + 1) uint16
        Occupied bin sets, sorted: the bin of each candidate, then the channel.
    weights : (R, M) float64
        On the simplex.
    counts : (R,) int64
        Number of pixels that each bin set's weights were learned from; -1 if unknown.
    fallback : (C, M) float64
        Weights, by channel, of bin sets that were not learned.
    unseen : "fallback" or "previous"
        Weights of a bin set that the table lacks: the fallback, or those of the bin set before it (the rule
        of the EnsIR authors' code).
    channel_axis : int or None
        Axis along which each channel has its own table; negative values count from the end.
    report : FitReport
        How the table was made: a mapping of plain values, the usual ones also as attributes.
        ``report.warnings`` has sentences on what looks wrong.
    errors : ErrorTable or None
        Errors of the ensemble on parts held out; see :meth:`calibrated`.
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
    report: FitReport = field(default_factory=FitReport)
    errors: ErrorTable | None = None

    def __post_init__(self) -> None:
        n, m = len(self.rows), len(self.names)
        check_names(self.names, m)
        shapes = (self.rows.shape, self.weights.shape, self.counts.shape, self.fallback.shape[1:])
        if shapes != ((n, m + 1), (n, m), (n,), (m,)) or self.fallback.ndim != 2:
            raise EnsembleError(
                f"the table's parts do not fit {m} candidates and {n} bin sets: their shapes are {shapes}."
            )
        object.__setattr__(self, "report", FitReport(self.report))
        for array in (self.rows, self.weights, self.counts, self.fallback):
            array.flags.writeable = False

    @property
    def bin_width(self) -> float:
        """Bin width in intensity units."""
        return self.binning.width

    @property
    def data_range(self) -> tuple[float, float]:
        """Lowest and highest intensity of the bins; intensities outside go to the first or last bin."""
        return (self.binning.low, self.binning.high)

    @property
    def n_candidates(self) -> int:
        """Number of candidates, M."""
        return len(self.names)

    @property
    def n_channels(self) -> int:
        """Number of channels with their own table; 1 if channels are pooled."""
        return len(self.fallback)

    @property
    def error_factor(self) -> float | None:
        """Factor within which expected errors hold on other fields, for about 90 % of them.

        On such a field the actual root mean square error lies between the expected one divided by this factor
        and multiplied by it. It is learned by :meth:`calibrated` from differences between images; None where
        there were fewer than two.
        """
        return read_error_factor(self.report)

    def __repr__(self) -> str:
        return (
            f"<WeightLUT {self.method!r} of {', '.join(self.names)}: {len(self.rows)} bin sets, "
            f"bin width {self.bin_width:g}, range {self.binning.low:g} to {self.binning.high:g}, "
            f"{self.n_channels} channel{'s' if self.n_channels > 1 else ''}>"
        )

    def _repr_html_(self) -> str:
        """The table as HTML, for notebooks: its mean weights by candidate, and its warnings."""
        pixels = np.where(self.counts < 0, 1, self.counts)
        known = pixels.sum() > 0
        mean = np.average(self.weights, 0, pixels) if known else self.fallback.mean(axis=0)
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{weight:.3f}</td></tr>"
            for name, weight in zip(self.names, mean, strict=True)
        )
        said = [str(one) for one in self.report.warnings]
        if self.report.method_choice:
            said.insert(0, f"Method: {self.report.method_choice.get('summary')}.")
        notes = "".join(f"<li>{escape(one)}</li>" for one in said)
        return (
            f"<p>{escape(repr(self)[1:-1])}</p>"
            f"<table><tr><th>candidate</th><th>mean weight</th></tr>{rows}</table>"
            + (f"<ul>{notes}</ul>" if notes else "")
        )

    @cached_property
    def lookup(self) -> Lookup:
        """The part of the table that combining needs."""
        return Lookup(self.binning, self.rows, self.weights, self.fallback, self.unseen)

    def weights_for(self, intensities: Sequence[float], channel: int = 0) -> NDArray[np.float64]:
        """Return the weights of the bin set of these intensities.

        Parameters
        ----------
        intensities : M numbers
            One per candidate, in intensity units.
        channel : int
            The channel whose table is used; 0 if channels are pooled.

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
        """Return how many pixels a bin set was learned from: 0 if it was not seen, -1 if unknown.

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
        columns = [np.array([t], np.int64) for t in (*self.binning.bins(values), channel)]
        return int(self.lookup.row_of(columns)[0])

    def apply(
        self,
        candidates: Sequence[Any],
        device: str | torch.device = "auto",
        *,
        channel_axis: int | None = None,
        progress: Progress | None = None,
        check: bool = True,
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
        progress : callable, optional
            Called with (pixels done, pixels, text); an exception that it raises cancels the work.
        check : bool
            Warn about candidates that look wrong. Lazy ones are not checked.

        Returns
        -------
        float32 array of the candidates' shape
            Between the lowest and the highest candidate at each pixel; NaN where a candidate is NaN. A lazy
            dask array if the candidates are dask arrays.

        Raises
        ------
        EnsembleError
            If the candidates do not fit the table or each other.

        Warns
        -----
        EnsembleWarning
            If the candidates look wrong beside those that the table was learned on.
        """
        field = self.field(candidates, channel_axis)
        if check and not is_lazy(field):
            checks = ApplyChecks(self.report, self.binning, self.names)
            checks.look(field)
            for found in checks.diagnostics():
                warnings.warn(found.message, EnsembleWarning, stacklevel=2)
        return combine_field(self.lookup, field, device, as_maps=False, progress=progress)

    def weight_maps(
        self,
        candidates: Sequence[Any],
        device: str | torch.device = "auto",
        *,
        channel_axis: int | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Return each candidate's weight at each pixel.

        Parameters
        ----------
        candidates, device, channel_axis, progress
            As for :meth:`apply`.

        Returns
        -------
        (M, *shape) float32 array
            Sums to one over the first axis. A lazy dask array if the candidates are dask arrays.
        """
        field = self.field(candidates, channel_axis)
        return combine_field(self.lookup, field, device, as_maps=True, progress=progress)

    def field(self, candidates: Iterable[Any], channel_axis: int | None = None) -> Field:
        """Check candidates against the table and return them as a field.

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
        """Return the table with expected errors, measured on a reference set.

        Each part of the reference set is combined by weights that the table's method and settings give on the
        other parts; an imported table is used as it is. The set is read twice. The report gets the ensemble's
        mean errors by intensity as well; see :func:`napari_ensir.ensemble.uncertainty.bias.bias_curve`.

        Parameters
        ----------
        reference, mask, device, progress, planes
            As for :func:`~napari_ensir.fit_lut`; the images learned from, or similar ones.
        folds : sequence of Statistics, optional
            Of four parts of this reference set, so that it is read once only.

        Returns
        -------
        WeightLUT

        Raises
        ------
        EnsembleError
            If the images do not fit the table, or the ground truth has noise of unknown variance.

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
        if "matched_truth" in self.report:
            reference, _ = match_truths(reference, self.channel_axis)
        wanted = FitSettings(channel_axis=self.channel_axis, data_range=self.data_range, planes=planes)
        fields = ReferenceSet(reference, self.names, wanted, mask)
        self.field(fields.first.candidates)  # their number and channels
        settings = Settings.from_dict(self.report.get("settings"), self.n_candidates)
        how = (settings, read_truth_noise(self.report), device, progress, folds)
        errors, told, found = calibrate(self.lookup, fields, self.method, *how)
        report: Any = add_diagnostics(self.report | told, found)
        return replace(self, errors=errors, report=report)

    def expected_error(
        self,
        candidates: Sequence[Any],
        device: str | torch.device = "auto",
        *,
        channel_axis: int | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Return the expected root mean square error of the ensemble at each pixel.

        It depends on the ensemble's intensity and the spread of the candidates, so it cannot show an error
        that all candidates share.

        Parameters
        ----------
        candidates, device, channel_axis, progress
            As for :meth:`apply`.

        Returns
        -------
        float32 array of the candidates' shape
            In intensity units. A lazy dask array if the candidates are dask arrays.

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
        return map_expected_error(self.errors, self.lookup, field, device, progress)

    def rescaled(self, gain: float, offset: float = 0.0) -> WeightLUT:
        """Return the table for intensities ``gain * x + offset`` instead of ``x``.

        A table depends on intensities, so that images of another gain or offset need a rescaled one. Exact if
        gain, offset and bins are integers; else up to the rounding of ``gain * x + offset``.

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
        report: Any = _rescaled_report(self.report, gain, offset)
        return replace(self, binning=binning, errors=errors, report=report)

    def match_exposure(self, candidates: Sequence[Any], *, channel_axis: int | None = None) -> WeightLUT:
        """Rescale the table to the gain and offset at which these candidates were acquired.

        Gain and offset are found from percentiles of the candidates' mean and those of the images learned
        from; ``report["rescaled"]`` of the result has them.

        Parameters
        ----------
        candidates, channel_axis
            As for :meth:`apply`; arrays in memory.

        Returns
        -------
        WeightLUT
            See :meth:`rescaled`.

        Raises
        ------
        EnsembleError
            If the candidates do not fit the table, or gain and offset cannot be found: the report has no
            percentiles (an imported table), or the images are constant or dask arrays.

        Examples
        --------
        >>> from napari_ensir import fit_lut
        >>> truth = np.random.default_rng(0).integers(0, 99, (64, 64)).astype(np.float32)
        >>> lut = fit_lut([((truth + 1, truth - 1), truth)], device="cpu")
        >>> gain, offset = lut.match_exposure((3 * truth + 53, 3 * truth + 47)).report["rescaled"]
        >>> round(gain, 3), round(offset, 3)
        (3.0, 50.0)
        """
        sample = sample_pixels(self.field(candidates, channel_axis))
        return self.rescaled(*matched(exposure_of(self.report, sample)))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the table to a ``.lut.safetensors`` file, whole or not at all.

        :func:`~napari_ensir.load_lut` reads it back.

        Parameters
        ----------
        path : str or Path
            ``.lut.safetensors`` is appended if the name lacks it.
        overwrite : bool
            Replace an existing file.

        Returns
        -------
        Path
            The file that was written.

        Raises
        ------
        EnsembleError
            If the file exists and ``overwrite`` is off, or it cannot be written; an existing file is then
            unchanged.
        """
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        return write_table(path, parts, overwrite=overwrite)


def figures(value: float) -> str:
    """Format an intensity with four digits, or all digits before the decimal point.

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
    """Middle of each intensity bin, (T,), in intensity units; of the last, the part in the data range."""
    edges = lut.binning.low + lut.binning.width * np.arange(lut.binning.n_bins + 1)
    edges[-1] = min(edges[-1], lut.binning.high)
    return np.asarray((edges[:-1] + edges[1:]) / 2, np.float64)


def _shares(
    lut: WeightLUT, channel: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Bins, weights and pixel counts (one if unknown) of a channel's bin sets."""
    here = lut.rows[:, -1] == channel
    counts = lut.counts[here]
    known = np.where(counts < 0, 1, counts).astype(np.float64)
    return lut.rows[here, :-1].astype(np.int64), lut.weights[here], known


def _mean_by(
    place: NDArray[np.int64], values: NDArray[np.float64], counts: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of values at each of n places, weighted by counts (NaN if there is none), and the counts."""
    total = np.bincount(place, counts, minlength=n).astype(np.float64)
    sums = np.bincount(place, counts * values, minlength=n)
    return np.divide(sums, total, out=np.full(n, np.nan), where=total > 0), total


def weights_along_intensity(
    lut: WeightLUT, channel: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each candidate's mean weight by the intensity of the median candidate.

    Parameters
    ----------
    lut : WeightLUT
    channel : int

    Returns
    -------
    weights : (T, M) float64
        Pixel-weighted mean over the bin sets whose median candidate lies in bin ``t``; NaN if there is none.
    counts : (T,) float64
        Number of pixels; of bin sets, if the table's pixel counts are unknown.
    """
    bins, weights, counts = _shares(lut, channel)
    # The median candidate's bin: a real bin, and not moved by one candidate that strays.
    place = np.sort(bins, axis=1)[:, (bins.shape[1] - 1) // 2]
    means = [_mean_by(place, each, counts, lut.binning.n_bins) for each in weights.T]
    return np.stack([mean for mean, _ in means], axis=1), means[0][1]


def pair_map(
    lut: WeightLUT, first: int, second: int, channel: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean weight of one candidate by its intensity and another's.

    Parameters
    ----------
    lut : WeightLUT
    first, second : int
        Candidates along the rows and columns of the map; the weight is the first one's.
    channel : int

    Returns
    -------
    weights : (T, T) float64
        Pixel-weighted mean over the other candidates' bins; NaN if there is no pixel.
    counts : (T, T) float64
    """
    bins, weights, counts = _shares(lut, channel)
    n = lut.binning.n_bins
    place = bins[:, first] * n + bins[:, second]
    mean, total = _mean_by(place, weights[:, first], counts, n * n)
    return mean.reshape(n, n), total.reshape(n, n)


def estimate_lut(
    reference: Reference,
    method: str = "em",
    settings: Settings | None = None,
    *,
    binning: Binning | None = None,
    progress: Progress | None = None,
) -> WeightLUT:
    """Estimate a lookup table from statistics.

    Parameters
    ----------
    reference : Reference
    method : str
        A key of :data:`~napari_ensir.ensemble.estimators.base.METHODS`.
    settings : Settings, optional
    binning : Binning, optional
        Coarser bins of the same range; None: as collected.
    progress : callable, optional
        Called with (done, total, text); an exception that it raises cancels the work.

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
        **current_versions(),
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
        "correlations": correlations(statistics),
    }
    diagnostics = check_fit(statistics, reference.names, estimate, reference.channel_axis)
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
        FitReport(add_diagnostics(report, diagnostics)),
    )


def _rescaled_report(report: dict[str, Any], gain: float, offset: float) -> dict[str, Any]:
    """The report, of which no entry is trusted, for intensities ``gain * x + offset``."""
    before = as_numbers(report.get("rescaled"), (2,))
    first = (1.0, 0.0) if before is None else before.tolist()
    kept = {**report, "rescaled": [gain * first[0], gain * first[1] + offset]}
    if "bias" in report:
        kept["bias"] = rescale_bias_report(report["bias"], gain, offset)
    if isinstance(inputs := report.get("inputs"), dict):
        shown = [key for key in ("percentiles", "image_percentiles") if key in inputs]
        kept["inputs"] = inputs | {key: rescale(inputs[key], gain, offset) for key in shown}
    return kept
