"""What a noisy ground truth changes, and what it does not. Reads pixels only to look for own inputs.

With a truth z = y + n, y clean and n of mean zero and independent of the candidates x, the sums of squared
errors in a bin set become, for weights that sum to one,

    E sum (w.x - z)^2 = E sum (w.x - y)^2 + sum var n,

that is G + (sum var n) 1 1^T, and w^T 1 1^T w = 1 whatever w is. So least squares keeps its solution, in
expectation, whatever law the noise has and however strong it is at each intensity; and so do shrinkage, which
mixes such sums, and the choice of a bin width, which compares held-out errors that all rise alike. Bin sets
are the candidates' alone. EM sees the distances of single pixels' truths from the candidates, and takes the
noise for the candidates' errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.ensemble.inputs import make_field
from napari_ensir.ensemble.noise_checks import own_input_warning
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterable

    TruthNoise = float | Literal["unknown"]
    """Standard deviation of a noisy truth's noise, in intensity units, or that it is not known."""

__all__ = ["OwnInputWarning", "method_for", "noise_between", "own_input_of"]

PARTS = 8
"""Parts of a reference set with a noisy truth, to see how much a difference varies between them."""


class OwnInputWarning(UserWarning):
    """A noisy reference seems to be the image that the candidates were restored from."""


def method_for(method: str | None, truth_noise: TruthNoise | None) -> str:
    """The method to learn by.

    Parameters
    ----------
    method : str, optional
        As asked for.
    truth_noise : float or "unknown", optional
        None: the truth is clean.

    Raises
    ------
    EnsembleError
        If EM is asked for and the truth is noisy.

    Examples
    --------
    >>> method_for(None, None), method_for(None, "unknown")
    ('em', 'least-squares')
    """
    if truth_noise is None:
        return method or "em"
    if method in ("em", "em-released"):
        raise EnsembleError(
            f'method="{method}" takes the noise of the ground truth for errors of the candidates; use '
            '"least-squares", whose weights the noise does not change, or leave the method out.'
        )
    return method or "least-squares"


def own_input_of(
    reference: Iterable[tuple[Sequence[Any], Any]], channel_axis: int | None = None
) -> tuple[str | None, Iterable[tuple[Sequence[Any], Any]]]:
    """Whether the first image's truth seems to be the candidates' own input; the set, to be read as before.

    Returns
    -------
    warning : str or None
        A sentence; see :func:`~napari_ensir.ensemble.noise_checks.own_input_warning`.
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
