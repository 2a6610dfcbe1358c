"""Fits of lookup tables: from images with ground truth to statistics, weights, scores and expected errors.

images --collect--> statistics --estimate--> lookup table --score, calibrate--> held-out scores, errors
"""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.image_set import check_prior
from napari_ensir.ensemble.checks.diagnostic import Diagnostic, add_diagnostics
from napari_ensir.ensemble.checks.exposure import MatchedTruths
from napari_ensir.ensemble.checks.noise import PARTS, method_for
from napari_ensir.ensemble.checks.reference import diagnose_reference
from napari_ensir.ensemble.estimators.base import METHODS, Settings, find_method
from napari_ensir.ensemble.estimators.zzpm import zzpm_weights_from_gram
from napari_ensir.ensemble.lut.lut import estimate_lut
from napari_ensir.ensemble.lut.report import FitReport
from napari_ensir.ensemble.scoring.cross_validation import (
    FACTORS,
    SHRINKAGES,
    choose_bins,
    held_out_lookups,
    mean_squared_error,
    peak,
)
from napari_ensir.ensemble.scoring.metrics import psnr_of_error
from napari_ensir.ensemble.scoring.score_table import ScoreRow
from napari_ensir.ensemble.scoring.scores import (
    NoisyScores,
    ScoreRange,
    errors_of_parts,
    score_range_of,
    scores_of_reference,
)
from napari_ensir.ensemble.statistics.binning import choose_binning
from napari_ensir.ensemble.statistics.reference import Reference, collect_reference, name_inputs
from napari_ensir.errors import EnsembleError, EnsembleWarning
from napari_ensir.settings import SHRINKAGE, FitSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.checks.noise import TruthNoise
    from napari_ensir.ensemble.combine.lookup import Lookup
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.statistics.binning import Binning

    Pairs = Iterable[tuple[Sequence[Any], Any]]
    Weights = NDArray[np.float64] | WeightLUT

__all__ = [
    "FOLDS",
    "FROZEN",
    "FitSession",
    "Reference",
    "collect_reference",
    "estimate_lut",
    "fit_lut",
]

FOLDS = 4
"""Parts that are held out in turn where the ground truth is clean."""

FROZEN = ("channel_axis", "data_range", "planes", "truth_noise", "match_truth", "hash_inputs")
"""Settings that statistics depend on: a change of one needs the pixels read again."""

PREFERENCE = ("least-squares", "em", "em-released")
"""Order in which methods of equal held-out error are preferred."""

_NAN = float("nan")


@dataclass(frozen=True)
class _Estimation:
    """A method, its bins and its settings: all that a table depends on beside the statistics."""

    method: str
    binning: Binning
    settings: Settings

    @property
    def key(self) -> tuple[str, Binning, str]:
        used = self.settings.to_dict(find_method(self.method).uses)
        return self.method, self.binning, json.dumps(used)


