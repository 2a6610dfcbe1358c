"""Looks for what would void a noisy reference, and says so in a sentence. Learns and refuses nothing.

A noisy image can stand for the truth if its noise has nothing to do with the candidates' errors. Two things
break that, and both can be seen. It may be the image that the candidates were restored from: what they left
of its noise is in both. And where one pixel's noise says something of its neighbours', a hidden pixel's can
be guessed. ``benchmarks/noise_checks.md`` tells how often these checks err.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.ensemble.arrays.blocks import is_torch
from napari_ensir.ensemble.arrays.image_set import make_field
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Image = NDArray[np.float64]
    from collections.abc import Iterable

    TruthNoise = float | Literal["unknown"]
    """Standard deviation of a noisy truth's noise, in intensity units, or that it is not known."""

__all__ = [
    "OwnInputEvidence",
    "OwnInputWarning",
    "correlated_noise_warning",
    "method_for",
    "noise_between",
    "noise_correlation",
    "own_input_evidence",
    "own_input_of",
    "own_input_warning",
]


SIDE = 512
"""Pixels looked at along rows and columns, from the middle: enough to tell, whatever the image's size."""

PLANES = 4
"""Planes looked at, evenly spread."""

LEAST = 32
"""A smaller plane tells nothing."""

OWN_INPUT = 0.3
"""Of :attr:`OwnInputEvidence.score`: above it the reference is most likely the candidates' own input."""

CORRELATED = 0.2
"""Of :func:`noise_correlation`: above it neighbours' noise is most likely correlated."""


@dataclass(frozen=True)
class OwnInputEvidence:
    """How the residual of the most telling candidate behaves in the flat parts of an image.

    Attributes
    ----------
    detail : float
        Correlation of the residual, reference minus candidate, with the candidate's own detail. What a
        candidate left of its input's noise is part of that input: positive. It is no part of another
        exposure's: negative.
    neighbours : float
        Correlation of the residual with itself one pixel on. Structure that a candidate lost raises both.
    """

    detail: float
    neighbours: float

    @property
    def score(self) -> float:
        """One number of the two: what structure does to the one is taken off by the other."""
        return self.detail - self.neighbours

    def to_dict(self) -> dict[str, float]:
        """Plain values, for JSON."""
        return {**asdict(self), "score": self.score}


def own_input_evidence(
    candidates: Sequence[Any], reference: Any, channel_axis: int | None = None
) -> OwnInputEvidence | None:
    """Look whether a noisy reference may be the image that candidates were restored from.

    Parameters
    ----------
    candidates : M arrays of one shape
    reference : array of that shape
    channel_axis : int, optional

    Returns
    -------
    OwnInputEvidence or None
        None where the images are too small to tell, or not finite.

    Examples
    --------
    >>> from scipy.ndimage import gaussian_filter
    >>> rng = np.random.default_rng(0)
    >>> first, second = (rng.normal(100, 9, (64, 64)) for _ in range(2))
    >>> smooth = [gaussian_filter(first, sigma) for sigma in (0.6, 1)]
    >>> own_input_evidence(smooth, first).score > OWN_INPUT > own_input_evidence(smooth, second).score
    True
    """
    from scipy.ndimage import gaussian_filter

    found = []
    for noisy, *restored in _planes([reference, *candidates], channel_axis):
        if not all(np.isfinite(plane).all() for plane in (noisy, *restored)):
            continue
        flat = _flat(np.mean(restored, axis=0), inner=0, outer=2, window=3, share=0.3)
        residuals = [noisy - plane for plane in restored]
        details = [plane - gaussian_filter(plane, 2) for plane in restored]
        found.append(
            [
                (_correlation(residual[flat], detail[flat]), _next_to_itself(residual, flat))
                for residual, detail in zip(residuals, details, strict=True)
            ]
        )
    if not found:
        return None
    # A median's residual looks like another exposure's whatever it is, so one candidate has to do.
    each = [OwnInputEvidence(*pair) for pair in np.mean(found, axis=0).tolist()]
    return max(each, key=lambda evidence: evidence.score)


