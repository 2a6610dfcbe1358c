"""What to compare with: averages, ZZPM, regressors on pixels, one global solution.

Each is a :class:`Contender`, and so are the package's own methods (:class:`BinSets`) and RefESR
(``refesr.py``), so that a comparison treats all alike. Formulas: EnsIR (arXiv 2410.22959), section 4, and the
code its authors released.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from napari_ensir.ensemble.estimators.least_squares import minimise_on_simplex
from napari_ensir.ensemble.scoring.metrics import luma, psnr
from napari_ensir.ensemble.scoring.scores import score_range
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress

    Image = NDArray[Any]
    Pair = tuple[Sequence[Image], Image]
    """Candidates and ground truth of one image: M arrays of the truth's shape."""
    from collections.abc import Sequence

__all__ = [
    "REGRESSORS",
    "Average",
    "BinSets",
    "Contender",
    "GlobalLeastSquares",
    "OneCandidate",
    "RefESR",
    "Regression",
    "WeightedAverage",
    "Zzpm",
]


class Contender(Protocol):
    """Something that learns from images with ground truth and then combines candidates.

    Attributes
    ----------
    name : str
        Its row in a table.
    note : str
        What a reader of the table must know, such as a sample's size; often empty.
    """

    @property
    def name(self) -> str:
        """Its row in a table."""
        ...

    @property
    def note(self) -> str:
        """What a reader of the table must know."""
        ...

    def fit(self, reference: Sequence[Pair], progress: Progress | None = None) -> None:
        """Learn; forget what was learned before."""
        ...

    def predict(
        self, candidates: Sequence[Image], low_resolution: Image | None = None
    ) -> NDArray[np.float64]:
        """Combine the candidates of one image, in their own intensity units; may leave the data range."""
        ...


def stacked(candidates: Sequence[Image]) -> NDArray[np.float64]:
    """(M, *shape) float64."""
    return np.stack([np.asarray(candidate, np.float64) for candidate in candidates])


def scale_of(reference: Sequence[Pair], given: tuple[float, float] | None) -> tuple[float, float]:
    """What counts as black and white: as given, else by what is learned from, never by what is held out."""
    found = score_range([truth for _, truth in reference], given)
    return found.low, found.high


