"""Ranking of restorers, and calibration of their parameters, from noisy images alone.

The errors of :mod:`.learn` differ between restorers as those against the truth do. This is scikit-image's
``calibrate_denoiser`` for every restorer, with standard errors and for correlated noise as well.
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.scoring.scores import NoisyScores
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import with_settings
from napari_ensir.restorers.self_supervised.learn import blind_reference
from napari_ensir.settings import SweepSettings, settings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_ensir.restorers.base import AnyRestorer, Restorer
    from napari_ensir.settings import Setting


@dataclass(frozen=True)
class Sweep:
    """Errors of a restorer at several values of one of its parameters.

    Attributes
    ----------
    setting : str
    values : tuple of K values
    scores : NoisyScores
        Differences are relative to the value of least error.
    warnings : tuple of str
        Sentences about the noise that a reader needs to interpret the scores.
    limits : (lowest, highest)
        Limits of the parameter; None if it has none.
    """

    setting: str
    values: tuple[Any, ...]
    scores: NoisyScores
    warnings: tuple[str, ...] = ()
    limits: tuple[float | None, float | None] = (None, None)

    @property
    def best(self) -> Any:
        """The value of least error."""
        return self.values[self.scores.baseline]

    @property
    def differences(self) -> NDArray[np.float64]:
        """Mean squared error less that of the best value, (K,), squared intensity units."""
        return np.array([row.difference for row in self.scores.rows])

    @property
    def standard_errors(self) -> NDArray[np.float64]:
        """Standard errors of the differences, (K,); NaN if the image has one block."""
        return np.array([row.standard_error for row in self.scores.rows], np.float64)  # None becomes NaN

    @property
    def equivalent(self) -> tuple[Any, ...]:
        """The best value, and those that are not significantly worse."""
        base, worse = self.scores.baseline, self.scores.difference
        places = range(len(self.values))
        return tuple(self.values[n] for n in places if n == base or not worse(n).significant)

    def in_words(self) -> str:
        """Return one or two sentences about the best value and those that are not significantly worse."""
        title, best = self.setting.replace("_", " "), self.best
        if not self.differences.any():
            return f"The error is the same at every value of {title}."
        said = f"Least error at {title} {format_value(best)}"
        if others := [format_value(value) for value in self.equivalent if value != best]:
            said += f"; {', '.join(others)} {'is' if len(others) == 1 else 'are'} not significantly worse"
        said += "."
        numbers = all(isinstance(value, int | float) for value in self.values)
        if numbers and best in (min(self.values), max(self.values)) and best not in self.limits:
            said += f" This is an end of the range tried: values beyond {format_value(best)} may be better."
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        spread = [None if np.isnan(error) else float(error) for error in self.standard_errors]
        return {
            "setting": self.setting,
            "values": list(self.values),
            "differences": self.differences.tolist(),
            "standard_errors": spread,
            "best": self.best,
            "equivalent": list(self.equivalent),
        }


def rank_restorers(
    images: ArrayLike | Sequence[ArrayLike],
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None = None,
    **keywords: Any,
) -> NoisyScores:
    """Score restorers on noisy images without a ground truth.

    Parameters
    ----------
    images, restorers, names
        As for :func:`~napari_ensir.restorers.self_supervised.learn.learn_blind`.
    **keywords
        ``stride``, ``offsets``, ``channel_axis``, ``mask``, ``seed``, ``progress``: as for that function.

    Returns
    -------
    NoisyScores
        Differences of mean squared error to the average of the candidates; ``ranked`` has their indices in
        order of increasing error.

    Raises
    ------
    EnsembleError
        As :func:`~napari_ensir.restorers.self_supervised.learn.learn_blind`.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> rows, columns = np.mgrid[:60, :60]
    >>> noisy = 100 + rows + np.random.default_rng(0).normal(0, 9, rows.shape)
    >>> scores = rank_restorers(noisy, [Gaussian(sigma=2), Gaussian(sigma=0.5)], ("smooth", "sharp"))
    >>> [scores.names[place] for place in scores.ranked]
    ['smooth', 'average', 'sharp']
    """
    return blind_reference(images, restorers, names, **keywords).scores()


def calibrate_restorer(
    restorer: Restorer,
    setting: str,
    values: Sequence[Any],
    images: ArrayLike | Sequence[ArrayLike],
    **keywords: Any,
) -> Sweep:
    """Calibrate a parameter of a restorer on noisy images, without a ground truth.

    Parameters
    ----------
    restorer
        Any of :mod:`napari_ensir.restorers`; its other parameters are kept.
    setting : str
        Name of the parameter, such as ``"strength"``; see :func:`napari_ensir.settings.settings_of`.
    values : sequence
        Two values or more.
    images
        As for :func:`~napari_ensir.restorers.self_supervised.learn.learn_blind`.
    **keywords
        ``stride``, ``offsets``, ``channel_axis``, ``mask``, ``seed``, ``progress``: as for that function.

    Returns
    -------
    Sweep
        The ``best`` value, those that are not significantly worse (``equivalent``), and the curve of
        ``differences`` of mean squared error with their ``standard_errors``.

    Raises
    ------
    EnsembleError
        If the restorer has no such parameter, a value is invalid, there are fewer than two values, or as
        :func:`~napari_ensir.restorers.self_supervised.learn.learn_blind`.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> rows, columns = np.mgrid[:60, :60]
    >>> noisy = 100 + 30 * np.sin(rows / 5) + np.random.default_rng(0).normal(0, 9, rows.shape)
    >>> found = calibrate_restorer(Gaussian(), "sigma", [0.3, 1.2, 4.0], noisy)
    >>> found.best, found.differences.shape
    (1.2, (3,))
    """
    tried = tuple(values)
    if len(tried) < 2:
        raise EnsembleError(f"{len(tried)} value(s) of {setting} were given; give two or more to compare.")
    known = _settings_within(restorer)
    if setting not in known:
        raise EnsembleError(
            f"{restorer.name} has no parameter {setting!r}; it has: {', '.join(sorted(known)) or 'none'}."
        )
    reference = blind_reference(
        images,
        [with_settings(restorer, **{setting: value}) for value in tried],
        [f"{setting} {number + 1}" for number in range(len(tried))],
        visible=False,  # errors common to all values would be taken for noise
        **keywords,
    )
    blocks = reference.block_errors(average=False)
    low, high = reference.data_range
    names, roles = tuple(map(format_value, tried)), ("candidate",) * len(tried)
    least = int(np.argmin(blocks.sums.sum(axis=0)))
    scores = NoisyScores(names, blocks, high - low, "unknown", least, roles)
    limits = known[setting].minimum, known[setting].maximum
    return Sweep(setting, tried, scores, reference.warnings, limits)


def format_value(value: Any) -> str:
    """Format the value of a parameter.

    Examples
    --------
    >>> format_value(0.5), format_value(12), format_value("db2"), format_value(None)
    ('0.5', '12', 'db2', 'none')
    """
    return f"{value:.6g}" if isinstance(value, float) else "none" if value is None else str(value)


def _settings_within(restorer: Any) -> dict[str, Setting]:
    """Return the parameters of a restorer, and of the restorer that it wraps, by name."""
    if not is_dataclass(restorer):
        return {}
    return _settings_within(getattr(restorer, "restorer", None)) | {
        each.name: each for each in settings_of(restorer)
    }


REACH = 4.0
"""Default ratio of the ends of a parameter grid to its centre."""

_ELSEWHERE = ("tile", "overlap", "batch", "batch_size", "device")
"""Parameters that do not change the result."""


def tunable_settings(restorer: Restorer) -> tuple[Setting, ...]:
    """Return the parameters of a restorer that change its result.

    Parameters without a value, which the restorer estimates itself, come last.

    Parameters
    ----------
    restorer : Restorer
        A restorer that is no dataclass has no parameters.

    Returns
    -------
    tuple of Setting

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Wavelet
    >>> [each.name for each in tunable_settings(Wavelet())]
    ['spatial_ndim', 'hot_pixels', 'wavelet', 'method', 'noise']
    """
    known: tuple[Setting, ...] = settings_of(restorer) if is_dataclass(restorer) else ()
    found = [each for each in known if each.name not in _ELSEWHERE]
    return tuple(sorted(found, key=lambda each: getattr(restorer, each.name) in (None, each.word)))


def numeric_settings(restorer: Restorer) -> tuple[Setting, ...]:
    """Return the parameters of :func:`tunable_settings` that are numbers with three possible values or more.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import TotalVariation
    >>> [each.name for each in numeric_settings(TotalVariation())]
    ['strength', 'iterations', 'noise']
    """

    def has_many(each: Setting) -> bool:
        if each.kind != "integer" or each.minimum is None or each.maximum is None:
            return each.kind in ("number", "integer")
        return each.maximum - each.minimum >= 2 * (each.step or 1)

    return tuple(filter(has_many, tunable_settings(restorer)))


def default_grid_range(setting: Setting, now: Any) -> tuple[float, float]:
    """Return the ends of a grid around the present value of a parameter, within its limits.

    Parameters
    ----------
    setting : Setting
        A number.
    now
        The present value, or None.

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> from napari_ensir.restorers.classical import TotalVariation
    >>> default_grid_range(numeric_settings(TotalVariation())[0], 0.8)
    (0.2, 3.2)
    """
    least = setting.minimum if setting.minimum is not None and isfinite(setting.minimum) else 0.0
    step, more = setting.step or 1.0, SweepSettings.count - 1
    centre = float(now) if isinstance(now, int | float) and now else max(least, step)
    low, high = max(least, centre / REACH), centre * REACH
    if setting.kind == "integer":
        high = max(high, low + more * step)
    elif low <= 0:
        low, high = least, max(high, least + (more + 1) * step)
    return low, high if setting.maximum is None else min(high, setting.maximum)


def parameter_grid(setting: Setting, low: float, high: float, number: int) -> list[Any]:
    """Return a grid of values of a parameter, with equal ratios if all are positive, else equal steps.

    Parameters
    ----------
    setting : Setting
        A number.
    low, high : float
        Lowest and highest value.
    number : int
        Number of values; fewer if an integer parameter has fewer steps in the range.

    Returns
    -------
    list
        In increasing order.

    Raises
    ------
    EnsembleError
        If an end is outside the parameter's limits, or there are fewer than two values.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Median, TotalVariation
    >>> size, = (each for each in settings_of(Median) if each.name == "size")
    >>> parameter_grid(size, 1, 9, 4)
    [1, 3, 5, 9]
    >>> strength, = (each for each in settings_of(TotalVariation) if each.name == "strength")
    >>> parameter_grid(strength, 0.5, 2, 3)
    [0.5, 1.0, 2.0]
    """
    if not low < high:
        raise EnsembleError(
            f"the range of {setting.title} is from {low:g} to {high:g}; give the lower value first."
        )
    least, most = setting.minimum, setting.maximum
    for end in (low, high):
        if (least is not None and end < least) or (most is not None and end > most):
            raise setting.refusal(int(end) if setting.kind == "integer" and end == int(end) else end)
    spaced = np.geomspace(low, high, number) if low > 0 else np.linspace(low, high, number)
    if setting.kind == "integer":
        step, start = int(setting.step or 1), int(setting.minimum or 0)
        on_steps = [start + step * round((float(value) - start) / step) for value in spaced]
        found: list[Any] = sorted({value for value in on_steps if low <= value <= high})
    else:
        found = sorted({float(f"{value:.3g}") for value in spaced})
    if len(found) < 2:
        raise EnsembleError(
            f"{setting.title} has fewer than two values from {low:g} to {high:g}; give a wider range."
        )
    return [setting.checked(value) for value in found]
