"""Interface of the estimators, their settings and the registry of methods.

To add a method, write a function ``(statistics, settings, progress) -> Estimate`` in a new module, list it in
``_METHODS``, and add its title and summary to ``napari_ensir.settings.METHODS``.
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

OUTCOMES = ("converged", "iteration limit", "no solution", "too few pixels")
"""Outcomes of a bin set; :attr:`Estimate.outcome` is an index into them."""

REPORTED = ("prior", "shrinkage", "min_pixels", "max_iter", "tolerance")
"""Names of the settings that a table's report can have."""


@dataclass(frozen=True)
class Settings:
    """Settings of the estimators.

    Attributes
    ----------
    prior : (M,) weights summing to one, or None
        Start weights of EM, and its weights for bin sets with too few pixels.
    shrinkage : float
        Shrinkage of least squares toward the global solution, in pixels.
    min_pixels : int
        EM is not run on bin sets with fewer pixels.
    max_iter : int or None
        Most iterations of EM; None: the default of the method.
    tolerance : float
        EM stops when the mean log likelihood rises by less than this.
    device : torch device or None
        Where EM runs; None: on the CPU.
    """

    prior: NDArray[np.float64] | None = None
    shrinkage: float = SHRINKAGE
    min_pixels: int = 100
    max_iter: int | None = None
    tolerance: float = 1e-5
    device: torch.device | None = None

    def to_dict(self, used: Sequence[str] = REPORTED) -> dict[str, Any]:
        """Return the settings for a table's report as plain values, without the device.

        Parameters
        ----------
        used : sequence of str
            Names of the settings to return, such as :attr:`Method.uses`.

        Returns
        -------
        dict
            Names among :data:`REPORTED` to values.

        Examples
        --------
        >>> Settings(shrinkage=20).to_dict(METHODS["least-squares"].uses)
        {'shrinkage': 20}
        """
        found = {name: getattr(self, name) for name in REPORTED if name in used}
        if found.get("prior") is not None:
            found["prior"] = [float(weight) for weight in found["prior"]]
        return found

    @classmethod
    def from_dict(cls, kept: Any, n_candidates: int) -> Settings:
        """Read what :meth:`to_dict` returned; missing and invalid values become defaults.

        A report may come from an untrusted file, so every value is checked.

        Parameters
        ----------
        kept : object
            The report's ``"settings"``.
        n_candidates : int
            Number of weights of a prior.

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
    """Weights for each bin set, as an estimator returns them.

    Attributes
    ----------
    weights : (R, M) float64, rows on the simplex
    fallback : (C, M) float64
        Weights by channel for bin sets without pixels.
    unseen : "fallback" or "previous"
        Whether such a bin set takes the fallback or the weights of the occupied one before it.
    iterations : (R,) int64
    outcome : (R,) int8
        Index into :data:`OUTCOMES`.
    variances : (R, M) float64 or None
        Variances of the components of each bin set's mixture, squared intensity units; None if the method
        has no mixture.
    """

    weights: NDArray[np.float64]
    fallback: NDArray[np.float64]
    unseen: Literal["fallback", "previous"]
    iterations: NDArray[np.int64]
    outcome: NDArray[np.int8]
    variances: NDArray[np.float64] | None = None


class Estimator(Protocol):
    """A function from statistics to weights."""

    def __call__(
        self, statistics: Statistics, settings: Settings, progress: Progress | None = None, /
    ) -> Estimate:
        """Estimate the weights of every bin set; ``progress`` is called repeatedly, and may raise."""
        ...


@dataclass(frozen=True)
class Method:
    """An estimator with its texts for users."""

    title: str
    summary: str
    path: str
    """Module and function, as in ``"em:em_released"``."""
    uses: Sequence[str] = REPORTED
    """Names of the settings that it uses."""

    def load(self) -> Estimator:
        """Import the estimator."""
        module, _, name = self.path.partition(":")
        found: Estimator = getattr(import_module(f"napari_ensir.ensemble.estimators.{module}"), name)
        return found


_EM_SETTINGS = ("prior", "min_pixels", "max_iter", "tolerance")

_METHODS = {
    "em": ("em:em", _EM_SETTINGS),
    "em-released": ("em:em_released", _EM_SETTINGS),
    "least-squares": ("least_squares:least_squares", ("shrinkage",)),
}

METHODS = {name: Method(*TEXTS[name], path, uses) for name, (path, uses) in _METHODS.items()}
"""Methods by name."""


def find_method(name: str) -> Method:
    """Return the method of a name.

    Raises
    ------
    EnsembleError
        If there is none of that name.
    """
    if name not in METHODS:
        known = ", ".join(f'"{key}"' for key in METHODS)
        raise EnsembleError(f"there is no method {name!r}; use one of {known}.")
    return METHODS[name]