class FitSession:
    """Fit lookup tables to one reference set, reading its pixels once.

    The statistics of the reference set are kept, so that a table by another method, bin width, shrinkage or
    prior takes milliseconds. :func:`fit_lut` is the short form for one table.

    Parameters
    ----------
    reference : iterable of (candidates, truth)
        As for :func:`fit_lut`. :meth:`calibrate` reads it again, so an iterator does not do for that.
    names : M strings, optional
        One per candidate.
    mask : sequence of arrays, one per image, optional
        Where to learn, as for :func:`fit_lut`.
    settings : FitSettings, optional
        All settings in one object.
    held_out : (pairs, masks), optional
        Images for :meth:`score` that are not learned from, as ``reference`` and ``mask``; None: parts of the
        reference set are held out in turn.
    input_names : sequence of sequences of str, optional
        For each image the names of its candidates' files or layers and, last, of its ground truth's, for
        the report.
    progress : callable, optional
        Called with (done, total, text); an exception that it raises cancels the work. Each method takes one
        of its own as well.
    check_input : bool
        Whether to check that a noisy ground truth is not the candidates' own input.
    **keywords
        Single settings by the names that :func:`fit_lut` gives them; they replace those of ``settings``.

    Attributes
    ----------
    settings : FitSettings
        Those of the latest estimate.
    used : napari_ensir.ensemble.estimators.base.Settings
        Prior, shrinkage and limit of iterations that the latest estimate used.
    lut : WeightLUT or None
        The latest estimate, calibrated if :meth:`calibrate` was called after it.
    reference : Reference or None
        Statistics of the pixels learned from, once collected.
    unseen : Reference or None
        Statistics of the pixels of ``held_out``, once collected.
    diagnostics : list of Diagnostic
        Problems that :meth:`collect` found in the images.

    Raises
    ------
    EnsembleError
        If a setting is invalid, or EM is requested with a noisy ground truth.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (4, 8)]
    >>> session = FitSession([(noisy, truth)], names=("good", "poor"), device="cpu")
    >>> session.estimate().method
    'least-squares'
    >>> session.estimate(method="em", bin_width=session.lut.bin_width / 2).method
    'em'
    >>> [score.name for score in session.score()]
    ['good', 'poor', 'average', 'EM (paper)', 'EM (released code)', 'Least squares']
    >>> session.calibrate().errors is not None
    True
    """

    def __init__(
        self,
        reference: Pairs,
        names: Sequence[str] | None = None,
        *,
        mask: Sequence[Any] | None = None,
        settings: FitSettings | None = None,
        held_out: tuple[Pairs, Sequence[Any]] | None = None,
        input_names: Sequence[Sequence[str]] = (),
        progress: Progress | None = None,
        check_input: bool = True,
        **keywords: Any,
    ) -> None:
        if unknown := keywords.keys() - FitSettings().keywords().keys():
            raise EnsembleError(f"there is no setting {min(unknown)!r}; use those of fit_lut.")
        self.settings = replace(settings or FitSettings(), **keywords)
        method_for(self.settings.method, self.settings.truth_noise)
        self.used = Settings()
        self.lut: WeightLUT | None = None
        self.reference: Reference | None = None
        self.unseen: Reference | None = None
        self.diagnostics: list[Diagnostic] = []
        self._pairs, self._names, self._mask = reference, names, mask
        self._held_out, self._input_names, self._progress = held_out, input_names, progress
        self._checks = check_input
        self._noise_gain = 1.0
        self._lookups: dict[Any, list[Lookup | None]] = {}
        self.tables: dict[str, WeightLUT] = {}

    # -- statistics -------------------------------------------------------------------------------

    def collect(
        self, progress: Progress | None = None, *, fine: bool = True, folds: bool = True
    ) -> Reference:
        """Read the pixels into statistics, unless that was done before.

        Parameters
        ----------
        progress : callable, optional
        fine : bool
            Collect in bins narrower than asked for if that is cheap, so that other bin widths can be
            estimated later.
        folds : bool
            Keep the statistics in parts as well, so that parts can be held out.

        Returns
        -------
        Reference

        Raises
        ------
        EnsembleError
            If the images cannot be used, or no pixel is left to learn from.
        """
        if self.reference is not None:
            return self.reference
        progress, settings = progress or self._progress, self.settings
        pairs, noisy = self._pairs, settings.truth_noise is not None
        if self._checks:
            self.diagnostics, pairs = diagnose_reference(
                pairs,
                self._names,
                channel_axis=settings.channel_axis,
                mask=self._mask,
                truth_noise=settings.truth_noise,
                match_truth=settings.match_truth,
            )
            if isinstance(pairs, MatchedTruths):
                self._noise_gain = pairs.noise_gain
        n_folds = PARTS if noisy else FOLDS
        common: dict[str, Any] = {
            "channel_axis": settings.channel_axis,
            "device": settings.device,
            "progress": progress,
        }
        automatic = settings.bin_width == "auto"
        reference = collect_reference(
            pairs,
            self._names,
            bin_width=None if automatic else settings.bin_width,  # type: ignore[arg-type]
            data_range=settings.data_range,
            planes=settings.planes,
            hash_inputs=settings.hash_inputs,
            mask=self._mask,
            refine=None if fine or automatic else 1,
            folds=n_folds if folds else 1,
            noisy_truth=noisy,
            **common,
        )
        pairs, masks = self._held_out or ((), ())
        if pairs:
            binning = reference.statistics.binning
            self.unseen = collect_reference(
                pairs,
                self._names,
                bin_width=binning.width,
                data_range=(binning.low, binning.high),
                mask=masks,
                folds=n_folds if noisy else 1,
                **common,
            )
        self.reference = reference
        return reference

    def holds(self, settings: FitSettings) -> bool:
        """Return whether these settings can be estimated from the statistics, without reading pixels again.

        Parameters
        ----------
        settings : FitSettings

        Returns
        -------
        bool
        """
        same = all(getattr(self.settings, name) == getattr(settings, name) for name in FROZEN)
        return same and (settings.bin_width == "auto" or self._bins(settings.bin_width) is not None)

    def _bins(self, bin_width: float | str | None) -> Binning | None:
        """The bins of this width, if the statistics' own can be merged into them."""
        fine = self.collect().statistics.binning
        if bin_width is None:
            kind = np.int64 if fine.integer else np.float64
            bin_width = choose_binning(kind, (fine.low, fine.high)).width
        factor = round(float(bin_width) / fine.width)
        if factor < 1 or not np.isclose(factor * fine.width, float(bin_width), rtol=1e-6):
            return None
        return fine.coarsened(factor)

    # -- estimates --------------------------------------------------------------------------------

    def estimate(self, progress: Progress | None = None, **changes: Any) -> WeightLUT:
        """Estimate a lookup table from the statistics, collecting them first if necessary.

        Parameters
        ----------
        progress : callable, optional
        **changes
            Settings that differ from those of the latest estimate, such as ``method`` or ``bin_width``.

        Returns
        -------
        WeightLUT
            Also kept as :attr:`lut`. If the method is ``"auto"``, ``lut.method`` is the one chosen, and
            ``lut.report["method_choice"]`` has the held-out PSNR of each method.

        Raises
        ------
        EnsembleError
            If the images cannot be used, or a change needs the pixels read again.
        """
        progress = progress or self._progress
        settings = replace(self.settings, **changes)
        method = method_for(settings.method, settings.truth_noise)
        reference = self.collect(progress)
        if not self.holds(settings):
            raise EnsembleError(
                "these settings need the pixels read again: "
                f"{', '.join(FROZEN)}, or a bin width that is no multiple of "
                f"{reference.statistics.binning.width:g}; start a new FitSession."
            )
        if method == "auto":
            estimation, choice, found = self._choose_method(settings, progress)
        else:
            estimation, choice, found = self._estimation(method, settings, progress), None, []
        lut = self._table(estimation, progress)
        report = FitReport(add_diagnostics(lut.report, [*found, *self.diagnostics]))
        matched = [one.fix for one in self.diagnostics if one.code == "truth-matched"]
        if matched:
            report["matched_truth"] = matched
        if choice is not None:
            report["method_choice"] = choice
        if settings.truth_noise is not None:
            noise = report["truth_noise"] = self._matched_noise(settings.truth_noise)
            if reference.folds:
                scores = scores_of_reference(reference, lut, estimation.settings, noise)
                report["scores"] = scores.to_dict()
        self.settings, self.used = settings, estimation.settings
        self.lut = replace(lut, report=report)
        self.tables = {estimation.method: self.lut}
        return self.lut

    def _table(self, estimation: _Estimation, progress: Progress | None) -> WeightLUT:
        reference = self.collect()
        lut = estimate_lut(
            reference, estimation.method, estimation.settings, binning=estimation.binning, progress=progress
        )
        if not self._input_names:
            return lut
        return replace(lut, report=FitReport(name_inputs(lut.report, self._input_names)))

    def _estimation(self, method: str, settings: FitSettings, progress: Progress | None) -> _Estimation:
        """The bins and numbers of a method; where a setting is "auto", the best on parts held out."""
        reference = self.collect()
        base = Settings(
            prior=check_prior(settings.prior, len(reference.names)),
            shrinkage=SHRINKAGE if settings.shrinkage == "auto" else settings.shrinkage,
            max_iter=settings.max_iter,
            device=resolve_device(settings.device),
        )
        automatic = settings.bin_width == "auto"
        binning = reference.statistics.binning if automatic else self._bins(settings.bin_width)
        assert binning is not None  # holds() has checked
        if not automatic and settings.shrinkage != "auto":
            return _Estimation(method, binning, base)
        choice = choose_bins(
            replace(
                reference,
                statistics=reference.statistics.in_bins(binning),
                folds=tuple(fold.in_bins(binning) for fold in reference.folds),
            ),
            method,
            base,
            factors=FACTORS if automatic else (1,),
            shrinkages=SHRINKAGES if settings.shrinkage == "auto" else (base.shrinkage,),
            progress=progress,
        )
        return _Estimation(method, choice.binning, choice.settings)

    def _choose_method(
        self, settings: FitSettings, progress: Progress | None
    ) -> tuple[_Estimation, dict[str, Any], list[Diagnostic]]:
        """The method of least error on parts held out, why, and a warning if none beats the candidates."""
        reference = self.collect()
        errors: dict[str, float] = {}
        tried: dict[str, _Estimation] = {}
        for number, method in enumerate(PREFERENCE):
            if progress is not None:
                progress(number, len(PREFERENCE), f"trying {METHODS[method].title}")
            try:
                tried[method] = self._estimation(method, settings, progress)
                errors[method] = self._held_out_error(tried[method], progress)
            except EnsembleError:
                if method not in tried:  # its bin width or shrinkage could not be chosen
                    raise
                summary = f"{METHODS[method].title}; all pixels lie in one part, so none can be held out"
                return tried[method], {"summary": summary}, []
        best, second, *_ = sorted(errors, key=errors.__getitem__)
        width = peak(reference.statistics.binning)
        psnr = {method: psnr_of_error(error, width) for method, error in errors.items()}
        gain = psnr[best] - psnr[second] if errors[second] else 0.0
        rival = METHODS[second].title
        summary = f"{METHODS[best].title}, " + (
            f"{gain:.2f} dB above {rival}, held out" if gain >= 0.005 else f"equal to {rival}, held out"
        )
        choice = {
            "summary": summary,
            "held_out_psnr": {m: value if np.isfinite(value) else None for m, value in psnr.items()},
        }
        return tried[best], choice, self._no_gain(tried[best])

    def _no_gain(self, estimation: _Estimation) -> list[Diagnostic]:
        """A diagnostic if a method is not significantly better, held out, than the best candidate."""
        reference = self.collect()
        n = len(reference.names)
        if n == 1:
            return []
        parts = [fold.in_bins(estimation.binning) for fold in reference.folds]
        blocks = errors_of_parts(parts, [*np.eye(n), self._held_out_lookups(estimation)])
        names = (*reference.names, METHODS[estimation.method].title)
        roles = (*["candidate"] * n, "method")
        scores = NoisyScores(names, blocks, peak(estimation.binning), "unknown", n, roles)
        alone = int(scores.errors[:n].argmin())
        found = scores.difference(n, alone)
        if found.value < 0 and found.significant:
            return []
        before, after = (psnr_of_error(float(scores.errors[place]), scores.peak) for place in (alone, n))
        message = (
            f'no method is significantly better than the candidate "{names[alone]}" alone on parts held out '
            f'({names[n]}: {after:.2f} dB, "{names[alone]}": {before:.2f} dB); use that candidate, or add '
            "candidates with other errors."
        )
        return [Diagnostic("no-gain", "warning", message)]

    def _held_out_lookups(
        self, estimation: _Estimation, progress: Progress | None = None
    ) -> list[Lookup | None]:
        """For each fold the weights learned from the others."""
        if estimation.key not in self._lookups:
            self._lookups[estimation.key] = held_out_lookups(
                self.collect(), estimation.method, estimation.settings, estimation.binning, progress
            )
        return self._lookups[estimation.key]

    def _held_out_error(self, estimation: _Estimation, progress: Progress | None = None) -> float:
        """Mean squared error on parts held out in turn, squared intensity units."""
        lookups = self._held_out_lookups(estimation, progress)
        parts = [fold.in_bins(estimation.binning) for fold in self.collect().folds]
        sums, counts = errors_of_parts(parts, [lookups])
        scored = np.array([lookup is not None for lookup in lookups])
        return float(sums[scored].sum() / counts[scored].sum())

    # -- scores and errors ------------------------------------------------------------------------

    def score(self, progress: Progress | None = None, *, all_methods: bool = True) -> tuple[ScoreRow, ...]:
        """Score the candidates, their average and every method, from the statistics.

        Parameters
        ----------
        progress : callable, optional
        all_methods : bool
            Score every method, on the pixels learned from and held out; else only the latest estimate's, and
            held out only if that takes no time.

        Returns
        -------
        tuple of ScoreRow
            Candidates, average, methods. If the ground truth is noisy, only the latest estimate's method,
            and ZZPM; EM cannot be used then.
        """
        lut = self._latest()
        if self.settings.truth_noise is not None and all_methods:
            return tuple(self._noisy_scores(lut))
        n = lut.n_candidates
        scores = [
            self._fixed_score(name, "candidate", row) for name, row in zip(lut.names, np.eye(n), strict=True)
        ]
        scores.append(self._fixed_score("average", "average", np.full(n, 1 / n)))
        methods = tuple(METHODS) if all_methods else (lut.method,)
        for number, method in enumerate(methods):
            if progress is not None:
                progress(number, len(methods), f"scoring {METHODS[method].title}")
            scores.append(self._method_score(method, all_methods, progress))
        return tuple(scores)

    def score_zzpm(self) -> ScoreRow:
        """Score ZZPM, which weights a candidate by its distance to the candidates' mean."""
        return self._fixed_score("ZZPM", "zzpm", self._zzpm_weights())

    def calibrate(self, progress: Progress | None = None) -> WeightLUT:
        """Measure the errors to expect of the latest estimate, which reads the pixels once more.

        Parameters
        ----------
        progress : callable, optional

        Returns
        -------
        WeightLUT
            The latest estimate with expected errors; see :meth:`WeightLUT.calibrated`.

        Raises
        ------
        EnsembleError
            If the noise of the ground truth is of unknown strength.
        """
        folds = self.collect().folds if self.settings.truth_noise is None else ()
        self.lut = self._latest().calibrated(
            self._pairs,
            mask=self._mask,
            device=self.settings.device,
            progress=progress or self._progress,
            planes=self.settings.planes,
            folds=folds,
        )
        self.tables = {**self.tables, self.lut.method: self.lut}
        return self.lut

    @cached_property
    def score_range(self) -> ScoreRange:
        """The range whose width is the peak of PSNR; it depends on the ground truth alone."""
        reference = self.collect()
        counted = [part.statistics for part in (reference, self.unseen) if part is not None]
        dtype = np.dtype(reference.inputs["listed"][0]["dtypes"][-1])
        return score_range_of(counted, dtype, self.settings.data_range)

    def copy(self) -> FitSession:
        """Return a session on the same statistics, whose estimates do not change this one."""
        return copy(self)

    def _latest(self) -> WeightLUT:
        return self.estimate() if self.lut is None else self.lut

    def _matched_noise(self, noise: TruthNoise) -> TruthNoise:
        """The noise of the truth after its brightness was matched."""
        return noise if noise == "unknown" else float(noise) * self._noise_gain

    def _psnr(self, error: float) -> float:
        """PSNR of a mean squared error without the truth's noise; NaN if that is unknown or larger."""
        if self.settings.truth_noise is None:
            return psnr_of_error(error, self.score_range.peak)
        noise = self._matched_noise(self.settings.truth_noise)
        left = _NAN if noise == "unknown" else error - float(noise) ** 2
        return psnr_of_error(left, self.score_range.peak) if left > 0 else _NAN

    def _psnrs(self, weights: Weights) -> tuple[float, float]:
        """PSNR on the pixels learned from, and on those of ``held_out``; NaN if there are none."""
        binning = self._latest().binning
        seen, unseen = (
            _NAN
            if part is None
            else self._psnr(mean_squared_error(part.statistics.in_bins(binning), weights))
            for part in (self.collect(), self.unseen)
        )
        return seen, unseen

    def _fixed_score(self, name: str, role: str, weights: NDArray[np.float64]) -> ScoreRow:
        """The score of weights that were not learned: all pixels are held out from them."""
        seen, unseen = self._psnrs(weights)
        return ScoreRow(name, role, psnr=seen, held_out=seen if self.unseen is None else unseen)

    def _method_score(self, method: str, held_out: bool, progress: Progress | None) -> ScoreRow:
        estimation = _Estimation(method, self._latest().binning, self.used)
        if method not in self.tables:
            self.tables = {**self.tables, method: self._table(estimation, progress)}
        seen, unseen = self._psnrs(self.tables[method])
        if self.unseen is None and (held_out or estimation.key in self._lookups):
            with suppress(EnsembleError):  # all pixels lie in one part: the score stays unknown
                unseen = self._psnr(self._held_out_error(estimation, progress))
        return ScoreRow(METHODS[method].title, "method", method, seen, unseen)

    def _noisy_scores(self, lut: WeightLUT) -> list[ScoreRow]:
        """Scores against a noisy truth: differences of errors are true, a PSNR is not."""
        n, method = lut.n_candidates, METHODS[lut.method].title
        weights: list[Any] = [*np.eye(n), np.full(n, 1 / n)]
        roles = [(method, "method"), ("ZZPM", "zzpm")]
        if self.unseen is None:
            parts = self.collect().folds
            weights.append(self._held_out_lookups(_Estimation(lut.method, lut.binning, self.used)))
        else:
            parts = self.unseen.folds
            weights.append(lut)
        weights.append(self._zzpm_weights())
        blocks = errors_of_parts([part.in_bins(lut.binning) for part in parts], weights)
        assert self.settings.truth_noise is not None
        noise = self._matched_noise(self.settings.truth_noise)
        found = NoisyScores.of(lut.names, [blocks], self.score_range.peak, noise, roles)
        return [replace(row, method=lut.method) if row.role == "method" else row for row in found.rows]

    def _zzpm_weights(self) -> NDArray[np.float64]:
        gram = self.collect().statistics.in_bins(self._latest().binning).error_gram.sum(axis=0)
        return zzpm_weights_from_gram(gram)


