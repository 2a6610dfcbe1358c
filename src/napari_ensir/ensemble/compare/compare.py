"""Comparison of ensemble methods and baselines by cross-validation."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.ensemble.arrays.image_set import check_names
from napari_ensir.ensemble.checks.exposure import find_drift
from napari_ensir.ensemble.checks.noise import method_for
from napari_ensir.ensemble.compare.baselines import Average, OneCandidate, all_combiners, chosen_combiners
from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.ensemble.scoring.metrics import (
    Scoring,
    finite_everywhere,
    mean_of_metrics,
    open_metrics,
    score_notes,
)
from napari_ensir.ensemble.scoring.score_range import known_range, score_range
from napari_ensir.ensemble.scoring.score_table import PSNR, SSIM, Column, ScoreRow, ScoreTable
from napari_ensir.ensemble.scoring.scores import AVERAGE, NoisyScores, block_errors, joined, side_by_side
from napari_ensir.ensemble.statistics.reference import ReferenceSet
from napari_ensir.errors import EnsembleError, errors_of
from napari_ensir.settings import CompareSettings, FitSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.checks.noise import TruthNoise
    from napari_ensir.ensemble.compare.baselines import Combiner, Image, Pair
    from napari_ensir.ensemble.scoring.score_range import ScoreRange
    from napari_ensir.ensemble.scoring.scores import BlockErrors

    Slices = tuple[slice, ...]


COLUMNS = (
    PSNR,
    SSIM,
    Column("fit_seconds", "s to fit", largest_is_best=None),
    Column("image_seconds", "s per image", largest_is_best=None),
)
"""Columns of a comparison with a clean ground truth."""


@dataclass(frozen=True)
class Comparison(ScoreTable):
    """Scores of all methods, as :func:`napari_ensir.compare` returns them.

    PSNR and SSIM are means over images; if the ground truth is noisy, PSNR is that of all images together,
    corrected for the noise, and there is no SSIM. Times are means over folds and over images.

    Attributes
    ----------
    settings : dict
        Settings that the scores depend on, as plain values.
    noisy : NoisyScores or None
        Scores against a noisy ground truth, in the order of the rows. The average of the candidates is added
        at the end if it is not among the rows.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    noisy: NoisyScores | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        keys = ["name", "role", "psnr", "ssim", "fit_seconds", "image_seconds", "note", *self.rows[0].metrics]
        if self.noisy is not None:
            keys += ["difference", "standard_error", "mse", "psnr_error", "best"]
        rows = [row.to_dict(*keys) for row in self.rows]
        found = {"settings": self.settings, "rows": rows, "notes": list(self.notes)}
        return found if self.noisy is None else found | {"noisy_scores": self.noisy.to_dict()}


TILES = 8
"""Tiles along each of the two longest axes of an image."""


