"""What an estimator is: statistics in, weights out. Holds the registry of methods, no mathematics.

To add one, write a function ``(statistics, settings, progress) -> Estimate`` in a file of its own, name that
in ``_HOMES``, and give it a title and a sentence in ``settings/work.py``: fit, widgets, command line and
comparison find it there.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

from napari_ensir.ensemble.arrays.image_set import check_prior
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import METHODS as TEXTS
from napari_ensir.settings import SHRINKAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from napari_ensir.ensemble.arrays.image_set import Progress
    from napari_ensir.ensemble.statistics.statistics import Statistics

__all__ = ["METHODS", "OUTCOMES", "Estimate", "Estimator", "Method", "Settings", "find_method"]

OUTCOMES = ("converged", "iteration limit", "no solution", "too few pixels")
"""What came of a bin set; its index is the code in :attr:`Estimate.outcome`."""

KEPT = ("prior", "shrinkage", "min_pixels", "max_iter", "tolerance")
"""Names of the settings that a report keeps."""


@dataclass(frozen=True)
class Settings:
    """What a user can choose about the estimate.

    Attributes
    ----------
    prior : (M,) weights summing to one, or None
        Start of EM, and its answer where a bin set has too few pixels.
    shrinkage : float
        Pixels' worth of trust in the global solution, for least squares.
    min_pixels : int
        Bin sets with fewer pixels get no EM of their own.
    max_iter : int or None
        Limit of EM's iterations; None: the method's own.
    tolerance : float
        EM stops when the mean log likelihood rises by less.
    device : torch device or None
        None computes on the CPU.
    """

    prior: NDArray[np.float64] | None = None
    shrinkage: float = SHRINKAGE
    min_pixels: int = 100
    max_iter: int | None = None
    tolerance: float = 1e-5
    device: torch.device | None = None

    def to_dict(self, used: Sequence[str] = KEPT) -> dict[str, Any]:
        """What a report keeps, in plain values: all but where it was computed.

        Parameters
        ----------
        used : sequence of str
            Names of those that the method has; the others are left out.

        Returns
        -------
        dict
            By :data:`KEPT`'s names.

        Examples
        --------
        >>> Settings(shrinkage=20).to_dict(METHODS["least-squares"].uses)
        {'shrinkage': 20}
        """
        found = {name: getattr(self, name) for name in KEPT if name in used}
        if found.get("prior") is not None:
            found["prior"] = [float(weight) for weight in found["prior"]]
        return found

    @classmethod
    def from_dict(cls, kept: Any, n_candidates: int) -> Settings:
        """The settings that :meth:`to_dict` kept; defaults for what is absent or no such value.

        A report may come from a file that somebody else wrote, so nothing in it is taken on trust.

        Parameters
        ----------
        kept : object
            A report's ``"settings"``.
        n_candidates : int
            How many weights a prior has to have.

        Returns
        -------
        Settings
        """
        known = kept if isinstance(kept, dict) else {}
        known = {"max_iter": known.get("max_iterations"), **known}  # its name in older files
        found = cls()
        for name in ("shrinkage", "min_pixels", "max_iter", "tolerance"):
            value, usual = known.get(name), getattr(found, name)
            kind = float if isinstance(usual, float) else int
            if isinstance(value, (kind, int)) and not isinstance(value, bool) and 0 <= value < 2**53:
                changed: Any = {name: kind(value)}
                found = replace(found, **changed)
        with suppress(EnsembleError):
            found = replace(found, prior=check_prior(known.get("prior"), n_candidates))
        return found

    def __post_init__(self) -> None:
        if self.max_iter is not None and self.max_iter < 1:
            raise EnsembleError(f"max_iter is {self.max_iter}; it must be 1 or more.")


@dataclass(frozen=True)
class Estimate:
    """Weights for each bin set of the statistics.

    Attributes
    ----------
    weights : (R, M) float64, rows on the simplex
    fallback : (C, M) float64
        For bin sets that the reference set does not show, by channel.
    unseen : "fallback" or "previous"
        Whether such a bin set takes the fallback or the weights of the occupied one before it.
    iterations : (R,) int64
    outcome : (R,) int8
        Index into :data:`OUTCOMES`.
    """

    weights: NDArray[np.float64]
    fallback: NDArray[np.float64]
    unseen: Literal["fallback", "previous"]
    iterations: NDArray[np.int64]
    outcome: NDArray[np.int8]


class Estimator(Protocol):
    """Statistics to weights."""

    def __call__(
        self, statistics: Statistics, settings: Settings, progress: Progress | None = None, /
    ) -> Estimate:
        """Weights of every bin set; ``progress`` is called now and then, and may raise."""
        ...


@dataclass(frozen=True)
class Method:
    """An estimator as users meet it."""

    title: str
    summary: str
    home: str
    uses: Sequence[str] = KEPT
    """Names of the settings that change what it makes: no other is a word about its tables."""

    def load(self) -> Estimator:
        """The estimator itself."""
        module, _, name = self.home.partition(":")
        found: Estimator = getattr(import_module(f"napari_ensir.ensemble.estimators.{module}"), name)
        return found


_HOMES = {
    "em": "em:em",
    "em-released": "em:em_released",
    "least-squares": "least_squares:least_squares",
}

_OF_EM = ("prior", "min_pixels", "max_iter", "tolerance")
_USES = {"em": _OF_EM, "em-released": _OF_EM, "least-squares": ("shrinkage",)}

METHODS = {name: Method(*TEXTS[name], home, _USES[name]) for name, home in _HOMES.items()}
"""Every method by the name that scripts use."""


def find_method(name: str) -> Method:
    """Look a method up.

    Raises
    ------
    EnsembleError
        If there is none of that name.
    """
    if name not in METHODS:
        known = ", ".join(f'"{key}"' for key in METHODS)
        raise EnsembleError(f"there is no method {name!r}; use one of {known}.")
    return METHODS[name]