def finite_pixels(reference: Sequence[Pair]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Candidates (M, P) and truth (P,) of each image, in float64, where all of them are finite.

    Raises
    ------
    EnsembleError
        If that is nowhere in any image.
    """
    found = 0
    for candidates, truth in reference:
        values, flat = stacked(candidates).reshape(len(candidates), -1), np.ravel(truth).astype(np.float64)
        finite = np.isfinite(flat) & np.isfinite(values).all(axis=0)
        found += int(finite.sum())
        yield (values, flat) if finite.all() else (values[:, finite], flat[finite])
    if not found:
        raise EnsembleError(
            "no pixel is left to learn from: none is finite in every candidate and the ground truth."
        )


@dataclass
class _NeedsNoFit:
    """What combines candidates by a rule alone."""

    note: str = field(default="", kw_only=True)

    def fit(self, reference: Sequence[Pair], progress: Progress | None = None) -> None:
        """Nothing to learn."""


@dataclass
class OneCandidate(_NeedsNoFit):
    """One candidate, as it is."""

    index: int
    name: str

    def predict(
        self, candidates: Sequence[Image], low_resolution: Image | None = None
    ) -> NDArray[np.float64]:
        """The candidate."""
        return np.asarray(candidates[self.index], np.float64)


@dataclass
class Average(_NeedsNoFit):
    """All candidates alike.

    Examples
    --------
    >>> Average().predict([np.array([1, 2]), np.array([3, 6])])
    array([2., 4.])
    """

    name: str = "average"

    def predict(
        self, candidates: Sequence[Image], low_resolution: Image | None = None
    ) -> NDArray[np.float64]:
        """Their mean."""
        return np.asarray(np.mean(stacked(candidates), axis=0))


@dataclass
class WeightedAverage(_NeedsNoFit):
    """Candidates by given weights, scaled to a sum of one.

    Examples
    --------
    >>> WeightedAverage((3, 1)).predict([np.array([1, 2]), np.array([3, 6])])
    array([1.5, 3. ])
    """

    weights: tuple[float, ...]
    name: str = "weighted average"

    def predict(
        self, candidates: Sequence[Image], low_resolution: Image | None = None
    ) -> NDArray[np.float64]:
        """Their weighted mean.

        Raises
        ------
        EnsembleError
            If there is not one weight per candidate, or they sum to nothing.
        """
        weights = np.asarray(self.weights, np.float64)
        if weights.shape != (len(candidates),) or not np.isfinite(weights).all() or weights.sum() <= 0:
            raise EnsembleError(
                f"the weights are {list(self.weights)}; give {len(candidates)}, one per candidate, with a "
                "positive sum."
            )
        return np.asarray(np.tensordot(weights / weights.sum(), stacked(candidates), axes=1))


@dataclass
class Zzpm:
    """Candidates by how near each is to their mean, one weight vector per image (ZZPM, NTIRE 2023).

    As described, ``w_m ~ 1 / mse_m`` with ``mse_m = mean((x_m - mean of the candidates) ** 2)``. The EnsIR
    authors' code takes ``softmax(1 / (1e-3 + mse_m))`` instead, on intensities of 0 to 255: on another
    scale it gives other weights, which is why ``data_range`` is needed. Pixels count where every candidate is
    finite.

    Parameters
    ----------
    released : bool
        The authors' code, not the description.
    data_range : (low, high), optional
        Intensities that become 0 and 255; None: what the ground truths learned from show.

    Examples
    --------
    >>> candidates = [np.array([0.0, 0.0]), np.array([0.0, 3.0]), np.array([0.0, 3.0])]
    >>> Zzpm().weights(candidates).round(3)
    array([0.111, 0.444, 0.444])
    """

    released: bool = False
    data_range: tuple[float, float] | None = (0.0, 255.0)
    note: str = ""
    scale: tuple[float, float] = (0.0, 255.0)

    def __post_init__(self) -> None:
        self.scale = self.data_range or self.scale

    def fit(self, reference: Sequence[Pair], progress: Progress | None = None) -> None:
        """Learn no more than the scale, and that only if none was given."""
        self.scale = scale_of(reference, self.data_range)

    @property
    def name(self) -> str:
        """Its row in a table."""
        return "ZZPM (released code)" if self.released else "ZZPM (as described)"

    def weights(self, candidates: Sequence[Image]) -> NDArray[np.float64]:
        """Weights of one image's candidates, (M,)."""
        stack = stacked(candidates).reshape(len(candidates), -1)
        stack = stack[:, np.isfinite(stack).all(axis=0)]
        away = stack - stack.sum(axis=0) / len(stack)
        mse = np.einsum("mp,mp->m", away, away) / max(1, away.shape[1])
        if self.released:
            low, high = self.scale
            score = 1 / (1e-3 + mse * (255 / (high - low)) ** 2)
            score = np.exp(score - score.max())
        elif (mse == 0).any():
            score = np.where(mse == 0, 1.0, 0.0)
        else:
            score = mse.min() / mse
        return np.asarray(score / score.sum())

    def predict(
        self, candidates: Sequence[Image], low_resolution: Image | None = None
    ) -> NDArray[np.float64]:
        """Their weighted mean."""
        return np.asarray(np.tensordot(self.weights(candidates), stacked(candidates), axes=1))


# -- pixels to pixels ---------------------------------------------------------------------------------

REGRESSORS = {
    "linear regression": ("sklearn.linear_model", "LinearRegression"),
    "Bagging": ("sklearn.ensemble", "BaggingRegressor"),
    "AdaBoost": ("sklearn.ensemble", "AdaBoostRegressor"),
    "RandomForest": ("sklearn.ensemble", "RandomForestRegressor"),
    "GradientBoosting": ("sklearn.ensemble", "GradientBoostingRegressor"),
    "HistGradientBoosting": ("sklearn.ensemble", "HistGradientBoostingRegressor"),
}
"""Linear regression and the EnsIR paper's five, by where scikit-learn keeps them."""


@dataclass
class Regression:
    """A scikit-learn regressor at its defaults, from the candidates' intensities to the truth's, per pixel.

    Parameters
    ----------
    name : str
        A key of :data:`REGRESSORS`.
    samples : int or None
        Learn from this many pixels, drawn at random without replacement; None: from all.
    seed : int
        For the draw, and for the regressor where it draws itself.
    """

    name: str
    samples: int | None = 100_000
    seed: int = 0
    note: str = ""
    model: Any = None

    def fit(self, reference: Sequence[Pair], progress: Progress | None = None) -> None:
        """Learn from (a sample of) all pixels of all channels together.

        Raises
        ------
        EnsembleError
            If scikit-learn is not installed, or no pixel is finite.
        """
        try:
            module = import_module(REGRESSORS[self.name][0])
        except ImportError as error:
            raise EnsembleError(
                f"{self.name} needs scikit-learn; install it with: "
                'pip install "napari-ensir[compare]", or leave the regressors out.'
            ) from error
        self.model = getattr(module, REGRESSORS[self.name][1])()
        if "random_state" in self.model.get_params():
            self.model.set_params(random_state=self.seed)
        images = list(finite_pixels(reference))
        values = np.concatenate([values for values, _ in images], axis=1)
        truth = np.concatenate([truth for _, truth in images])
        self.note = "all pixels"
        if self.samples is not None and self.samples < len(truth):
            drawn = np.random.default_rng(self.seed).choice(len(truth), self.samples, replace=False)
            self.note = f"learned from {self.samples:,} pixels of {len(truth):,}"
            values, truth = values[:, drawn], truth[drawn]
        self.model.fit(values.T, truth)

    def predict(
        self, candidates: Sequence[Image], low_resolution: Image | None = None
    ) -> NDArray[np.float64]:
        """What the regressor makes of each pixel; NaN where a candidate is not finite."""
        shape = np.shape(candidates[0])
        values = stacked(candidates).reshape(len(candidates), -1).T
        finite = np.isfinite(values).all(axis=1)
        result = np.full(len(values), np.nan)
        if finite.any():
            result[finite] = self.model.predict(values[finite])
        return result.reshape(shape)


@dataclass
class GlobalLeastSquares:
    """One weight vector on the simplex for all pixels, of least squared error."""

    name: str = "global least squares"
    note: str = ""
    weights: NDArray[np.float64] | None = None

    def fit(self, reference: Sequence[Pair], progress: Progress | None = None) -> None:
        """Sum up ``e e^T`` over all finite pixels and minimise ``w^T (sum e e^T) w``.

        Raises
        ------
        EnsembleError
            If no pixel is finite.
        """
        gram: Any = 0.0
        for values, truth in finite_pixels(reference):
            errors = values - truth
            gram = gram + errors @ errors.T
        self.weights = minimise_on_simplex(gram[None])[0][0]

    def predict(
        self, candidates: Sequence[Image], low_resolution: Image | None = None
    ) -> NDArray[np.float64]:
        """Their weighted mean."""
        return np.asarray(np.tensordot(np.asarray(self.weights), stacked(candidates), axes=1))


# -- the package's own --------------------------------------------------------------------------------


@dataclass
class BinSets:
    """A lookup table over bin sets: what :func:`napari_ensir.fit_lut` makes, by any of its methods.

    Parameters
    ----------
    method : str
        A key of :data:`~napari_ensir.ensemble.estimators.base.METHODS`.
    bin_width, data_range, channel_axis, device, max_iter, shrinkage
        As for :func:`napari_ensir.fit_lut`.
    name : str
        Its row in a table.
    """

    method: str
    name: str
    bin_width: float | None = None
    data_range: tuple[float, float] | None = None
    channel_axis: int | None = None
    device: str | torch.device = "auto"
    max_iter: int | None = None
    shrinkage: float = 1000.0
    note: str = ""
    lut: Any = None

    def fit(self, reference: Sequence[Pair], progress: Progress | None = None) -> None:
        """Collect statistics and estimate weights."""
        from napari_ensir.ensemble.fit import fit_lut

        self.lut = fit_lut(
            reference,
            method=self.method,
            bin_width=self.bin_width,
            data_range=self.data_range,
            channel_axis=self.channel_axis,
            device=self.device,
            progress=progress,
            max_iter=self.max_iter,
            shrinkage=self.shrinkage,
        )

    def predict(
        self, candidates: Sequence[Image], low_resolution: Image | None = None
    ) -> NDArray[np.float64]:
        """The ensemble."""
        return np.asarray(self.lut.apply(candidates, self.device, channel_axis=self.channel_axis), np.float64)


@dataclass
class RefESR:
    """One weight vector per image from its low-resolution input, drawn toward the reference set's PSNRs.

    Authors' code: ``wref_m ~ exp(-(max PSNR - PSNR_m) ** 2 / 0.07 ** 2)``, then
    ``w = argmin |l - D w| ** 2 + 0.8 |w - wref| ** 2`` under ``sum w = 1``, where ``l`` is the low-resolution
    image and ``D`` holds the candidates downsampled bicubically to it, all as luma on 0 to 1. In closed form,
    with ``A = [D; sqrt(0.8) I]``, ``c = [l; sqrt(0.8) wref]``, ``C = (A - c 1')'(A - c 1') + 1e-9 tr(C) I``:
    ``w = C^-1 1 / (1' C^-1 1)``. Weights may be negative.

    Parameters
    ----------
    data_range : (low, high), optional
        Intensities that become 0 and 1; None: what the ground truths learned from show.
    """

    data_range: tuple[float, float] | None = None
    name: str = "RefESR"
    note: str = ""
    preferred: NDArray[np.float64] | None = None
    scale: tuple[float, float] = (0.0, 1.0)

    SPREAD: ClassVar[float] = 0.07
    TRUST: ClassVar[float] = 0.8

    def __post_init__(self) -> None:
        self.scale = self.data_range or self.scale

    def fit(self, reference: Sequence[Pair], progress: Progress | None = None) -> None:
        """Mean PSNR of each candidate on the reference set, as weights."""
        self.scale = scale_of(reference, self.data_range)
        scores = np.array([[psnr(self._grey(t), self._grey(x), 1.0) for x in xs] for xs, t in reference])
        mean = np.minimum(scores, 1000.0).mean(axis=0)  # a perfect candidate's PSNR is infinite
        preferred = np.exp(-(((mean.max() - mean) / self.SPREAD) ** 2))
        self.preferred = preferred / preferred.sum()

    def _grey(self, image: Image) -> NDArray[np.float64]:
        low, high = self.scale
        scaled = (np.asarray(image, np.float64) - low) / (high - low)
        return luma(scaled * 255) / 255 if scaled.ndim == 3 and scaled.shape[-1] == 3 else scaled

    def weights(self, candidates: Sequence[Image], low_resolution: Image) -> NDArray[np.float64]:
        """Weights of one image's candidates, (M,), summing to one.

        Pixels of the low-resolution image count where it and all candidates about them are finite.

        Raises
        ------
        EnsembleError
            If the low-resolution image is not a downsampled one of the candidates' kind.
        """
        small = self._grey(low_resolution)
        large = [self._grey(candidate) for candidate in candidates]
        if small.ndim != 2 or any(image.ndim != 2 for image in large):
            raise EnsembleError(
                f"RefESR takes grey or RGB images in two dimensions, not {np.shape(candidates[0])} with a "
                f"low-resolution input of {np.shape(low_resolution)}."
            )
        shrunk = np.stack([_downsampled(image, small.shape).ravel() for image in large], axis=1)
        finite = np.isfinite(small.ravel()) & np.isfinite(shrunk).all(axis=1)
        m, root = len(large), np.sqrt(self.TRUST)
        left = np.vstack([shrunk[finite], root * np.eye(m)])
        right = np.concatenate([small.ravel()[finite], root * np.asarray(self.preferred)])
        away = left - right[:, None]
        gram = away.T @ away
        solved = np.linalg.solve(gram + 1e-9 * np.trace(gram) * np.eye(m), np.ones(m))
        return np.asarray(solved / solved.sum())

    def predict(
        self, candidates: Sequence[Image], low_resolution: Image | None = None
    ) -> NDArray[np.float64]:
        """Their weighted mean.

        Raises
        ------
        EnsembleError
            If there is no low-resolution input.
        """
        if low_resolution is None:
            raise EnsembleError(
                "RefESR needs the low-resolution input of every image; give them, or leave it out."
            )
        return np.asarray(np.tensordot(self.weights(candidates, low_resolution), stacked(candidates), axes=1))


def _downsampled(image: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Bicubic with antialiasing (Keys' kernel, a = -0.5), as MATLAB's ``imresize`` does it."""
    import torch

    if any(large < small for large, small in zip(image.shape, shape, strict=True)):
        raise EnsembleError(
            f"the low-resolution input has shape {shape}, larger than its candidates' {image.shape}."
        )
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    small = torch.nn.functional.interpolate(
        tensor, size=shape, mode="bicubic", antialias=True, align_corners=False
    )
    return np.asarray(small[0, 0].numpy(), np.float64)