def compare(
    reference: Iterable[tuple[Sequence[Any], Any]],
    names: Sequence[str] | None = None,
    folds: int = 2,
    bin_width: float | Sequence[float] | None = None,
    channel_axis: int | None = None,
    y_channel: bool = False,
    crop_border: int = 0,
    methods: Sequence[str | Combiner] | None = None,
    low_resolution: Sequence[Any] | None = None,
    progress: Progress | None = None,
    *,
    data_range: tuple[float, float] | None = None,
    samples: int | None = 100_000,
    device: str | torch.device = "auto",
    truth_noise: float | Literal["unknown"] | None = None,
    metrics: Sequence[str] = (),
) -> Comparison:
    """Compare methods and baselines by cross-validation.

    Image ``i`` belongs to fold ``i % folds`` and is predicted by methods that learned from the other folds.
    If there are fewer images than folds, each image is split into 8 x 8 tiles instead, of which tile
    ``(i, j)`` belongs to fold ``(i + j) % folds``; the predicted tiles are assembled before scoring. The
    reference set is held in memory, so the times do not depend on a disk.

    Scores are those of :class:`~napari_ensir.ensemble.scoring.metrics.Scoring`: results are not clipped, and
    all are scored on the pixels that are finite in every candidate and in the ground truth. Held-out ground
    truths determine the peak of the scores, which all rows share, and nothing else.

    Parameters
    ----------
    reference : iterable of (candidates, truth)
        As for :func:`napari_ensir.fit_lut`.
    names : M strings, optional
    folds : int
    bin_width : float or sequence of float, optional
        Bin widths of the lookup tables, each with its own rows.
    channel_axis : int, optional
        Axis of the channels, which get a table each; SSIM is averaged over it.
    y_channel, crop_border
        Whether to score the Y channel (BT.601), and the width of the border to exclude.
    methods : names of rows, keys of lookup-table methods, or objects with ``fit`` and ``predict``; optional
        None: all methods.
    low_resolution : one array per image, optional
        Inputs of super-resolution, which RefESR needs.
    progress
        Called with (done, total, text); an exception that it raises stops the work.
    data_range : (low, high), optional
        Range of the bins, whose width is the peak. None: that of the dtype for 8 bit; else that of all but
        one in ten thousand pixels, of the reference fold for bins and of all ground truths for the peak.
    samples : int or None
        Number of pixels that the scikit-learn regressors except linear regression learn from; None: all.
    device : str or torch.device
    truth_noise : float or "unknown", optional
        As for :func:`napari_ensir.fit_lut`. Scores are then those of
        :class:`~napari_ensir.ensemble.scoring.scores.NoisyScores`, and EM is excluded.
    metrics : sequence of str
        ``"ms-ssim"``, ``"nrmse"``, or full-reference metrics of pyiqa such as ``"lpips"``; each adds a
        column.

    Returns
    -------
    Comparison

    Raises
    ------
    EnsembleError
        If the images cannot be used, a method is unknown, a regressor is chosen and scikit-learn is not
        installed, or the ground truth is noisy and EM or the Y channel is chosen.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.uniform(0, 1, (4, 32, 32))
    >>> images = [([t + rng.normal(0, sigma, t.shape) for sigma in (0.05, 0.08)], t) for t in truth]
    >>> table = compare(images, ("near", "far"), methods=["near", "far", "least-squares"])
    >>> table["Least squares"].psnr > table["near"].psnr > table["far"].psnr
    True
    """
    fields = ReferenceSet(reference, names, FitSettings(channel_axis=channel_axis))
    pairs: list[Pair] = [
        ([np.asarray(candidate) for candidate in field.candidates], np.asarray(field.truth))
        for field in fields
    ]
    settings = CompareSettings(
        folds=folds,
        y_channel=y_channel,
        crop_border=crop_border,
        channel_axis=channel_axis,
        data_range=data_range,
        samples=samples,
        truth_noise=truth_noise,
        device=str(device),
    )
    small = None if low_resolution is None else [np.asarray(image) for image in low_resolution]
    if small is not None and len(small) != len(pairs):
        raise EnsembleError(
            f"there are {len(small)} low-resolution inputs for {len(pairs)} images; give one each."
        )
    noise = settings.truth_noise
    if noise is not None and y_channel:
        raise EnsembleError("the ground truth is noisy, and the noise of Y is unknown; score all channels.")
    if noise is not None and metrics:
        raise EnsembleError("metrics are given, but the ground truth is noisy; they need a clean one.")
    for method in methods or ():
        if isinstance(method, str) and method in METHODS:
            method_for(method, noise)
    scale = _scale(pairs, settings.data_range, noise is not None)
    widths = tuple(bin_width) if isinstance(bin_width, (list, tuple)) else (bin_width,)
    every = all_combiners(check_names(names, len(pairs[0][0])), settings, widths, small is not None)
    chosen = every if methods is None else chosen_combiners(every, methods)
    opened = open_metrics(metrics, device)
    scoring = Scoring((scale.low, scale.high), y_channel, crop_border, channel_axis, opened)
    run = _Run(pairs, small, folds, scoring, progress)
    rows = tuple(run.row(combiner, (number, len(chosen))) for number, combiner in enumerate(chosen))
    about = {
        "images": len(pairs),
        "folds": folds,
        "held_out": "tiles" if run.tiled else "images",
        **settings.keywords("y_channel", "crop_border", "channel_axis"),
        **scale.to_dict(),
        "not_finite": run.not_finite,
        "bin_width": [None if width is None else float(width) for width in widths],
        "samples": samples,
    }
    notes = score_notes(scale, run.not_finite, rows)
    if noise is None:
        columns = (*COLUMNS[:2], *(metric.column for metric in opened), *COLUMNS[2:])
        return Comparison(rows, columns, tuple(notes), settings=about)
    noisy = run.noisy_scores(chosen, rows, scale.peak, noise)
    notes = [*(notes if noise != "unknown" else notes[1:]), *noisy.notes]
    for number, pair in enumerate(pairs):
        label = str(number + 1) if len(pairs) > 1 else ""
        found = find_drift(*pair, channel_axis).diagnostics("truth-drifted", label)
        notes += [f"{one.message[:1].upper()}{one.message[1:]}" for one in found]
    kept = ("role", "fit_seconds", "image_seconds")
    corrected = tuple(
        replace(found, **row.to_dict(*kept), note=row.note or found.note)
        for row, found in zip(rows, noisy.rows, strict=False)
    )
    about["truth_noise"] = noise
    return Comparison(corrected, noisy.table().columns, tuple(notes), settings=about, noisy=noisy)