def own_input_warning(
    candidates: Sequence[Any],
    reference: Any,
    *,
    inputs: Sequence[Any] = (),
    channel_axis: int | None = None,
) -> str | None:
    """A sentence if the reference is, or seems to be, the image that the candidates were restored from.

    Parameters
    ----------
    candidates : M arrays of one shape
    reference : array of that shape
    inputs : arrays
        Images that candidates are known to be restored from, as far as anything is known.
    channel_axis : int, optional

    Returns
    -------
    str or None
        None: nothing speaks for it.
    """
    if any(_is_equal(given, reference) for given in inputs):
        return (
            "the reference is the very image that the candidates were restored from: its noise is in both, "
            "so scores and weights favour what was restored least; take another exposure, or learn from "
            "the noisy image alone."
        )
    evidence = own_input_evidence(candidates, reference, channel_axis)
    if evidence is None or evidence.score <= OWN_INPUT:
        return None
    return (
        "the reference seems to be the image that the candidates were restored from (what they left of its "
        f"noise is in both, score {evidence.score:.2f} above {OWN_INPUT:g}), and then scores and weights "
        "favour what was restored least; take another exposure, or learn from the noisy image alone."
    )


def noise_correlation(image: Any, channel_axis: int | None = None) -> float | None:
    """How alike the noise of neighbouring pixels is in the flat parts of an image.

    Second differences along one axis, which smooth structure hardly passes, are correlated with themselves
    one pixel along the other axis: 0 for noise that is independent from pixel to pixel, about 0.25 for noise
    blurred by a Gaussian of half a pixel, 0.5 where rows or columns have noise in common.

    Parameters
    ----------
    image : array
        Noisy; at least two axes beside the channels.
    channel_axis : int, optional

    Returns
    -------
    float or None
        The larger of both directions, mean over planes; None where the image is too small to tell.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0, 1, (64, 64))
    >>> abs(noise_correlation(noise)) < 0.1 < noise_correlation(noise[:, :1] + noise)
    True
    """
    found = []
    for (plane,) in _planes([image], channel_axis):
        if not np.isfinite(plane).all():
            continue
        flat = _flat(plane, inner=2, outer=8, window=4, share=0.2)
        found.append([_across(plane, flat), _across(plane.T, flat.T)])
    return float(np.mean(found, axis=0).max()) if found else None


def correlated_noise_warning(image: Any, channel_axis: int | None = None) -> str | None:
    """A sentence if the noise of neighbouring pixels is correlated, which blind learning cannot have."""
    found = noise_correlation(image, channel_axis)
    if found is None or found <= CORRELATED:
        return None
    return (
        f"the noise of neighbouring pixels is alike (correlation {found:.2f} in the flat parts of the noisy "
        "image, where 0 is right): restorers can guess hidden noise from beside it, so the weights favour "
        "those that keep it; a second exposure would be the better reference."
    )


def _planes(images: Sequence[Any], channel_axis: int | None) -> Iterator[tuple[Image, ...]]:
    """A few planes of images of one shape: the middle of each, channels apart."""
    shape = tuple(images[0].shape)
    channel = None if channel_axis is None else channel_axis % len(shape)
    spatial = [axis for axis in range(len(shape)) if axis != channel]
    if len(spatial) < 2 or min(shape[axis] for axis in spatial[-2:]) < LEAST:
        return
    inside = {axis: _middle(shape[axis]) for axis in spatial[-2:]}
    before = list(spatial[:-2]) + ([] if channel is None else [channel])
    choices = [_spread(shape[axis], PLANES if axis != channel else shape[axis]) for axis in before]
    every = list(product(*choices))
    for number in _spread(len(every), 3 * PLANES if channel is not None else PLANES):
        at = dict(zip(before, every[number], strict=True))
        where = tuple(at[axis] if axis in at else inside[axis] for axis in range(len(shape)))
        yield tuple(_as_floats(image[where]) for image in images)


def _middle(size: int) -> slice:
    start = max(0, (size - SIDE) // 2)
    return slice(start, min(size, start + SIDE))


def _spread(size: int, n: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, size - 1, min(n, size)).tolist()})


def _as_floats(part: Any) -> Image:
    return np.asarray(part.detach().cpu() if is_torch(part) else part, np.float64)


def _flat(plane: Image, *, inner: float, outer: float, window: float, share: float) -> NDArray[np.bool_]:
    """The part of a plane with the least structure, by the energy between two scales."""
    from scipy.ndimage import gaussian_filter

    band = (gaussian_filter(plane, inner) if inner else plane) - gaussian_filter(plane, outer)
    energy = gaussian_filter(band * band, window)
    return np.asarray(energy <= np.quantile(energy, share), bool)


def _correlation(one: Image, other: Image) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / size if size > 0 else 0.0


def _next_to_itself(plane: Image, where: NDArray[np.bool_]) -> float:
    """Correlation with the next pixel, mean of both directions."""
    centred = plane - plane[where].mean()
    power = float((centred[where] ** 2).mean())
    if power == 0:
        return 0.0
    return sum(_lagged(each, mask) for each, mask in ((centred, where), (centred.T, where.T))) / (2 * power)


