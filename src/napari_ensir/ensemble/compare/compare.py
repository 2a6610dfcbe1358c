"""An honest comparison: every method on images, or parts of an image, that it has not learned from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.ensemble.arrays.image_set import check_names, make_field
from napari_ensir.ensemble.checks.noise import method_for
from napari_ensir.ensemble.compare.baselines import (
    REGRESSORS,
    Average,
    BinSets,
    Contender,
    GlobalLeastSquares,
    OneCandidate,
    RefESR,
    Regression,
    Zzpm,
)
from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.ensemble.scoring.scores import (
    AVERAGE,
    NoisyScores,
    Scoring,
    block_errors,
    finite_everywhere,
    joined,
    known_range,
    left_out,
    score_range,
    side_by_side,
)
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import CompareSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.checks.noise import TruthNoise
    from napari_ensir.ensemble.compare.baselines import Image, Pair
    from napari_ensir.ensemble.scoring.scores import BlockErrors, ScoreRange

    Slices = tuple[slice, ...]

__all__ = ["Comparison", "Row", "compare", "contenders"]


@dataclass(frozen=True)
class Row:
    """One method's figures.

    Attributes
    ----------
    name : str
    role : "candidate" or "method"
        What it is; a candidate may have a method's name.
    psnr : float
        Mean over images, dB. Of a noisy ground truth: of the error less the noise's variance, over all images
        together; NaN where that is not known, or below the noise.
    ssim : float
        Mean over images; NaN where images are too small for its window, or the ground truth is noisy.
    fit_seconds : float
        Mean over folds.
    image_seconds : float
        Mean over images.
    note : str
    """

    name: str
    role: Literal["candidate", "method"]
    psnr: float
    ssim: float
    fit_seconds: float
    image_seconds: float
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes
    ----------
    rows : tuple of Row
        In the order of the methods.
    settings : dict
        Plain values: what the figures depend on.
    notes : tuple of str
        What a reader must know, one sentence each: the peak, pixels left out.
    noisy : NoisyScores or None
        If the ground truth is noisy: what can be said of the rows, in their order; the average of the
        candidates comes after them if it is none of them.
    """

    rows: tuple[Row, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    noisy: NoisyScores | None = None

    def __getitem__(self, name: str) -> Row:
        """The row of that name.

        Raises
        ------
        EnsembleError
            If there is none, or there are several.
        """
        found = [row for row in self.rows if row.name == name]
        if not found:
            known = ", ".join(row.name for row in self.rows)
            raise EnsembleError(f"there is no row {name!r}; there are: {known}.")
        if len(found) > 1:
            roles = " and a ".join(row.role for row in found)
            raise EnsembleError(f"there are {len(found)} rows {name!r}, a {roles}; look through the rows.")
        return found[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rows = [asdict(row) for row in self.rows]
        found = {"settings": self.settings, "rows": rows, "notes": list(self.notes)}
        if self.noisy is None:
            return found
        for row, scored in zip(rows, self.noisy.rows, strict=False):
            row |= scored._asdict() | {"role": row["role"], "note": row["note"] or scored.note, "ssim": None}
        return found | {"noisy_scores": self.noisy.to_dict()}

    def to_markdown(self) -> str:
        """The table in Markdown."""
        if self.noisy is not None:
            return self.noisy.to_markdown()
        lines = [
            "| method | PSNR, dB | SSIM | s to fit | s per image | |",
            "|---|---|---|---|---|---|",
            *(
                f"| {row.name} | {row.psnr:.3f} | {row.ssim:.4f} | {row.fit_seconds:.3f} "
                f"| {row.image_seconds:.3f} | {row.note} |"
                for row in self.rows
            ),
        ]
        return "\n".join(lines) + "\n"


TILES = 8
"""One image is cut into this many tiles along each of its two long axes."""


def contenders(
    names: Sequence[str],
    data_range: tuple[float, float] | None = None,
    *,
    bin_widths: Sequence[float | None] = (None,),
    channel_axis: int | None = None,
    device: str | torch.device = "auto",
    samples: int | None = 100_000,
    low_resolution: bool = False,
) -> list[Contender]:
    """Every row of the table: candidates, baselines, and the package's methods in each bin width.

    Parameters
    ----------
    names
        The candidates.
    data_range : (low, high), optional
        None: each method finds it in what it learns from.
    bin_widths, channel_axis, device
        For the lookup tables.
    samples
        Pixels that the regressors learn from; None: all.
    low_resolution
        Whether there are low-resolution inputs, for RefESR.
    """
    found: list[Contender] = [OneCandidate(index, name) for index, name in enumerate(names)]
    found += [Average(), Zzpm(data_range=data_range), Zzpm(released=True, data_range=data_range)]
    if low_resolution:
        found.append(RefESR(data_range))
    # Linear regression is cheap: it needs no sample.
    found += [Regression(name, None if name == "linear regression" else samples) for name in REGRESSORS]
    found.append(GlobalLeastSquares())
    for key, method in METHODS.items():
        for width in bin_widths:
            name = method.title + ("" if width is None else f", bin width {width:g}")
            found.append(BinSets(key, name, width, data_range, channel_axis, device))
    return found


def compare(
    reference: Iterable[tuple[Sequence[Any], Any]],
    names: Sequence[str] | None = None,
    folds: int = 2,
    bin_width: float | Sequence[float] | None = None,
    channel_axis: int | None = None,
    y_channel: bool = False,
    crop_border: int = 0,
    methods: Sequence[str | Contender] | None = None,
    low_resolution: Sequence[Any] | None = None,
    progress: Progress | None = None,
    *,
    data_range: tuple[float, float] | None = None,
    samples: int | None = 100_000,
    device: str | torch.device = "auto",
    truth_noise: float | Literal["unknown"] | None = None,
) -> Comparison:
    """Score every method on what it has not learned from.

    Image ``i`` is predicted by a method that learned from all images but those of fold ``i % folds``: with
    two folds, even from odd images and the reverse. Where there are fewer images than folds, each image is
    cut into 8 x 8 tiles, tile ``(i, j)`` belongs to fold ``(i + j) % folds``, and the predicted tiles are put
    together before scoring. The reference set is held in memory, so that no figure depends on a disk.

    Scores are those of :class:`~napari_ensir.ensemble.scoring.scores.Scoring`: nothing is clipped, and
    every row is scored on the same pixels, those that are finite in all candidates and the ground truth.
    Bins, and whatever else a method learns, come from what it learns from alone, fold by fold. The one
    thing that held-out ground truths give is the peak of the scores, the same for all rows.

    Parameters
    ----------
    reference : iterable of (candidates, truth)
        As for :func:`napari_ensir.fit_lut`.
    names : M strings, optional
    folds : int
    bin_width : float or several, optional
        For the lookup tables; one row for each.
    channel_axis : int, optional
        One table per channel along it, and the axis that SSIM averages over.
    y_channel, crop_border
        Score Y of BT.601, and without this many pixels at each edge.
    methods : names of rows, of lookup-table methods, or contenders; optional
        None: every one that there is.
    low_resolution : one array per image, optional
        Inputs of super-resolution, for RefESR.
    progress
        Called with (done, total, text); what it raises stops the work.
    data_range : (low, high), optional
        For bins and for the peak. None: the dtype's for 8 bit; else bins from what each fold learns from, and
        the peak from what all but one in ten thousand of the ground truths' pixels show.
    samples : int or None
        Pixels that the scikit-learn regressors learn from, linear regression apart; None: all.
    device : str or torch.device
    truth_noise : float or "unknown", optional
        As for :func:`napari_ensir.fit_lut`. The rows are then scored by what can be told of a noisy reference
        (:class:`~napari_ensir.ensemble.scoring.scores.NoisyScores`), and there are none of EM.

    Returns
    -------
    Comparison

    Raises
    ------
    EnsembleError
        If the images cannot be used, there is no such method, scikit-learn is absent but asked for, or the
        truth is noisy and EM or Y is asked for.

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
        raise EnsembleError(f"folds is {folds!r}; give 2 or more, so that something is held out.")
    small = _low_resolution(low_resolution, len(pairs))
    noise = _noise(truth_noise, y_channel, methods)
    scale = _scale(pairs, data_range, noise is not None)
    widths = tuple(bin_width) if isinstance(bin_width, (list, tuple)) else (bin_width,)
    every = contenders(
        checked,
        None if data_range is None else (scale.low, scale.high),
        bin_widths=widths,
        channel_axis=channel_axis,
        device=device,
        samples=samples,
        low_resolution=small is not None,
    )
    if noise is not None:
        every = [one for one in every if not (isinstance(one, BinSets) and one.method.startswith("em"))]
    chosen = every if methods is None else _chosen(every, methods)
    scoring = Scoring((scale.low, scale.high), y_channel, crop_border, channel_axis)
    run = _Run(pairs, small, folds, scoring, progress)
    rows = tuple(run.row(contender, (number, len(chosen))) for number, contender in enumerate(chosen))
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
    notes = [f"PSNR's peak is {scale}.", *left_out(run.not_finite)]
    if noise is None:
        return Comparison(rows, settings, tuple(notes))
    noisy = run.noisy_scores(chosen, rows, scale.peak, noise)
    notes = [*(notes if noise != "unknown" else notes[1:]), *noisy.notes]
    return Comparison(_corrected(rows, noisy), settings | {"truth_noise": noise}, tuple(notes), noisy)


def _low_resolution(given: Sequence[Any] | None, n_images: int) -> list[Image] | None:
    """The inputs of super-resolution, one for each image."""
    if given is None:
        return None
    small = [np.asarray(image) for image in given]
    if len(small) != n_images:
        raise EnsembleError(
            f"there are {len(small)} low-resolution inputs for {n_images} images; give one each."
        )
    return small


def _noise(
    given: float | Literal["unknown"] | None, y_channel: bool, methods: Sequence[str | Contender] | None
) -> TruthNoise | None:
    """The noise of the ground truth, if what is asked for can be had in spite of it."""
    noise = CompareSettings(truth_noise=given).truth_noise
    if noise is not None and y_channel:
        raise EnsembleError("the ground truth is noisy, and Y of noise is not told; score all channels.")
    for method in methods or ():
        if isinstance(method, str) and method in METHODS:
            method_for(method, noise)
    return noise


def _scale(pairs: list[Pair], given: tuple[float, float] | None, noisy: bool) -> ScoreRange:
    """Whose width is the peak; noise makes a truth's own range too wide."""
    if not noisy:
        return score_range([truth for _, truth in pairs], given)
    known = known_range([truth.dtype for _, truth in pairs], given)
    averages = [np.asarray(np.mean(xs, axis=0)) for xs, _ in pairs]
    return known or replace(score_range(averages), source="candidates")


def _corrected(rows: Sequence[Row], noisy: NoisyScores) -> tuple[Row, ...]:
    """The rows with what is true of a noisy truth alone."""
    return tuple(
        replace(row, psnr=np.nan if found.psnr is None else found.psnr, ssim=np.nan)
        for row, found in zip(rows, noisy.rows, strict=False)
    )


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
                "every image needs one of each."
            )
        pairs.append((arrays[:-1], arrays[-1]))
    if not pairs:
        raise EnsembleError("the reference set is empty; give at least one image with ground truth.")
    return pairs


def _chosen(every: Sequence[Contender], methods: Sequence[str | Contender]) -> list[Contender]:
    chosen: list[Contender] = []
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


def _finite(number: int, pair: Pair) -> NDArray[np.bool_]:
    """Where an image is scored."""
    candidates, truth = pair
    try:
        return finite_everywhere([*candidates, truth])
    except EnsembleError as error:
        raise EnsembleError(f"image {number + 1}: {error}") from None


class _Run:
    """The folds, and one method after the other through them."""

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
        self.valid = [_finite(number, pair) for number, pair in enumerate(pairs)]
        self.not_finite = sum(int(valid.size - valid.sum()) for valid in self.valid)
        self.blocks: list[BlockErrors] = []  # one for each row
        self.tiled = len(pairs) < folds
        if self.tiled and low_resolution is not None:
            raise EnsembleError(
                f"{len(pairs)} image{'s' * (len(pairs) > 1)} cannot be held out in {folds} folds with "
                "low-resolution inputs; give more images."
            )
        self.parts: list[tuple[int, Slices, int]] = []  # image, where in it, fold
        for number, (_, truth) in enumerate(pairs):
            if self.tiled:
                tiles = _tiles(truth.shape, scoring.channels_of(truth.shape))
                self.parts += [(number, where, sum(place) % folds) for place, where in tiles]
            else:
                self.parts.append((number, (slice(None),) * truth.ndim, number % folds))
        if len({fold for *_, fold in self.parts}) < folds:
            raise EnsembleError(f"the image is too small to be held out in {folds} folds; use fewer.")

    def row(self, contender: Contender, place: tuple[int, int]) -> Row:
        """Fit on all folds but one, predict that one, in turn; then score whole images."""
        results = [np.full(truth.shape, np.nan) for _, truth in self.pairs]
        fitting = predicting = 0.0
        number, n_rows = place
        self._warm_up(contender)
        for fold in range(self.folds):
            if self.progress is not None:
                self.progress(number * self.folds + fold, n_rows * self.folds, contender.name)
            learned = [self._cut(part) for part in self.parts if part[2] != fold]
            start = perf_counter()
            with np.errstate(invalid="ignore", over="ignore"):  # such pixels are not scored
                contender.fit(learned)
            fitting += perf_counter() - start
            for part in self.parts:
                if part[2] == fold:
                    candidates, _ = self._cut(part)
                    low = None if self.low_resolution is None else self.low_resolution[part[0]]
                    start = perf_counter()
                    with np.errstate(invalid="ignore", over="ignore"):
                        results[part[0]][part[1]] = contender.predict(candidates, low)
                    predicting += perf_counter() - start
        scores = [
            self.scoring(truth, result, valid)
            for (_, truth), result, valid in zip(self.pairs, results, self.valid, strict=True)
        ]
        self.blocks.append(self._block_errors(results))
        if self.progress is not None:
            self.progress((number + 1) * self.folds, n_rows * self.folds, contender.name)
        mean_psnr, mean_ssim = np.mean(scores, axis=0)
        return Row(
            contender.name,
            "candidate" if isinstance(contender, OneCandidate) else "method",
            float(mean_psnr),
            float(mean_ssim),
            fitting / self.folds,
            predicting / len(self.pairs),
            contender.note,
        )

    def _block_errors(self, results: Sequence[Image]) -> BlockErrors:
        """Squared errors of one method's images, block by block, without the border."""
        parts = []
        for (_, truth), result, valid in zip(self.pairs, results, self.valid, strict=True):
            axis = self.scoring.channels_of(truth.shape)
            inside = self.scoring.inside(truth.shape)
            parts.append(
                block_errors(truth[inside], [result[inside]], valid=valid[inside], channel_axis=axis)
            )
        return joined(parts)

    def noisy_scores(
        self, chosen: Sequence[Contender], rows: Sequence[Row], peak: float, noise: TruthNoise
    ) -> NoisyScores:
        """What can be said of the rows where the ground truth is noisy."""
        names, roles = [row.name for row in rows], [str(row.role) for row in rows]
        blocks, places = list(self.blocks), [isinstance(one, Average) for one in chosen]
        if not any(places):
            averages = [np.asarray(np.mean(xs, axis=0, dtype=np.float64)) for xs, _ in self.pairs]
            blocks.append(self._block_errors(averages))
            names, roles, places = [*names, AVERAGE], [*roles, AVERAGE], [*places, True]
        roles[places.index(True)] = AVERAGE
        return NoisyScores(tuple(names), side_by_side(blocks), peak, noise, places.index(True), tuple(roles))

    def _warm_up(self, contender: Contender) -> None:
        """Import and compile on a corner of the first image, so that the clock does not see it."""
        corner = tuple(
            slice(None) if axis == self.scoring.channels_of(self.pairs[0][1].shape) else slice(32)
            for axis in range(self.pairs[0][1].ndim)
        )
        candidates, truth = self._cut((0, corner, 0))
        with (
            suppress(EnsembleError),
            np.errstate(invalid="ignore", over="ignore"),
        ):  # the whole image will show
            contender.fit([(candidates, truth)])
            contender.predict(candidates)

    def _cut(self, part: tuple[int, Slices, int]) -> Pair:
        candidates, truth = self.pairs[part[0]]
        return [candidate[part[1]] for candidate in candidates], truth[part[1]]


def _tiles(shape: tuple[int, ...], channel_axis: int | None) -> list[tuple[tuple[int, ...], Slices]]:
    """Places and slices of tiles along the two longest axes that are not the channel's."""
    spatial = sorted((i for i in range(len(shape)) if i != channel_axis), key=lambda i: -shape[i])[:2]
    cuts = {i: np.unique(np.linspace(0, shape[i], TILES + 1).astype(int)).tolist() for i in spatial}
    tiles = []
    for place in product(*(range(len(cuts[i]) - 1) for i in spatial)):
        where = [slice(None)] * len(shape)
        for i, number in zip(spatial, place, strict=True):
            where[i] = slice(cuts[i][number], cuts[i][number + 1])
        tiles.append((place, tuple(where)))
    return tiles
