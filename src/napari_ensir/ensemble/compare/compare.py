"""Comparison of ensemble methods and baselines by cross-validation."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.ensemble.arrays.image_set import check_names, make_field
from napari_ensir.ensemble.checks.exposure import check_drift
from napari_ensir.ensemble.checks.noise import method_for
from napari_ensir.ensemble.compare.baselines import (
    REGRESSORS,
    ZZPM,
    Average,
    BinSets,
    Combiner,
    GlobalLeastSquares,
    OneCandidate,
    RefESR,
    Regression,
)
from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.ensemble.scoring.metrics import (
    Scoring,
    exclusion_note,
    finite_everywhere,
    mean_of_metrics,
    unknown_ms_ssim_note,
)
from napari_ensir.ensemble.scoring.perceptual import open_metrics
from napari_ensir.ensemble.scoring.score_range import known_range, score_range
from napari_ensir.ensemble.scoring.score_table import PSNR, SSIM, Column, ScoreRow, ScoreTable
from napari_ensir.ensemble.scoring.scores import AVERAGE, NoisyScores, block_errors, joined, side_by_side
from napari_ensir.errors import EnsembleError, errors_of
from napari_ensir.settings import CompareSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.checks.noise import TruthNoise
    from napari_ensir.ensemble.compare.baselines import Image, Pair
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


def _all_combiners(
    names: Sequence[str], samples: int | None, bin_widths: Sequence[float | None], **how: Any
) -> list[Combiner]:
    """Return all methods: candidates, baselines, and lookup tables in each bin width."""
    scale = how["data_range"]  # None: each method finds it in its reference set
    found: list[Combiner] = [OneCandidate(index, name) for index, name in enumerate(names)]
    found += [Average(), ZZPM(data_range=scale), ZZPM(released=True, data_range=scale), RefESR(scale)]
    # Linear regression is fast enough for all pixels.
    found += [Regression(name, None if name == "linear regression" else samples) for name in REGRESSORS]
    found.append(GlobalLeastSquares())
    for key, method in METHODS.items():
        for width in bin_widths:
            name = method.title + ("" if width is None else f", bin width {width:g}")
            found.append(BinSets(key, name, bin_width=width, **how))
    return found


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
    pairs = _in_memory(reference, names, channel_axis)
    checked = check_names(names, len(pairs[0][0]))
    if not isinstance(folds, int) or folds < 2:
        raise EnsembleError(f"folds is {folds!r}; give an integer of 2 or more.")
    small = None if low_resolution is None else [np.asarray(image) for image in low_resolution]
    if small is not None and len(small) != len(pairs):
        raise EnsembleError(
            f"there are {len(small)} low-resolution inputs for {len(pairs)} images; give one each."
        )
    noise = CompareSettings(truth_noise=truth_noise).truth_noise
    if noise is not None and y_channel:
        raise EnsembleError("the ground truth is noisy, and the noise of Y is unknown; score all channels.")
    for method in methods or ():
        if isinstance(method, str) and method in METHODS:
            method_for(method, noise)
    scale = _scale(pairs, data_range, noise is not None)
    widths = tuple(bin_width) if isinstance(bin_width, (list, tuple)) else (bin_width,)
    given = None if data_range is None else (scale.low, scale.high)
    how = {"data_range": given, "channel_axis": channel_axis, "device": device}
    every = [
        one
        for one in _all_combiners(checked, samples, widths, **how)
        if not (isinstance(one, RefESR) and small is None)
        and not (isinstance(one, BinSets) and noise is not None and one.method.startswith("em"))
    ]
    chosen = every if methods is None else _chosen(every, methods)
    if metrics and noise is not None:
        raise EnsembleError("metrics are given, but the ground truth is noisy; they need a clean one.")
    opened = open_metrics(metrics, device)
    scoring = Scoring((scale.low, scale.high), y_channel, crop_border, channel_axis, opened)
    run = _Run(pairs, small, folds, scoring, progress)
    rows = tuple(run.row(combiner, (number, len(chosen))) for number, combiner in enumerate(chosen))
    settings = {
        "images": len(pairs),
        "folds": folds,
        "held_out": "tiles" if run.tiled else "images",
        "y_channel": y_channel,
        "crop_border": crop_border,
        "channel_axis": channel_axis,
        **scale.to_dict(),
        "not_finite": run.not_finite,
        "bin_width": [None if width is None else float(width) for width in widths],
        "samples": samples,
    }
    notes = [f"The peak of PSNR is {scale}.", *exclusion_note(run.not_finite)]
    if noise is None:
        notes += unknown_ms_ssim_note(row.metrics for row in rows)
        columns = (*COLUMNS[:2], *(metric.column for metric in opened), *COLUMNS[2:])
        return Comparison(rows, columns, tuple(notes), settings=settings)
    noisy = run.noisy_scores(chosen, rows, scale.peak, noise)
    notes = [*(notes if noise != "unknown" else notes[1:]), *noisy.notes]
    for number, (candidates, truth) in enumerate(pairs):
        label = str(number + 1) if len(pairs) > 1 else ""
        found = check_drift(candidates, truth, channel_axis, label)
        notes += [f"{one.message[:1].upper()}{one.message[1:]}" for one in found]
    kept = ("role", "fit_seconds", "image_seconds")
    corrected = tuple(
        replace(found, **row.to_dict(*kept), note=row.note or found.note)
        for row, found in zip(rows, noisy.rows, strict=False)
    )
    return Comparison(
        corrected,
        noisy.table().columns,
        tuple(notes),
        settings=settings | {"truth_noise": noise},
        noisy=noisy,
    )


def _scale(pairs: list[Pair], given: tuple[float, float] | None, noisy: bool) -> ScoreRange:
    """Return the range for scores: that of the averages if noise widens that of the ground truths."""
    if not noisy:
        return score_range([truth for _, truth in pairs], given)
    known = known_range([truth.dtype for _, truth in pairs], given)
    averages = [np.asarray(np.mean(xs, axis=0)) for xs, _ in pairs]
    return known or replace(score_range(averages), source="candidates")


def _in_memory(
    reference: Iterable[tuple[Sequence[Any], Any]], names: Sequence[str] | None, channel_axis: int | None
) -> list[Pair]:
    pairs: list[Pair] = []
    for number, (candidates, truth) in enumerate(reference):
        made = make_field(
            candidates, truth, names=names, channel_axis=channel_axis, place=f"image {number + 1}: "
        )
        arrays = [np.asarray(array) for array in made.arrays]
        if pairs and len(arrays) - 1 != len(pairs[0][0]):
            raise EnsembleError(
                f"image {number + 1} has {len(arrays) - 1} candidates, but image 1 has {len(pairs[0][0])}; "
                "all images need the same candidates."
            )
        pairs.append((arrays[:-1], arrays[-1]))
    if not pairs:
        raise EnsembleError("the reference set is empty; give at least one image with ground truth.")
    return pairs


def _chosen(every: Sequence[Combiner], methods: Sequence[str | Combiner]) -> list[Combiner]:
    chosen: list[Combiner] = []
    for wanted in methods:
        if not isinstance(wanted, str):
            chosen.append(wanted)
            continue
        found = [
            one for one in every if one.name == wanted or (isinstance(one, BinSets) and one.method == wanted)
        ]
        if not found:
            known = ", ".join([*METHODS, *(one.name for one in every if not isinstance(one, BinSets))])
            raise EnsembleError(f"there is no method {wanted!r} to compare; there are: {known}.")
        chosen += found
    return chosen


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
        mean_psnr, mean_ssim = np.mean(scores, axis=0)
        return ScoreRow(
            combiner.name,
            "candidate" if isinstance(combiner, OneCandidate) else "method",
            psnr=float(mean_psnr),
            ssim=float(mean_ssim),
            fit_seconds=fitting / self.folds,
            image_seconds=predicting / len(self.pairs),
            note=combiner.note,
            metrics=mean_of_metrics(
                [
                    self.scoring.further(truth, result, valid)
                    for (_, truth), result, valid in zip(self.pairs, results, self.valid, strict=True)
                ]
            ),
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
