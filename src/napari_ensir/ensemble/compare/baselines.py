"""Methods to compare: averages, ZZPM, pixel-wise regressors, RefESR and lookup tables.

Source: EnsIR (arXiv 2410.22959), section 4, and the code released by its authors.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from napari_ensir.ensemble.estimators.base import METHODS
from napari_ensir.ensemble.estimators.least_squares import minimise_on_simplex
from napari_ensir.ensemble.estimators.zzpm import zzpm_weights
from napari_ensir.ensemble.scoring.cross_validation import mean_squared_error
from napari_ensir.ensemble.scoring.metrics import luma, psnr, psnr_of_error
from napari_ensir.ensemble.scoring.score_range import score_range
from napari_ensir.ensemble.scoring.score_table import ScoreRow
from napari_ensir.errors import EnsembleError, extra_needed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Field, Progress
    from napari_ensir.ensemble.fit import FitSession
    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.settings import CompareSettings

    Image = NDArray[Any]
    Images = Sequence[Image]
    Floats = NDArray[np.float64]
    Pair = tuple[Images, Image]
    """M candidates and ground truth of one image, arrays of one shape."""


class Combiner(Protocol):
    """Method that learns from images with ground truth and then combines candidates.

    Attributes
    ----------
    name : str
        Name in tables.
    note : str
        Remark in tables, such as the size of a sample; often empty.
    """

    name: str
    note: str = ""

    def fit(self, reference: Sequence[Pair]) -> None:
        """Learn from a reference set, independently of earlier calls; by default nothing is learned."""
        return

    @abstractmethod
    def predict(self, candidates: Images, low_resolution: Image | None = None) -> Floats:
        """Combine the candidates of one image; the result, in their units, is not clipped."""
        ...


def stack(candidates: Images) -> Floats:
    """Stack candidates into a float64 array of shape (M, *shape)."""
    return np.stack([np.asarray(candidate, np.float64) for candidate in candidates])


def weighted_sum(weights: Floats, candidates: Images) -> Floats:
    """Combine candidates with one weight for each."""
    return np.asarray(np.tensordot(weights, stack(candidates), axes=1))


def scale_of(reference: Sequence[Pair], given: tuple[float, float] | None) -> tuple[float, float]:
    """Return the given data range, or that of the ground truths to learn from."""
    found = score_range([truth for _, truth in reference], given)
    return found.low, found.high


def finite_pixels(reference: Sequence[Pair]) -> Iterator[tuple[Floats, Floats]]:
    """Yield candidates (M, P) and truth (P,) of each image, in float64, where all are finite.

    Raises
    ------
    EnsembleError
        If no pixel of any image is.
    """
    found = 0
    for candidates, truth in reference:
        values, flat = stack(candidates).reshape(len(candidates), -1), np.ravel(truth).astype(np.float64)
        finite = np.isfinite(flat) & np.isfinite(values).all(axis=0)
        found += int(finite.sum())
        yield (values, flat) if finite.all() else (values[:, finite], flat[finite])
    if not found:
        raise EnsembleError(
            "no pixel is finite in every candidate and in the ground truth, so nothing can be learned."
        )


@dataclass
class OneCandidate(Combiner):
    """One of the candidates."""

    index: int
    name: str

    def predict(self, candidates: Images, low_resolution: Image | None = None) -> Floats:
        """Return the candidate."""
        return np.asarray(candidates[self.index], np.float64)


@dataclass
class Average(Combiner):
    """Average of the candidates.

    Examples
    --------
    >>> Average().predict([np.array([1, 2]), np.array([3, 6])])
    array([2., 4.])
    """

    name: str = "average"

    def predict(self, candidates: Images, low_resolution: Image | None = None) -> Floats:
        """Return the mean of the candidates."""
        return np.asarray(np.mean(stack(candidates), axis=0))


@dataclass
class ZZPM(Combiner):
    """Average weighted by the distance of each candidate from the mean, per image (ZZPM, NTIRE 2023).

    As described, ``w_m ~ 1 / mse_m`` with ``mse_m = mean((x_m - mean of the candidates) ** 2)``. The code of
    the EnsIR authors uses ``softmax(1 / (1e-3 + mse_m))`` on intensities of 0 to 255 instead, so its weights
    depend on ``data_range``. Only pixels that are finite in every candidate are used.

    Parameters
    ----------
    released : bool
        Whether to use the formula of the authors' code.
    data_range : (low, high), optional
        Intensities that are scaled to 0 and 255; None: the range of the ground truths in ``fit``.

    Examples
    --------
    >>> candidates = [np.array([0.0, 0.0]), np.array([0.0, 3.0]), np.array([0.0, 3.0])]
    >>> ZZPM().weights(candidates).round(3)
    array([0.111, 0.444, 0.444])
    """

    released: bool = False
    data_range: tuple[float, float] | None = (0.0, 255.0)
    scale: tuple[float, float] = (0.0, 255.0)

    def __post_init__(self) -> None:
        self.name = "ZZPM (released code)" if self.released else "ZZPM (as described)"
        self.scale = self.data_range or self.scale

    def fit(self, reference: Sequence[Pair]) -> None:
        """Find the data range, if it was not given."""
        self.scale = scale_of(reference, self.data_range)

    def weights(self, candidates: Images) -> Floats:
        """Return the weights of the candidates of one image, (M,)."""
        values = stack(candidates).reshape(len(candidates), -1)
        values = values[:, np.isfinite(values).all(axis=0)]
        away = values - values.sum(axis=0) / len(values)
        mse = np.einsum("mp,mp->m", away, away) / max(1, away.shape[1])
        if not self.released:
            return zzpm_weights(mse)
        low, high = self.scale
        score = 1 / (1e-3 + mse * (255 / (high - low)) ** 2)
        score = np.exp(score - score.max())
        return np.asarray(score / score.sum())

    def predict(self, candidates: Images, low_resolution: Image | None = None) -> Floats:
        """Return the weighted average."""
        return weighted_sum(self.weights(candidates), candidates)


REGRESSORS = {
    "linear regression": ("sklearn.linear_model", "LinearRegression"),
    "Bagging": ("sklearn.ensemble", "BaggingRegressor"),
    "AdaBoost": ("sklearn.ensemble", "AdaBoostRegressor"),
    "RandomForest": ("sklearn.ensemble", "RandomForestRegressor"),
    "GradientBoosting": ("sklearn.ensemble", "GradientBoostingRegressor"),
    "HistGradientBoosting": ("sklearn.ensemble", "HistGradientBoostingRegressor"),
}
"""Module and class of linear regression and of the five regressors of the EnsIR paper."""


@dataclass
class Regression(Combiner):
    """Regressor of scikit-learn with default parameters that predicts the truth at each pixel.

    Parameters
    ----------
    name : str
        A key of :data:`REGRESSORS`.
    samples : int or None
        Number of pixels to learn from, drawn at random without replacement; None: all.
    seed : int
        Seed of the draw and of the regressor.
    """

    name: str
    samples: int | None = 100_000
    seed: int = 0
    model: Any = None

    def make_model(self) -> Any:
        """Return the regressor, not fitted."""
        module, name = REGRESSORS[self.name]
        with extra_needed("compare", f"{self.name} needs scikit-learn"):
            return getattr(import_module(module), name)()

    def fit(self, reference: Sequence[Pair]) -> None:
        """Fit the regressor to a sample of the pixels, all channels pooled.

        Raises
        ------
        EnsembleError
            If scikit-learn is not installed, or no pixel is finite.
        """
        self.model = self.make_model()
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

    def predict(self, candidates: Images, low_resolution: Image | None = None) -> Floats:
        """Predict each pixel; NaN where a candidate is not finite."""
        shape = np.shape(candidates[0])
        values = stack(candidates).reshape(len(candidates), -1).T
        finite = np.isfinite(values).all(axis=1)
        result = np.full(len(values), np.nan)
        if finite.any():
            result[finite] = self.model.predict(values[finite])
        return result.reshape(shape)


@dataclass
class GlobalLeastSquares(Combiner):
    """Least squares with one weight vector on the simplex for all pixels."""

    name: str = "global least squares"
    weights: Floats | None = None

    def fit(self, reference: Sequence[Pair]) -> None:
        """Minimise ``w^T (sum e e^T) w`` over all finite pixels, with the errors ``e`` of the candidates.

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

    def predict(self, candidates: Images, low_resolution: Image | None = None) -> Floats:
        """Return the weighted average."""
        return weighted_sum(np.asarray(self.weights), candidates)