def _lagged(plane: Image, where: NDArray[np.bool_]) -> float:
    """Mean product of pixels and the next along the last axis, where both count."""
    both = where[:, 1:] & where[:, :-1]
    return float((plane[:, 1:] * plane[:, :-1])[both].mean()) if both.any() else 0.0


def _across(plane: Image, where: NDArray[np.bool_]) -> float:
    """Correlation, along the last axis, of second differences along the first."""
    curved, inside = np.diff(plane, n=2, axis=0), where[1:-1]
    curved = curved - curved[inside].mean()
    power = float((curved[inside] ** 2).mean())
    return _lagged(curved, inside) / power if power > 0 else 0.0


def _is_equal(one: Any, other: Any) -> bool:
    """Whether two images are one object, or the same in every pixel."""
    if one is other:
        return True
    if tuple(getattr(one, "shape", ())) != tuple(getattr(other, "shape", ())):
        return False
    if hasattr(one, "chunks") or hasattr(other, "chunks"):  # larger than memory, perhaps: the middle tells
        where = tuple(_middle(size) for size in one.shape)
        one, other = one[where], other[where]
    return bool(np.array_equal(_as_floats(one), _as_floats(other)))


PARTS = 8
"""Parts of a reference set with a noisy truth, to see how much a difference varies between them."""


class OwnInputWarning(UserWarning):
    """A noisy reference seems to be the image that the candidates were restored from."""


def method_for(method: str, truth_noise: TruthNoise | None) -> str:
    """Return the method to fit with, given what is known of the ground truth's noise.

    Parameters
    ----------
    method : str
        A method's name, or ``"auto"``.
    truth_noise : float or "unknown", optional
        None: the ground truth is clean.

    Returns
    -------
    str
        ``method``; ``"least-squares"`` for ``"auto"`` if the ground truth is noisy.

    Raises
    ------
    EnsembleError
        If EM is requested and the ground truth is noisy.

    Examples
    --------
    >>> method_for("auto", None), method_for("auto", "unknown")
    ('auto', 'least-squares')
    """
    if truth_noise is None:
        return method
    if method in ("em", "em-released"):
        raise EnsembleError(
            f'method="{method}" takes the noise of the ground truth for errors of the candidates; use '
            '"least-squares", whose weights the noise does not change, or "auto".'
        )
    return "least-squares"


def own_input_of(
    reference: Iterable[tuple[Sequence[Any], Any]], channel_axis: int | None = None
) -> tuple[str | None, Iterable[tuple[Sequence[Any], Any]]]:
    """Whether the first image's truth seems to be the candidates' own input; the set, to be read as before.

    Returns
    -------
    warning : str or None
        A sentence; see :func:`~napari_ensir.ensemble.checks.noise.own_input_warning`.
    reference : iterable
        What was given; with the first image put back where it can be read only once.
    """
    again = reference
    if not isinstance(reference, Sequence):
        try:
            source = iter(reference)
        except TypeError:
            return None, again
        head = [pair for _, pair in zip(range(1), source, strict=False)]
        reference, again = head, chain(head, source)
    try:
        candidates, truth = next(iter(reference))
        field = make_field(candidates, truth, channel_axis=channel_axis)
    except (EnsembleError, StopIteration, TypeError, ValueError):
        return None, again  # whoever reads the whole set says what is wrong with it
    return own_input_warning(field.candidates, field.truth, channel_axis=field.channel_axis), again


def noise_between(first: Any, second: Any, valid: Any = None) -> float:
    """Standard deviation of the noise of two exposures that are alike in all but their noise.

    Parameters
    ----------
    first, second : arrays of one shape
    valid : bool array of that shape, optional

    Returns
    -------
    float
        The root of half the mean squared difference; what is not finite is left out.

    Raises
    ------
    EnsembleError
        If the shapes differ, or no pixel is finite in both.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0, 5, (2, 100, 100))
    >>> round(noise_between(*noise), 1)
    5.0
    """
    one, two = np.asarray(first), np.asarray(second)
    if one.shape != two.shape:
        raise EnsembleError(f"the exposures have shapes {one.shape} and {two.shape}; give two of one field.")
    with np.errstate(invalid="ignore"):
        squares = np.subtract(one, two, dtype=np.float64) ** 2
    where = np.isfinite(squares) if valid is None else np.isfinite(squares) & np.asarray(valid, bool)
    if not where.any():
        raise EnsembleError("no pixel is finite in both exposures; there is nothing to tell the noise by.")
    return float(np.sqrt(squares[where].mean() / 2))
