"""Reference set to lookup table: the way through.

    images --collect_reference--> statistics --choose_bins, if asked--> bins --estimate_lut--> table

A widget keeps the first's result and calls the others whenever a control moves.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.arrays.image_set import check_prior
from napari_ensir.ensemble.checks.diagnostic import add_diagnostics
from napari_ensir.ensemble.checks.noise import PARTS, method_for
from napari_ensir.ensemble.checks.reference import diagnose_reference
from napari_ensir.ensemble.estimators.base import Settings
from napari_ensir.ensemble.lut.lut import estimate_lut
from napari_ensir.ensemble.scoring.cross_validation import FACTORS, SHRINKAGES, choose_bins
from napari_ensir.ensemble.scoring.scores import scores_of_reference
from napari_ensir.ensemble.statistics.reference import Reference, collect_reference
from napari_ensir.errors import EnsembleWarning
from napari_ensir.settings import SHRINKAGE, FitSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.statistics.binning import Binning

FOLDS = 4
"""Parts that are held out in turn where something is chosen by cross-validation."""

__all__ = ["FOLDS", "Reference", "collect_reference", "estimate_lut", "fit_lut", "learn"]


def fit_lut(
    reference: Iterable[tuple[Sequence[Any], Any]],
    names: Sequence[str] | None = None,
    method: str | None = None,
    bin_width: float | Literal["auto"] | None = None,
    data_range: tuple[float, float] | None = None,
    channel_axis: int | None = None,
    prior: Sequence[float] | None = None,
    mask: Sequence[Any] | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
    *,
    shrinkage: float | Literal["auto"] = 1000.0,
    max_iterations: int | None = None,
    planes: tuple[int, int] | None = None,
    truth_noise: float | Literal["unknown"] | None = None,
    match_truth: str = "auto",
    hash_inputs: bool = False,
) -> WeightLUT:
    """Learn from images with ground truth how far to trust each candidate at each intensity.

    Parameters
    ----------
    reference : iterable of (candidates, truth)
        ``candidates``: M arrays of the truth's shape (numpy, torch, dask, or anything that can be sliced; an
        integer or float dtype; any number of dimensions). Images may differ in shape. Nothing is learned
        where a masked array of numpy has no value.
    names : M strings, optional
        One per candidate, kept in the table.
    method : "em", "em-released" or "least-squares", optional
        The EnsIR paper's EM, its authors' code's, or least squares on the simplex; None: ``"em"``, or least
        squares if the truth is noisy.
    bin_width : float or "auto", optional
        In intensity units; None: an eighth of the data range (32 for 8 bit); ``"auto"``: what does best on
        parts of the reference set held out in turn, judged from statistics of one pass.
    data_range : (low, high), optional
        None: the dtype's for 8 bit, else the shortest that leaves out no more than one in ten thousand of the
        pixels of candidates and truth; the report says which. What lies outside goes to the end bins.
    channel_axis : int, optional
        One table per channel along it; None: channels pooled.
    prior : M weights, optional
        Where EM starts, and its answer where a bin set has too few pixels. Scaled to a sum of one.
    mask : sequence of arrays, one per image, optional
        Where to learn: bool, of the truth's shape, the channel axis left out or not; None: everywhere.
    device : str or torch.device
        ``"auto"``: CUDA, else MPS, else CPU.
    progress
        Called with (done, total, text); what it raises stops the work and passes through.
    shrinkage : float or "auto"
        For least squares: pixels' worth of trust in the global solution; ``"auto"``: chosen as the bin
        width is.
    max_iterations : int, optional
        For EM: its limit, if it is to differ from the method's own.
    planes : (first, last), optional
        Learn from these places along the first axis of each image only, both included; None: from all.
    truth_noise : float or "unknown", optional
        None: the ground truth is clean. Else it is another exposure, with noise of mean zero that is
        independent of the candidates: of this standard deviation in intensity units, or not known
        (:mod:`napari_ensir.ensemble.checks.noise` tells why that does no harm). The report then has
        ``"scores"``, as far as they can be true, of the candidates, their average and the ensemble, the
        latter on parts held out in turn.
    match_truth : "auto" or "never"
        What to do if a noisy truth is brighter or darker than the candidates, because a lamp drifted or the
        sample bleached: correct its gain and offset if the difference is significant, or use it as it is.
    hash_inputs : bool
        Keep a hash of every image's content in the report, whatever its size; else up to 16 MB in all.

    Returns
    -------
    WeightLUT

    Raises
    ------
    EnsembleError
        If the images cannot be used, nothing is left to learn from, or EM is asked for with a noisy truth.

    Warns
    -----
    EnsembleWarning
        For each of the report's ``"warnings"``: what can be used but looks wrong, such as a candidate that is
        shifted or on another scale. ``"diagnostics"`` in the report has the same with what can be done.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (2, 8)]
    >>> lut = fit_lut([(noisy, truth)], names=("good", "poor"), method="least-squares", device="cpu")
    >>> int(lut.weights_for((100, 100)).argmax())
    0
    """
    given = FitSettings(
        method=method,
        bin_width=bin_width,
        shrinkage=shrinkage,
        prior=prior,
        max_iterations=max_iterations,
        channel_axis=channel_axis,
        data_range=data_range,
        planes=planes,
        truth_noise=truth_noise,
        match_truth=match_truth,
        hash_inputs=hash_inputs,
        device=str(device),
    )
    method_for(given.method, given.truth_noise)  # before any pixel is read
    lut = learn(reference, given, names=names, mask=mask, device=device, progress=progress)
    for message in lut.report["warnings"]:
        warnings.warn(message, EnsembleWarning, stacklevel=2)
    return lut


def learn(
    reference: Iterable[tuple[Sequence[Any], Any]],
    given: FitSettings,
    *,
    names: Sequence[str] | None = None,
    mask: Sequence[Any] | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> WeightLUT:
    """:func:`fit_lut` with its settings in one object, without Python warnings.

    Parameters
    ----------
    reference, names, mask, device, progress
        As for :func:`fit_lut`; ``device`` rather than that of the settings.
    given : FitSettings

    Raises
    ------
    EnsembleError
        As :func:`fit_lut`.
    """
    method = method_for(given.method, given.truth_noise)
    noisy = given.truth_noise is not None
    settings = Settings(
        shrinkage=SHRINKAGE if given.shrinkage == "auto" else given.shrinkage,
        max_iterations=given.max_iterations,
        device=resolve_device(device),
    )
    found, reference = diagnose_reference(
        reference,
        names,
        channel_axis=given.channel_axis,
        mask=mask,
        truth_noise=given.truth_noise,
        match_truth=given.match_truth,
    )
    choosing = "auto" in (given.bin_width, given.shrinkage)
    collected = collect_reference(
        reference,
        names,
        bin_width=None if given.bin_width == "auto" else given.bin_width,
        data_range=given.data_range,
        channel_axis=given.channel_axis,
        planes=given.planes,
        hash_inputs=given.hash_inputs,
        mask=mask,
        device=device,
        progress=progress,
        refine=None if given.bin_width == "auto" else 1,
        folds=PARTS if noisy else FOLDS if choosing else 1,
        noisy_truth=noisy,
    )
    settings = replace(settings, prior=check_prior(given.prior, len(collected.names)))
    binning = None
    if choosing:
        binning, settings = _chosen(collected, given, method, settings, progress)
    lut = estimate_lut(collected, method, settings, binning=binning, progress=progress)
    report = add_diagnostics(lut.report, found)
    matched = [one.fix for one in found if one.code == "truth-matched"]
    if matched:
        report["matched_truth"] = matched
    lut = replace(lut, report=report)
    if given.truth_noise is None:
        return lut
    scores = scores_of_reference(collected, lut, settings, given.truth_noise)
    said = {"truth_noise": given.truth_noise, "scores": scores.to_dict()}
    return replace(lut, report=lut.report | said)


def _chosen(
    collected: Reference,
    given: FitSettings,
    method: str,
    settings: Settings,
    progress: Progress | None,
) -> tuple[Binning, Settings]:
    """What "auto" comes to."""
    choice = choose_bins(
        collected,
        method,
        settings,
        factors=FACTORS if given.bin_width == "auto" else (1,),
        shrinkages=SHRINKAGES if given.shrinkage == "auto" else (settings.shrinkage,),
        progress=progress,
    )
    return choice.binning, choice.settings