def _scale(pairs: list[Pair], given: tuple[float, float] | None, noisy: bool) -> ScoreRange:
    """Return the range for scores: that of the averages if noise widens that of the ground truths."""
    if not noisy:
        return score_range([truth for _, truth in pairs], given)
    known = known_range([truth.dtype for _, truth in pairs], given)
    averages = [np.asarray(np.mean(xs, axis=0)) for xs, _ in pairs]
    return known or replace(score_range(averages), source="candidates")


class _Run:
    """Cross-validation of methods, one after the other."""

    def __init__(
        self,
        pairs: list[Pair],
        low_resolution: list[Image] | None,
        folds: int,
        scoring: Scoring,
        progress: Progress | None,
    ) -> None:
        self.pairs, self.low_resolution, self.folds = pairs, low_resolution, folds
        self.scoring, self.progress = scoring, progress
        self.valid = []  # masks of the pixels that are scored
        for number, (candidates, truth) in enumerate(pairs):
            with errors_of(f"image {number + 1}"):
                self.valid.append(finite_everywhere([*candidates, truth]))
        self.not_finite = sum(int(valid.size - valid.sum()) for valid in self.valid)
        self.blocks: list[BlockErrors] = []  # for each row
        self.tiled = len(pairs) < folds
        if self.tiled and low_resolution is not None:
            raise EnsembleError(
                f"{len(pairs)} image{'s' * (len(pairs) > 1)} cannot be split into {folds} folds with "
                "low-resolution inputs; give more images."
            )
        self.parts: list[tuple[int, Slices, int]] = []  # image, slices, fold
        for number, (_, truth) in enumerate(pairs):
            if self.tiled:
                tiles = _tiles(truth.shape, scoring.channels_of(truth.shape))
                self.parts += [(number, where, sum(place) % folds) for place, where in tiles]
            else:
                self.parts.append((number, (slice(None),) * truth.ndim, number % folds))
        if len({fold for *_, fold in self.parts}) < folds:
            raise EnsembleError(f"the image is too small to be split into {folds} folds; use fewer.")

    def row(self, combiner: Combiner, position: tuple[int, int]) -> ScoreRow:
        """Predict each fold by a fit to the others, then score whole images."""
        results = [np.full(truth.shape, np.nan) for _, truth in self.pairs]
        fitting = predicting = 0.0
        number, n_rows = position
        self._warm_up(combiner)
        for fold in range(self.folds):
            if self.progress is not None:
                self.progress(number * self.folds + fold, n_rows * self.folds, combiner.name)
            learned = [self._cut(part) for part in self.parts if part[2] != fold]
            start = perf_counter()
            with np.errstate(invalid="ignore", over="ignore"):  # not scored
                combiner.fit(learned)
            fitting += perf_counter() - start
            for part in self.parts:
                if part[2] == fold:
                    candidates, _ = self._cut(part)
                    low = None if self.low_resolution is None else self.low_resolution[part[0]]
                    start = perf_counter()
                    with np.errstate(invalid="ignore", over="ignore"):
                        results[part[0]][part[1]] = combiner.predict(candidates, low)
                    predicting += perf_counter() - start
        scores = [
            self.scoring(truth, result, valid)
            for (_, truth), result, valid in zip(self.pairs, results, self.valid, strict=True)
        ]
        self.blocks.append(self._block_errors(results))
        if self.progress is not None:
            self.progress((number + 1) * self.folds, n_rows * self.folds, combiner.name)
        psnr, ssim = np.mean([[each.pop("psnr"), each.pop("ssim")] for each in scores], axis=0)
        return ScoreRow(
            combiner.name,
            "candidate" if isinstance(combiner, OneCandidate) else "method",
            psnr=float(psnr),
            ssim=float(ssim),
            fit_seconds=fitting / self.folds,
            image_seconds=predicting / len(self.pairs),
            note=combiner.note,
            metrics=mean_of_metrics(scores),
        )

    def _block_errors(self, results: Sequence[Image]) -> BlockErrors:
        """Sum the squared errors of the images of one method in blocks, without the border."""
        parts = []
        for (_, truth), result, valid in zip(self.pairs, results, self.valid, strict=True):
            axis = self.scoring.channels_of(truth.shape)
            inside = self.scoring.inside(truth.shape)
            parts.append(
                block_errors(truth[inside], [result[inside]], valid=valid[inside], channel_axis=axis)
            )
        return joined(parts)

    def noisy_scores(
        self, chosen: Sequence[Combiner], rows: Sequence[ScoreRow], peak: float, noise: TruthNoise
    ) -> NoisyScores:
        """Score the rows against a noisy ground truth."""
        names, roles = [row.name for row in rows], [row.role for row in rows]
        blocks, is_average = list(self.blocks), [isinstance(one, Average) for one in chosen]
        if not any(is_average):
            averages = [np.asarray(np.mean(xs, axis=0, dtype=np.float64)) for xs, _ in self.pairs]
            blocks.append(self._block_errors(averages))
            names, roles, is_average = [*names, AVERAGE], [*roles, AVERAGE], [*is_average, True]
        average = is_average.index(True)
        roles[average] = AVERAGE
        return NoisyScores(tuple(names), side_by_side(blocks), peak, noise, average, tuple(roles))

    def _warm_up(self, combiner: Combiner) -> None:
        """Import and compile on a corner of the first image, before times are measured."""
        corner = tuple(
            slice(None) if axis == self.scoring.channels_of(self.pairs[0][1].shape) else slice(32)
            for axis in range(self.pairs[0][1].ndim)
        )
        candidates, truth = self._cut((0, corner, 0))
        with suppress(EnsembleError), np.errstate(invalid="ignore", over="ignore"):
            combiner.fit([(candidates, truth)])
            combiner.predict(candidates)

    def _cut(self, part: tuple[int, Slices, int]) -> Pair:
        candidates, truth = self.pairs[part[0]]
        return [candidate[part[1]] for candidate in candidates], truth[part[1]]


def _tiles(shape: tuple[int, ...], channel_axis: int | None) -> list[tuple[tuple[int, ...], Slices]]:
    """Return indices and slices of tiles along the two longest axes except the channel axis."""
    spatial = sorted((i for i in range(len(shape)) if i != channel_axis), key=lambda i: -shape[i])[:2]
    cuts = {i: np.unique(np.linspace(0, shape[i], TILES + 1).astype(int)).tolist() for i in spatial}
    tiles = []
    for place in product(*(range(len(cuts[i]) - 1) for i in spatial)):
        where = [slice(None)] * len(shape)
        for i, number in zip(spatial, place, strict=True):
            where[i] = slice(cuts[i][number], cuts[i][number + 1])
        tiles.append((place, tuple(where)))
    return tiles