def fit_lut(
    reference: Pairs,
    names: Sequence[str] | None = None,
    *,
    method: str = "auto",
    bin_width: float | Literal["auto"] | None = None,
    data_range: tuple[float, float] | None = None,
    channel_axis: int | None = None,
    prior: Sequence[float] | None = None,
    mask: Sequence[Any] | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
    shrinkage: float | Literal["auto"] = SHRINKAGE,
    max_iter: int | None = None,
    planes: tuple[int, int] | None = None,
    truth_noise: float | Literal["unknown"] | None = None,
    match_truth: str = "auto",
    hash_inputs: bool = False,
) -> WeightLUT:
    """Learn from images with ground truth how far to trust each candidate at each intensity.

    To try several settings on the same images use :class:`FitSession`, which reads the pixels once.

    Parameters
    ----------
    reference : iterable of (candidates, truth)
        ``candidates``: M arrays of the truth's shape (numpy, torch, dask, or any array that can be sliced; an
        integer or float dtype; any number of dimensions). Images may differ in shape. Masked values of
        numpy's masked arrays are left out.
    names : M strings, optional
        One per candidate, kept in the table.
    method : "auto", "em", "em-released" or "least-squares"
        The EnsIR paper's EM, its authors' code's, or least squares on the simplex. ``"auto"`` estimates all
        three and takes the one with the least error on parts held out; least squares if the truth is noisy.
    bin_width : float or "auto", optional
        In intensity units; None: an eighth of the data range (32 for 8 bit); ``"auto"``: the width with the
        least error on parts held out, from statistics of one pass.
    data_range : (low, high), optional
        None: the dtype's for 8 bit, else the shortest that leaves out at most one in ten thousand of the
        pixels of candidates and truth; the report says which. Intensities outside go to the end bins.
    channel_axis : int, optional
        One table per channel along it; None: channels pooled.
    prior : M weights, optional
        Where EM starts, and its result where a bin set has too few pixels. Scaled to a sum of one.
    mask : sequence of arrays, one per image, optional
        Where to learn: bool, of the truth's shape, with or without the channel axis; None: everywhere.
    device : str or torch.device
        ``"auto"``: CUDA, else MPS, else CPU.
    progress : callable, optional
        Called with (done, total, text); an exception that it raises cancels the fit.
    shrinkage : float or "auto"
        For least squares: the weight of the global solution, in pixels; ``"auto"``: the value with the least
        error on parts held out.
    max_iter : int, optional
        For EM: largest number of iterations; None: the method's own.
    planes : (first, last), optional
        Learn only from these places along the first axis of each image, both included; None: all.
    truth_noise : float or "unknown", optional
        None: the ground truth is clean. Else it is another exposure, whose noise has mean zero and is
        independent of the candidates: its standard deviation in intensity units, or ``"unknown"``. The
        report then has ``"scores"`` of the candidates, their average and the ensemble, on parts held out.
    match_truth : "auto" or "never"
        What to do if a noisy truth is brighter or darker than the candidates, because a lamp drifted or the
        sample bleached: correct its gain and offset if the difference is significant, or use it as it is.
    hash_inputs : bool
        Keep a hash of every image's content in the report, whatever its size; else up to 16 MB in all.

    Returns
    -------
    WeightLUT
        ``lut.method`` is the method chosen.

    Raises
    ------
    EnsembleError
        If the images cannot be used, no pixel is left to learn from, or EM is requested with a noisy truth.

    Warns
    -----
    EnsembleWarning
        For each of the report's ``"warnings"``: what can be used but looks wrong, such as a candidate that is
        shifted or on another scale. ``"diagnostics"`` in the report has the same with what can be done.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (4, 8)]
    >>> lut = fit_lut([(noisy, truth)], names=("good", "poor"), device="cpu")
    >>> lut.method, int(lut.weights_for((100, 100)).argmax())
    ('least-squares', 0)
    """
    settings = FitSettings(
        method=method,
        bin_width=bin_width,
        shrinkage=shrinkage,
        prior=prior,
        max_iter=max_iter,
        channel_axis=channel_axis,
        data_range=data_range,
        planes=planes,
        truth_noise=truth_noise,
        match_truth=match_truth,
        hash_inputs=hash_inputs,
        device=str(device),
    )
    session = FitSession(reference, names, mask=mask, settings=settings, progress=progress)
    lut = _estimate_once(session)
    for message in lut.report["warnings"]:
        warnings.warn(message, EnsembleWarning, stacklevel=2)
    return lut


def _estimate_once(session: FitSession) -> WeightLUT:
    """Estimate a table from no more statistics than it takes."""
    asked = session.settings
    chosen = "auto" in (asked.method, asked.bin_width, asked.shrinkage) or asked.truth_noise is not None
    session.collect(fine=False, folds=chosen)
    return session.estimate()
