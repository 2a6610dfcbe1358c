"""Fit lookup tables to images with ground truth: collect statistics, estimate weights, score and calibrate.

images --collect--> statistics --estimate--> lookup table --score, calibrate--> held-out scores, errors
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.image_set import check_prior
from napari_ensir.ensemble.checks.diagnostic import Diagnostic, add_diagnostics, diagnose
from napari_ensir.ensemble.checks.exposure import MatchedTruths
from napari_ensir.ensemble.checks.images import diagnose_reference
from napari_ensir.ensemble.checks.noise import PARTS, method_for
from napari_ensir.ensemble.estimators.base import METHODS, Settings
from napari_ensir.ensemble.estimators.zzpm import zzpm_weights_from_gram
from napari_ensir.ensemble.lut.lut import estimate_lut
from napari_ensir.ensemble.lut.report import FitReport
from napari_ensir.ensemble.scoring.cross_validation import (
    SHRINKAGES,
    choose_bins,
    held_out_error,
    held_out_lookups,
    mean_squared_error,
    peak,
)
from napari_ensir.ensemble.scoring.metrics import psnr_of_error
from napari_ensir.ensemble.scoring.score_range import ScoreRange, score_range_of
from napari_ensir.ensemble.scoring.score_table import ScoreRow, plus_minus
from napari_ensir.ensemble.scoring.scores import NoisyScores, errors_of_parts, verdict
from napari_ensir.ensemble.statistics.binning import choose_binning
from napari_ensir.ensemble.statistics.reference import Reference, ReferenceSet, collect_reference, name_inputs
from napari_ensir.errors import EnsembleError, EnsembleWarning
from napari_ensir.settings import SHRINKAGE, FitSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Field, Progress
    from napari_ensir.ensemble.checks.noise import TruthNoise
    from napari_ensir.ensemble.combine.lookup import Lookup
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.statistics.binning import Binning
    from napari_ensir.ensemble.statistics.statistics import Statistics

    Pairs = Iterable[tuple[Sequence[Any], Any]]
    Weights = NDArray[np.float64] | WeightLUT


FOLDS = 4
"""Number of parts for cross-validation if the ground truth is clean."""

FROZEN = ("channel_axis", "data_range", "planes", "truth_noise", "match_truth", "hash_inputs")
"""Settings that the statistics depend on; after a change of one, the pixels must be read again."""

PREFERENCE = ("least-squares", "em", "em-released")
"""Order in which methods of equal held-out error are preferred."""

_NAN = float("nan")


class FitSession:
    """Fit lookup tables to one reference set, reading its pixels once.

    The session keeps the statistics of the reference set, so another table with a different method, bin
    width, shrinkage or prior takes milliseconds. Use :func:`fit_lut` to fit a single table.

    Parameters
    ----------
    reference : iterable of (candidates, truth)
        As for :func:`fit_lut`. :meth:`calibrate` reads it again, so it needs a sequence, not an iterator.
    names : M strings, optional
        Names of the candidates.
    mask : sequence of arrays, one per image, optional
        Pixels to learn from, as for :func:`fit_lut`.
    settings : FitSettings, optional
        All settings in one object.
    held_out : (pairs, masks), optional
        Test images for :meth:`score`, in the form of ``reference`` and ``mask``. None: cross-validate on
        parts of the reference set.
    input_names : sequence of sequences of str, optional
        Names of the files or layers of each image, for the report: the candidates, then the ground truth.
    progress : callable, optional
        Called with (done, total, text); an exception that it raises cancels the work. The callback passed to
        a method replaces this one.
    check_input : bool
        Whether to check that a noisy ground truth is not the image that the candidates were restored from.
    **keywords
        Single settings, named as the parameters of :func:`fit_lut`; they override ``settings``.

    Attributes
    ----------
    settings : FitSettings
        Settings of the latest estimate.
    chosen : FitSettings
        The same with the method, bin width and shrinkage that were chosen where they are automatic.
    lut : WeightLUT or None
        The latest estimate, calibrated if :meth:`calibrate` was called after it.
    tables : dict of WeightLUT
        The latest estimate, and those of the methods that were scored beside it, by method.
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
        self.settings = self.chosen = replace(settings or FitSettings(), **keywords)
        method_for(self.settings.method, self.settings.truth_noise)
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
        """Read the pixels and compute their statistics, once; later calls return the same statistics.

        Parameters
        ----------
        progress : callable, optional
        fine : bool
            Use narrower bins than requested if this is cheap, so that tables with other bin widths can be
            estimated later.
        folds : bool
            Also keep the statistics of each part of the set, for cross-validation.

        Returns
        -------
        Reference

        Raises
        ------
        EnsembleError
            If the images are invalid, or no pixel can be learned from.
        """
        if self.reference is not None:
            return self.reference
        progress, settings, pairs = progress or self._progress, self.settings, self._pairs
        if self._checks:
            self.diagnostics, pairs = diagnose_reference(pairs, self._names, settings, self._mask)
            if isinstance(pairs, MatchedTruths):
                self._noise_gain = pairs.noise_gain
        n = FOLDS if settings.truth_noise is None else PARTS
        refine = None if fine or settings.bin_width == "auto" else 1
        how: dict[str, Any] = {"mask": self._mask, "refine": refine, "folds": n if folds else 1}
        reference = collect_reference(pairs, self._names, settings, progress=progress, **how)
        pairs, masks = self._held_out or ((), ())
        if pairs:
            binning = reference.statistics.binning
            bins = replace(
                self._of_test_images, bin_width=binning.width, data_range=(binning.low, binning.high)
            )
            how = {"mask": masks, "folds": n}
            self.unseen = collect_reference(pairs, self._names, bins, progress=progress, **how)
        inputs = name_inputs(reference.inputs, self._input_names) if self._input_names else reference.inputs
        self.reference = replace(reference, inputs=inputs)
        return self.reference

    @property
    def _of_test_images(self) -> FitSettings:
        """Settings to read ``held_out`` with, of which all planes count."""
        return replace(self.settings, planes=None, hash_inputs=False)

    def parts(self) -> list[tuple[list[Field], list[Field]]]:
        """Return the images to learn from and those to score, for each part that :meth:`score` holds out.

        Returns
        -------
        list of (learned from, held out)
            One pair for each part, or one pair if there are test images.
        """
        n = 1 if self.unseen is not None else len(self.collect().folds)
        images = ReferenceSet(self._pairs, self._names, self.settings, self._mask)
        folds = [list(fold) for fold in images.folds(n)]
        if self._held_out is not None and n == 1:
            pairs, masks = self._held_out
            return [(folds[0], list(ReferenceSet(pairs, self._names, self._of_test_images, masks)))]
        return [
            ([field for other in folds if other is not fold for field in other], fold)
            for fold in folds
            if fold
        ]

    def holds(self, settings: FitSettings) -> bool:
        """Return whether a table with these settings can be estimated from the statistics already collected.

        Parameters
        ----------
        settings : FitSettings

        Returns
        -------
        bool
        """
        same = all(getattr(self.settings, name) == getattr(settings, name) for name in FROZEN)
        return same and self._coarsening(settings.bin_width) > 0

    def _coarsening(self, bin_width: float | str | None) -> int:
        """Return how many bins of the statistics one of this width is merged from; 0 if it cannot be."""
        fine = self.collect().statistics.binning
        if bin_width is None:
            kind = np.int64 if fine.integer else np.float64
            bin_width = choose_binning(kind, (fine.low, fine.high)).width
        width = fine.width if bin_width == "auto" else float(bin_width)
        factor = round(width / fine.width)
        return factor if np.isclose(factor * fine.width, width, rtol=1e-6) else 0

    def _bins(self, bin_width: float | str | None) -> Binning:
        """Return bins of this width; those of the statistics if it is automatic."""
        return self.collect().statistics.binning.coarsened(self._coarsening(bin_width))

    @property
    def used(self) -> Settings:
        """Prior, shrinkage and maximum number of iterations of the latest estimate."""
        return self._estimator_settings(self.chosen)

    def _estimator_settings(self, settings: FitSettings) -> Settings:
        return Settings(
            prior=check_prior(settings.prior, len(self.collect().names)),
            shrinkage=SHRINKAGE if settings.shrinkage == "auto" else settings.shrinkage,
            max_iter=settings.max_iter,
            device=resolve_device(settings.device),
        )

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
            Also stored in :attr:`lut`. If the method is ``"auto"``, ``lut.method`` is the chosen method, and
            ``lut.report["method_choice"]`` contains the held-out PSNR of each method.

        Raises
        ------
        EnsembleError
            If the images are invalid, or the pixels must be read again for a changed setting.
        """
        progress = progress or self._progress
        settings = replace(self.settings, **changes)
        method = method_for(settings.method, settings.truth_noise)
        reference = self.collect(progress)
        if not self.holds(settings):
            raise EnsembleError(
                f"the pixels must be read again after a change of {', '.join(FROZEN)}, or of the bin width "
                f"to a value that is not a multiple of {reference.statistics.binning.width:g}; create a new "
                "FitSession."
            )
        report: dict[str, Any] = {}
        if method == "auto":
            chosen, report["method_choice"] = self._choose_method(settings, progress)
            found = self._no_gain(chosen)
        else:
            chosen, found = self._choose_bins(replace(settings, method=method), progress), []
        lut = self._table(chosen, progress)
        report |= add_diagnostics(lut.report, [*found, *self.diagnostics])
        if matched := [one.fix for one in self.diagnostics if one.code == "truth-matched"]:
            report["matched_truth"] = matched
        if (noise := self._noise) is not None:
            report["truth_noise"] = noise
            if reference.folds:
                report["scores"] = self.compare_with_noisy_truth(chosen).to_dict()
        self.settings, self.chosen = settings, chosen
        self.lut = replace(lut, report=FitReport(report))
        self.tables = {chosen.method: self.lut}
        return self.lut

    def _table(self, chosen: FitSettings, progress: Progress | None) -> WeightLUT:
        """Estimate a table with settings of which none is automatic."""
        settings, binning = self._estimator_settings(chosen), self._bins(chosen.bin_width)
        return estimate_lut(self.collect(), chosen.method, settings, binning=binning, progress=progress)

    def _choose_bins(self, settings: FitSettings, progress: Progress | None) -> FitSettings:
        """Return the settings with a bin width and a shrinkage, chosen by cross-validation if automatic."""
        automatic, binning = settings.bin_width == "auto", self._bins(settings.bin_width)
        if not automatic and settings.shrinkage != "auto":
            return replace(settings, bin_width=binning.width)
        base = self._estimator_settings(settings)
        choice = choose_bins(
            self.collect(),
            settings.method,
            base,
            binnings=None if automatic else [binning],
            shrinkages=SHRINKAGES if settings.shrinkage == "auto" else (base.shrinkage,),
            progress=progress,
        )
        return replace(settings, bin_width=choice.bin_width, shrinkage=choice.shrinkage)

    def _choose_method(
        self, settings: FitSettings, progress: Progress | None
    ) -> tuple[FitSettings, dict[str, Any]]:
        """Return the settings of the method with the least held-out error, and the reason."""
        errors: dict[FitSettings, float] = {}
        for number, method in enumerate(PREFERENCE):
            if progress is not None:
                progress(number, len(PREFERENCE), f"trying {METHODS[method].title}")
            tried = self._choose_bins(replace(settings, method=method), progress)
            try:
                errors[tried] = self._held_out_error(tried, progress)
            except EnsembleError:
                title = METHODS[method].title
                return tried, {"summary": f"{title}; all pixels are in one part, so none can be held out"}
        best, second, *_ = sorted(errors, key=errors.__getitem__)
        width = peak(self.collect().statistics.binning)
        psnr = {tried.method: psnr_of_error(error, width) for tried, error in errors.items()}
        gain = psnr[best.method] - psnr[second.method] if errors[second] else 0.0
        rival = METHODS[second.method].title
        how = f"{gain:.2f} dB above {rival}" if gain >= 0.005 else f"equal to {rival}"
        return best, {
            "summary": f"{METHODS[best.method].title}, {how}, held out",
            "held_out_psnr": {m: value if np.isfinite(value) else None for m, value in psnr.items()},
        }

    def _no_gain(self, chosen: FitSettings) -> list[Diagnostic]:
        """Return a diagnostic if the held-out error is not significantly below that of the best candidate."""
        n = len(self.collect().names)
        if n == 1 or _key(chosen) not in self._lookups:
            return []
        title = METHODS[chosen.method].title
        scores = self._compare(chosen, (title, "method"), 0.0, peak(self.collect().statistics.binning))
        alone, ensemble = int(scores.errors[:n].argmin()), scores.roles.index("method")
        found = scores.difference(ensemble, alone)
        if found.value < 0 and found.significant:
            return []
        shown, unit = scores.shown_difference(ensemble, alone)
        amount = "equal" if found.is_zero else f"{plus_minus(shown.value, shown.standard_error)} {unit}"
        remedy = (
            "use that candidate, or add candidates with other errors"
            if found.is_zero or found.significant
            else "more images may decide, and candidates with other errors may help"
        )
        return [diagnose("no-gain", name=scores.names[alone], method=title, amount=amount, remedy=remedy)]

    def _compare(
        self,
        chosen: FitSettings,
        ensemble: tuple[str, str],
        noise: TruthNoise,
        width: float,
        unseen: Reference | None = None,
        others: Sequence[tuple[str, str, Weights]] = (),
    ) -> NoisyScores:
        """Compare candidates, their average, the ensemble (a name and a role) and others, held out.

        ``width`` is the peak of PSNR. ``unseen`` is :attr:`unseen`, or None to cross-validate.
        """
        reference = self.collect()
        n = len(reference.names)
        learned: Any = self._held_out_lookups(chosen) if unseen is None else self._latest()
        weights = [*np.eye(n), np.full(n, 1 / n), learned, *(each[2] for each in others)]
        roles = [ensemble, *(each[:2] for each in others)]
        return NoisyScores.of(
            reference.names, [errors_of_parts(self._folds(chosen, unseen), weights)], width, noise, roles
        )

    def _folds(self, chosen: FitSettings, of: Reference | None = None) -> list[Statistics]:
        """Return the statistics of each fold, by default of the pixels learned from, in the chosen bins."""
        binning = self._bins(chosen.bin_width)
        return [fold.in_bins(binning) for fold in (of or self.collect()).folds]

    def _held_out_lookups(self, chosen: FitSettings, progress: Progress | None = None) -> list[Lookup | None]:
        """Return, for each fold, the weights learned from the other folds."""
        key = _key(chosen)
        if key not in self._lookups:
            settings = self._estimator_settings(chosen)
            self._lookups[key] = held_out_lookups(self._folds(chosen), chosen.method, settings, progress)
        return self._lookups[key]

    def _held_out_error(self, chosen: FitSettings, progress: Progress | None = None) -> float:
        """Return the cross-validated mean squared error, in squared intensity units."""
        return held_out_error(self._folds(chosen), self._held_out_lookups(chosen, progress))

    # -- scores and errors ------------------------------------------------------------------------

    def score(self, progress: Progress | None = None, *, all_methods: bool = True) -> tuple[ScoreRow, ...]:
        """Score the candidates, their average and every method, from the statistics.

        Parameters
        ----------
        progress : callable, optional
        all_methods : bool
            Whether to score every method, both on the pixels learned from and held out. False: score only the
            method of the latest estimate, and held out only if this was computed before.

        Returns
        -------
        tuple of ScoreRow
            Candidates, average, methods. If the ground truth is noisy, the only methods are that of the
            latest estimate and ZZPM, because EM needs a clean ground truth.
        """
        lut = self._latest()
        if self.settings.truth_noise is not None and all_methods:
            return tuple(self._noisy_scores(lut))
        n = lut.n_candidates
        fixed = [*zip(lut.names, ["candidate"] * n, np.eye(n), strict=True)]
        fixed.append(("average", "average", np.full(n, 1 / n)))
        scores = [self._score(*each) for each in fixed]
        methods = tuple(METHODS) if all_methods else (lut.method,)
        for number, method in enumerate(methods):
            if progress is not None:
                progress(number, len(methods), f"scoring {METHODS[method].title}")
            scores.append(self._method_score(method, all_methods, progress))
        return tuple(scores)

    def compare_with_noisy_truth(self, chosen: FitSettings | None = None) -> NoisyScores:
        """Compare candidates, average and ensemble with a noisy ground truth, by cross-validation.

        Parameters
        ----------
        chosen : FitSettings, optional
            Settings without automatic ones; default: those of the latest estimate.

        Returns
        -------
        NoisyScores
            The last image, ``"ensemble"``, is scored on held-out pixels.
        """
        width = peak(self.collect().statistics.binning)
        return self._compare(chosen or self.chosen, ("ensemble", "ensemble"), self._noise or "unknown", width)

    def score_zzpm(self) -> ScoreRow:
        """Score ZZPM, which weights a candidate by its distance to the candidates' mean."""
        return self._score("ZZPM", "zzpm", self._zzpm_weights())

    def verdict(self) -> str:
        """State in a sentence whether the latest estimate is better than the best candidate, held out.

        Returns
        -------
        str
            See :func:`~napari_ensir.ensemble.scoring.scores.verdict`; empty if there is only one candidate,
            or no part can be held out.
        """
        if self._latest().n_candidates == 1:
            return ""
        noise, width = self._noise or 0.0, self.score_range.peak
        try:
            return verdict(self._compare(self.chosen, ("ensemble", "ensemble"), noise, width, self.unseen))
        except EnsembleError:
            return ""

    def calibrate(self, progress: Progress | None = None) -> WeightLUT:
        """Add expected errors to the latest estimate; this reads the pixels again.

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
            If the noise level of the ground truth is unknown.
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
        """Intensity range whose width is the peak of PSNR; it depends only on the ground truth."""
        reference = self.collect()
        counted = [part.statistics for part in (reference, self.unseen) if part is not None]
        dtype = np.dtype(reference.inputs["listed"][0]["dtypes"][-1])
        return score_range_of(counted, dtype, self.settings.data_range)

    def copy(self) -> FitSession:
        """Return a session with the same statistics; its estimates do not change the original session."""
        return copy(self)

    def _latest(self) -> WeightLUT:
        return self.estimate() if self.lut is None else self.lut

    @property
    def _noise(self) -> TruthNoise | None:
        """The noise level of the ground truth after its intensities were matched."""
        noise = self.settings.truth_noise
        return float(noise) * self._noise_gain if isinstance(noise, int | float) else noise

    def _psnr(self, error: float) -> float:
        """Return the PSNR after subtracting the noise of the truth; NaN if that is unknown or too large."""
        noise = self._noise
        if noise is not None:
            error = _NAN if noise == "unknown" else error - float(noise) ** 2
        return psnr_of_error(error, self.score_range.peak) if error > 0 or noise is None else _NAN

    def _score(self, name: str, role: str, weights: Weights, method: str = "") -> ScoreRow:
        """Score weights that were not learned; without test images, every pixel counts as held out."""
        binning = self._latest().binning
        psnrs = [
            self._psnr(mean_squared_error(part.statistics.in_bins(binning), weights))
            for part in (self.collect(), self.unseen)
            if part is not None
        ]
        return ScoreRow(name, role, method, psnr=psnrs[0], held_out=psnrs[-1])

    def _method_score(self, method: str, held_out: bool, progress: Progress | None) -> ScoreRow:
        chosen = replace(self.chosen, method=method)
        if method not in self.tables:
            self.tables = {**self.tables, method: self._table(chosen, progress)}
        row = self._score(METHODS[method].title, "method", self.tables[method], method)
        if self.unseen is not None:
            return row
        psnr = _NAN
        if held_out or _key(chosen) in self._lookups:
            with suppress(EnsembleError):  # with all pixels in one part there is no held-out score
                psnr = self._psnr(self._held_out_error(chosen, progress))
        return replace(row, held_out=psnr)

    def _noisy_scores(self, lut: WeightLUT) -> list[ScoreRow]:
        """Score against a noisy truth, for which only differences of errors are unbiased."""
        method = METHODS[lut.method].title, "method"
        zzpm = ("ZZPM", "zzpm", self._zzpm_weights())
        noise, width = self._noise or "unknown", self.score_range.peak
        found = self._compare(self.chosen, method, noise, width, self.unseen, [zzpm])
        return [replace(row, method=lut.method) if row.role == "method" else row for row in found.rows]

    def _zzpm_weights(self) -> NDArray[np.float64]:
        gram = self.collect().statistics.in_bins(self._latest().binning).error_gram.sum(axis=0)
        return zzpm_weights_from_gram(gram)


def _key(chosen: FitSettings) -> tuple[Any, ...]:
    """The settings that the weights of the method depend on."""
    used = [getattr(chosen, name, None) for name in METHODS[chosen.method].uses]
    return (chosen.method, chosen.bin_width, *used)


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
    """Learn the weight of each candidate at each intensity from images with ground truth.

    To try several settings on the same images, use :class:`FitSession`, which reads the pixels once.

    Parameters
    ----------
    reference : iterable of (candidates, truth)
        ``candidates``: M arrays of the truth's shape (numpy, torch, dask, or any array that can be sliced; an
        integer or float dtype; any number of dimensions). Images may differ in shape. Masked values of
        numpy masked arrays are excluded.
    names : M strings, optional
        Names of the candidates, stored in the table.
    method : "auto", "em", "em-released" or "least-squares"
        EM as in the EnsIR paper, EM as in the authors' code, or least squares on the simplex. ``"auto"``
        estimates all three and chooses the one with the least cross-validated error; if the truth is noisy,
        it is least squares.
    bin_width : float or "auto", optional
        In intensity units. None: an eighth of the data range (32 for 8 bit). ``"auto"``: the width with the
        least cross-validated error; the pixels are still read only once.
    data_range : (low, high), optional
        None: the range of the dtype for 8 bit, else the shortest range that excludes at most one in ten
        thousand pixels of the candidates and the truth; the report states which. Intensities outside are
        counted in the first or last bin.
    channel_axis : int, optional
        Learn one table per channel along this axis. None: pool the channels.
    prior : M weights, optional
        Initial weights of EM, and the weights of bin sets with too few pixels. Normalized to a sum of one.
    mask : sequence of arrays, one per image, optional
        Pixels to learn from: bool, of the truth's shape, with or without the channel axis. None: all.
    device : str or torch.device
        ``"auto"``: CUDA, else MPS, else CPU.
    progress : callable, optional
        Called with (done, total, text); an exception that it raises cancels the fit.
    shrinkage : float or "auto"
        For least squares: the weight of the global solution, in pixels. ``"auto"``: the value with the least
        cross-validated error.
    max_iter : int, optional
        For EM: maximum number of iterations. None: the default of the method.
    planes : (first, last), optional
        Indices along the first axis of each image to learn from, both included. None: all.
    truth_noise : float or "unknown", optional
        Standard deviation of the noise of the ground truth, in intensity units, or ``"unknown"``; None: the
        ground truth is clean. The noise must have mean zero and be independent of the candidates, as in a
        second exposure. The report of a noisy truth contains cross-validated ``"scores"`` of the candidates,
        their average and the ensemble.
    match_truth : "auto" or "never"
        ``"auto"``: correct the gain and offset of a noisy truth if they differ significantly from those of
        the candidates, for example because a lamp drifted or the sample bleached. ``"never"``: do not.
    hash_inputs : bool
        Store a content hash of every image in the report. False: only of up to 16 MB of images in total.

    Returns
    -------
    WeightLUT
        ``lut.method`` is the chosen method.

    Raises
    ------
    EnsembleError
        If the images are invalid, no pixel can be learned from, or EM is requested with a noisy truth.

    Warns
    -----
    EnsembleWarning
        For each of the ``"warnings"`` in the report: problems that do not prevent the fit, such as a
        candidate that is shifted or on another scale. ``"diagnostics"`` in the report adds the corrections.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (4, 8)]
    >>> lut = fit_lut([(noisy, truth)], names=("good", "poor"), device="cpu")
    >>> lut.method, int(lut.weights_for((100, 100)).argmax())
    ('least-squares', 0)
    """
    session = FitSession(
        reference,
        names,
        mask=mask,
        progress=progress,
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
    chooses = "auto" in (method, bin_width, shrinkage) or truth_noise is not None
    session.collect(fine=False, folds=chooses)  # no more statistics than one table needs
    lut = session.estimate()
    for message in lut.report["warnings"]:
        warnings.warn(message, EnsembleWarning, stacklevel=2)
    return lut