class BinSets(Combiner):
    """Lookup table of :func:`napari_ensir.fit_lut`.

    Parameters
    ----------
    method : str
        A key of :data:`~napari_ensir.ensemble.estimators.base.METHODS`.
    name : str
        Name in tables.
    **settings
        Further parameters of :func:`napari_ensir.fit_lut`, such as ``bin_width``.
    """

    def __init__(self, method: str, name: str, **settings: Any) -> None:
        self.method, self.name, self.settings = method, name, settings
        self.lut: WeightLUT | None = None

    def fit(self, reference: Sequence[Pair]) -> None:
        """Fit the table."""
        from napari_ensir.ensemble.fit import FitSession

        session = FitSession(reference, method=self.method, check_input=False, **self.settings)
        session.collect(fine=False, folds=False)
        self.lut = session.estimate()

    def predict(self, candidates: Images, low_resolution: Image | None = None) -> Floats:
        """Apply the table."""
        assert self.lut is not None  # fitted before
        device, axis = self.settings.get("device", "auto"), self.settings.get("channel_axis")
        return np.asarray(self.lut.apply(candidates, device, channel_axis=axis, check=False), np.float64)


@dataclass
class RefESR(Combiner):
    """RefESR (Jiang et al. 2019): one weight vector per image, found from its low-resolution input.

    As in the authors' code, ``wref_m ~ exp(-(max PSNR - PSNR_m) ** 2 / 0.07 ** 2)``, then
    ``w = argmin |l - D w| ** 2 + 0.8 |w - wref| ** 2`` under ``sum w = 1``, where ``l`` is the low-resolution
    image and ``D`` holds the candidates downsampled bicubically to it, all as luma on 0 to 1. In closed form,
    with ``A = [D; sqrt(0.8) I]``, ``c = [l; sqrt(0.8) wref]``, ``C = (A - c 1')'(A - c 1') + 1e-9 tr(C) I``:
    ``w = C^-1 1 / (1' C^-1 1)``. Weights may be negative.

    Parameters
    ----------
    data_range : (low, high), optional
        Intensities that are scaled to 0 and 1; None: the range of the ground truths in ``fit``.
    """

    data_range: tuple[float, float] | None = None
    name: str = "RefESR"
    preferred: Floats | None = None
    scale: tuple[float, float] = (0.0, 1.0)

    SPREAD: ClassVar[float] = 0.07
    TRUST: ClassVar[float] = 0.8

    def __post_init__(self) -> None:
        self.scale = self.data_range or self.scale

    def fit(self, reference: Sequence[Pair]) -> None:
        """Find preferred weights from the mean PSNR of each candidate."""
        self.scale = scale_of(reference, self.data_range)
        scores = np.array([[psnr(self._grey(t), self._grey(x), 1.0) for x in xs] for xs, t in reference])
        mean = np.minimum(scores, 1000.0).mean(axis=0)  # PSNR of a perfect candidate is infinite
        preferred = np.exp(-(((mean.max() - mean) / self.SPREAD) ** 2))
        self.preferred = preferred / preferred.sum()

    def _grey(self, image: Image) -> Floats:
        low, high = self.scale
        scaled = (np.asarray(image, np.float64) - low) / (high - low)
        return luma(scaled * 255) / 255 if scaled.ndim == 3 and scaled.shape[-1] == 3 else scaled

    def weights(self, candidates: Images, low_resolution: Image) -> Floats:
        """Return the weights of the candidates of one image, (M,), which sum to one.

        Only pixels that are finite in all downsampled images are used.

        Raises
        ------
        EnsembleError
            If the images are not grey or RGB images in two dimensions.
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

    def predict(self, candidates: Images, low_resolution: Image | None = None) -> Floats:
        """Return the weighted sum.

        Raises
        ------
        EnsembleError
            If there is no low-resolution input.
        """
        if low_resolution is None:
            raise EnsembleError(
                "RefESR needs the low-resolution input of every image; give them, or choose other methods."
            )
        return weighted_sum(self.weights(candidates, low_resolution), candidates)


def _downsampled(image: Floats, shape: tuple[int, ...]) -> Floats:
    """Downsample bicubically with antialiasing (Keys' kernel, a = -0.5), as MATLAB's ``imresize``."""
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


def all_combiners(
    names: Sequence[str],
    settings: CompareSettings,
    bin_widths: Sequence[float | None],
    has_low_resolution: bool,
) -> list[Combiner]:
    """Return all methods that apply: candidates, baselines, and lookup tables in each bin width.

    Parameters
    ----------
    names : M strings
    settings : CompareSettings
        EM is left out if the ground truth is noisy.
    bin_widths : sequence
        None stands for the default.
    has_low_resolution : bool
        Whether the images have the low-resolution inputs that RefESR needs.
    """
    how = settings.keywords("data_range", "channel_axis", "device")
    scale = settings.data_range  # None: each method finds it in its reference set
    found: list[Combiner] = [OneCandidate(index, name) for index, name in enumerate(names)]
    found += [Average(), ZZPM(data_range=scale), ZZPM(released=True, data_range=scale)]
    found += [RefESR(scale)] * has_low_resolution
    for name in REGRESSORS:  # linear regression is fast enough for all pixels
        found.append(Regression(name, None if name == "linear regression" else settings.samples))
    found.append(GlobalLeastSquares())
    for (key, method), width in product(METHODS.items(), bin_widths):
        if settings.truth_noise is None or not key.startswith("em"):
            name = method.title + ("" if width is None else f", bin width {width:g}")
            found.append(BinSets(key, name, bin_width=width, **how))
    return found


def chosen_combiners(every: Sequence[Combiner], methods: Sequence[str | Combiner]) -> list[Combiner]:
    """Return the methods with these names or keys; methods that are not names are returned as they are.

    Raises
    ------
    EnsembleError
        If there is no method of a name.
    """
    keys = [getattr(one, "method", one.name) for one in every]
    chosen: list[Combiner] = []
    for wanted in methods:
        if not isinstance(wanted, str):
            chosen.append(wanted)
            continue
        found = [one for one, key in zip(every, keys, strict=True) if wanted in (one.name, key)]
        if not found:
            known = ", ".join(dict.fromkeys([*METHODS, *(key for key in keys if key not in METHODS)]))
            raise EnsembleError(f"there is no method {wanted!r} to compare; there are: {known}.")
        chosen += found
    return chosen


MOST_PIXELS = 2**22
"""Maximum number of pixels, counted in each channel, of images for which the regressors are scored."""

SAMPLES = 20_000
"""Number of pixels that the regressors except linear regression learn from."""


def baseline_scores(
    session: FitSession,
    low_resolution: tuple[Sequence[Any], Any] | None = None,
    progress: Progress | None = None,
) -> Iterator[ScoreRow]:
    """Yield the held-out scores of global least squares, RefESR and the regressors, one after the other.

    The parts held out are those of :meth:`FitSession.score`, so the scores can be compared with its scores.

    Parameters
    ----------
    session : FitSession
        With a clean ground truth.
    low_resolution : (candidates, image), optional
        The candidates of the only image of the session, and its input in low resolution, which RefESR needs.
    progress : callable, optional
        Called with (done, total, text); an exception that it raises stops the work.

    Yields
    ------
    ScoreRow
        Of the regressors only if :func:`regressors_left_out` is empty.

    Raises
    ------
    EnsembleError
        If scikit-learn is not installed, or RefESR cannot use the images.

    Examples
    --------
    >>> from napari_ensir import FitSession
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (4, 8)]
    >>> next(baseline_scores(FitSession([(noisy, truth)], device="cpu"))).name
    'global least squares'
    """
    peak = session.score_range.peak

    def row(name: str, errors: Iterable[tuple[float, int]], note: str = "") -> ScoreRow:
        total, pixels = np.sum([*errors], axis=0)
        return ScoreRow(name, "baseline", held_out=psnr_of_error(total / pixels, peak), note=note)

    reference, unseen = session.collect(progress), session.unseen
    scored = reference.folds if unseen is None else (unseen.statistics,)

    def weighted(name: str, weights: Iterable[NDArray[np.float64]]) -> ScoreRow:
        """Score weights that are the same for all pixels of a part."""
        return row(
            name,
            [
                (mean_squared_error(part, each) * part.n_pixels, part.n_pixels)
                for part, each in zip(scored, weights, strict=True)
            ],
        )

    grams = [part.error_gram.sum(axis=0) for part in reference.folds]
    learned_from = sum(grams) - np.array(grams) if unseen is None else np.array([sum(grams)])
    yield weighted("global least squares", minimise_on_simplex(learned_from)[0])
    parts = session.parts()
    if low_resolution is not None:
        method, found = RefESR(), []
        for learned, _ in parts:
            method.fit([(field.candidates, np.asarray(field.truth)) for field in learned])
            found.append(method.weights(*low_resolution))
        yield weighted(method.name, found)
    if regressors_left_out(session):
        return
    pixels = [([_pixels(field) for field in learned], [_pixels(f) for f in left]) for learned, left in parts]
    for number, name in enumerate(REGRESSORS):
        regression, errors = Regression(name, None if name == "linear regression" else SAMPLES), []
        for place, (pairs, left) in enumerate(pixels):
            if progress is not None:
                progress(number * len(pixels) + place, len(REGRESSORS) * len(pixels), f"scoring {name}")
            regression.fit(pairs)
            for candidates, truth in left:
                error = regression.predict(candidates) - truth
                errors.append((float(np.nansum(error**2)), int(np.isfinite(error).sum())))
        yield row(name, errors, f"{regression.note[:1].upper()}{regression.note[1:]}.")


def regressors_left_out(session: FitSession) -> str:
    """Return why the regressors are not scored, as a sentence; empty if they are."""
    parts = [part for part in (session.collect(), session.unseen) if part is not None]
    n = sum(part.statistics.n_pixels for part in parts)
    if n <= MOST_PIXELS:
        return ""
    return f"Regressors are left out, because they take long: {n:,} pixels, and the limit is {MOST_PIXELS:,}."


def _pixels(field: Field) -> Pair:
    """Candidates and ground truth of the pixels inside the mask, flattened."""
    arrays = [np.asarray(array) for array in field.arrays]
    mask = field.read_mask(tuple(slice(0, n) for n in field.shape))
    values = [array.ravel() if mask is None else array.ravel()[mask] for array in arrays]
    return values[:-1], values[-1]
