"""Weights of ZZPM, which need no ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def zzpm_weights(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights proportional to 1 / distance (ZZPM as described, NTIRE 2023).

    Parameters
    ----------
    distances : (M,) array
        Mean squared distance of each candidate from the mean of the candidates. If some are zero, these
        candidates get all of the weight.

    Examples
    --------
    >>> zzpm_weights(np.array([4.0, 1.0, 1.0])).round(3)
    array([0.111, 0.444, 0.444])
    """
    zero = distances == 0
    scores = zero.astype(np.float64) if zero.any() else distances.min() / distances
    return np.asarray(scores / scores.sum())


def zzpm_weights_from_gram(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of :func:`zzpm_weights` from the (M, M) Gram matrix of the candidates' errors.

    The ground truth cancels in the distances of the candidates from their mean.
    """
    distances = np.diag(gram) - 2 * gram.mean(axis=1) + gram.mean()
    return zzpm_weights(np.maximum(distances, 0.0))
