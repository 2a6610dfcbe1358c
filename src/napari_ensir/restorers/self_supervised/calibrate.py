"""Which restorer, and which of its settings, is best on a noisy image, told from that image alone.

By predictions of hidden pixels (:mod:`.blind_pairs`), whose mean squared errors against the noisy pixels
differ as those against the truth do: what scikit-image's ``calibrate_denoiser`` does for a function, for
everything that can restore, with standard errors. Different restorers are judged by what they make of pixels
that they see as well. Learns no table.
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from napari_ensir.ensemble.scoring.scores import NoisyScores
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import with_settings
from napari_ensir.restorers.self_supervised.reference import Hiding, blind_reference
from napari_ensir.settings import SweepSettings, settings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_ensir.restorers.base import AnyRestorer, Restorer
    from napari_ensir.settings import Setting

__all__ = [
    "Sweep",
    "around",
    "numbers_to_try",
    "rank_restorers",
    "settings_to_try",
    "sweep_setting",
    "values_between",
]


@dataclass(frozen=True)
class Sweep:
    """How good a restorer is at some values of one of its settings.

    Attributes
    ----------
    setting : str
    values : tuple of K values
    scores : NoisyScores
        Differences are to the value of the least error.
    warnings : tuple of str
        What makes it doubtful, a sentence each.
    limits : (least, greatest)
        Of the setting; None: it has no such limit.
    """

    setting: str
    values: tuple[Any, ...]
    scores: NoisyScores
    warnings: tuple[str, ...] = ()
    limits: tuple[float | None, float | None] = (None, None)

    @property
    def best(self) -> Any:
        """The value of the least error."""
        return self.values[self.scores.baseline]

    @property
    def differences(self) -> NDArray[np.float64]:
        """Mean squared error less that of the best value, (K,), squared intensity units: a curve."""
        return np.array([row.difference for row in self.scores.rows])

    @property
    def standard_errors(self) -> NDArray[np.float64]:
        """Of the differences, (K,); NaN where the image has one block."""
        found = [row.standard_error for row in self.scores.rows]
        return np.array([np.nan if error is None else error for error in found])

    @property
    def alike(self) -> tuple[Any, ...]:
        """The values that may be as good as the best one, itself among them."""
        base = self.scores.baseline
        return tuple(
            value
            for place, value in enumerate(self.values)
            if place == base or not self.scores.difference(place).is_real
        )

    def in_words(self) -> str:
        """The best value, and which may be as good, in a sentence or two."""
        title, best = self.setting.replace("_", " "), self.best
        if not self.differences.any():
            return f"The error is the same at every value: {title} makes no difference here."
        others = [told(value) for value in self.alike if value != best]
        said = f"Least error at {title} {told(best)}"
        said += f"; {', '.join(others)} may be as good." if others else "."
        numbers = all(isinstance(value, int | float) for value in self.values)
        if numbers and best in (min(self.values), max(self.values)) and best not in self.limits:
            said += f" Nothing beyond {told(best)} was tried: there may be a better one."
        return said

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        spread = [None if np.isnan(error) else float(error) for error in self.standard_errors]
        return {
            "setting": self.setting,
            "values": list(self.values),
            "differences": self.differences.tolist(),
            "standard_errors": spread,
            "best": self.best,
            "alike": list(self.alike),
        }


def rank_restorers(
    images: ArrayLike | Sequence[ArrayLike],
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None = None,
    **hiding: Unpack[Hiding],
) -> NoisyScores:
    """Score restorers on noisy images without any truth.

    Parameters
    ----------
    images, restorers, names
        As for :func:`~napari_ensir.restorers.self_supervised.learn.learn_blind`.
    **hiding
        ``stride``, ``offsets``, ``channel_axis``, ``mask``, ``seed``, ``progress``: as for that, too.

    Returns
    -------
    NoisyScores
        Differences of mean squared error to the average of the candidates; ``ranked`` has their places, the
        best first.

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
    return blind_reference(images, restorers, names, **hiding).scores()


def sweep_setting(
    restorer: Restorer,
    setting: str,
    values: Sequence[Any],
    images: ArrayLike | Sequence[ArrayLike],
    **hiding: Unpack[Hiding],
) -> Sweep:
    """Try values of one setting of a restorer on noisy images, without any truth.

    Parameters
    ----------
    restorer
        Any of :mod:`napari_ensir.restorers`, with its other settings.
    setting : str
        Its name, such as ``"strength"``; see :func:`napari_ensir.settings.settings_of`.
    values : sequence
        Two or more.
    images
        As for :func:`~napari_ensir.restorers.self_supervised.learn.learn_blind`.
    **hiding
        ``stride``, ``offsets``, ``channel_axis``, ``mask``, ``seed``, ``progress``: as for that, too.

    Returns
    -------
    Sweep
        Its ``best`` value, those that may be as good (``alike``), and a curve: ``differences`` of the mean
        squared error, with ``standard_errors``.

    Raises
    ------
    EnsembleError
        If the restorer has no such setting, a value cannot be one, there are fewer than two, or as
        :func:`~napari_ensir.restorers.self_supervised.learn.learn_blind`.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> rows, columns = np.mgrid[:60, :60]
    >>> noisy = 100 + 30 * np.sin(rows / 5) + np.random.default_rng(0).normal(0, 9, rows.shape)
    >>> found = sweep_setting(Gaussian(), "sigma", [0.3, 1.2, 4.0], noisy)
    >>> found.best, found.differences.shape
    (1.2, (3,))
    """
    tried = tuple(values)
    if len(tried) < 2:
        raise EnsembleError(f"{len(tried)} value(s) of {setting} were given; give two or more to compare.")
    known = _settings_within(restorer)
    if setting not in known:
        raise EnsembleError(
            f"{restorer.name} has no setting {setting!r}; it has: {', '.join(sorted(known)) or 'none'}."
        )
    reference = blind_reference(
        images,
        [with_settings(restorer, **{setting: value}) for value in tried],
        [f"{setting} {number + 1}" for number in range(len(tried))],
        seen=False,  # values of one setting miss the same things, which then seem to be noise
        **hiding,
    )
    blocks = reference.block_errors(average=False)
    low, high = reference.data_range
    names, roles = tuple(map(told, tried)), ("candidate",) * len(tried)
    least = int(np.argmin(blocks.sums.sum(axis=0)))
    scores = NoisyScores(names, blocks, high - low, "unknown", least, roles)
    limits = known[setting].minimum, known[setting].maximum
    return Sweep(setting, tried, scores, reference.warnings, limits)


def told(value: Any) -> str:
    """A value of a setting, as short as can be.

    Examples
    --------
    >>> told(0.5), told(12), told("db2"), told(None)
    ('0.5', '12', 'db2', 'none')
    """
    return f"{value:.6g}" if isinstance(value, float) else "none" if value is None else str(value)


def _settings_within(restorer: Any) -> dict[str, Setting]:
    """A restorer's settings by name, and those of the restorer that it wraps."""
    if not is_dataclass(restorer):
        return {}
    return _settings_within(getattr(restorer, "restorer", None)) | {
        each.name: each for each in settings_of(restorer)
    }


REACH = 4.0
"""From a value to how many times less and more of it is tried where nothing is said."""

_ELSEWHERE = ("tile", "overlap", "batch", "batch_size", "device")
"""What a restorer computes by, and not what it makes."""


def settings_to_try(restorer: Restorer) -> tuple[Setting, ...]:
    """The settings of a restorer that change what it makes.

    Those that have a value come first: what is estimated unless it is set is seldom what one looks for.

    Parameters
    ----------
    restorer : Restorer
        One that is no dataclass has none.

    Returns
    -------
    tuple of Setting

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Wavelet
    >>> [each.name for each in settings_to_try(Wavelet())]
    ['spatial_ndim', 'hot_pixels', 'wavelet', 'method', 'noise']
    """
    known: tuple[Setting, ...] = settings_of(restorer) if is_dataclass(restorer) else ()
    found = [each for each in known if each.name not in _ELSEWHERE]
    return tuple(sorted(found, key=lambda each: getattr(restorer, each.name) in (None, each.word)))


def numbers_to_try(restorer: Restorer) -> tuple[Setting, ...]:
    """Those of :func:`settings_to_try` that are numbers, with three values or more to choose from.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import TotalVariation
    >>> [each.name for each in numbers_to_try(TotalVariation())]
    ['strength', 'iterations', 'noise']
    """
    return tuple(each for each in settings_to_try(restorer) if _has_many(each))


def _has_many(setting: Setting) -> bool:
    if setting.kind not in ("number", "integer"):
        return False
    if setting.kind == "number" or setting.minimum is None or setting.maximum is None:
        return True
    return setting.maximum - setting.minimum >= 2 * (setting.step or 1)


def around(setting: Setting, now: Any) -> tuple[float, float]:
    """The least and the greatest value to try around one, within the limits.

    Parameters
    ----------
    setting : Setting
        A number.
    now
        The value that is set; None: there is none.

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> from napari_ensir.restorers.classical import TotalVariation
    >>> around(numbers_to_try(TotalVariation())[0], 0.8)
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


def values_between(setting: Setting, low: float, high: float, number: int) -> list[Any]:
    """Values of a setting, evenly spaced by ratio where all are above zero, on its steps if it is whole.

    Parameters
    ----------
    setting : Setting
        A number.
    low, high : float
        The least and the greatest value.
    number : int
        How many; fewer where so many steps are not there.

    Returns
    -------
    list
        Rising.

    Raises
    ------
    EnsembleError
        If an end is outside the setting's limits, or there are fewer than two values.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Median, TotalVariation
    >>> size, = (each for each in settings_of(Median) if each.name == "size")
    >>> values_between(size, 1, 9, 4)
    [1, 3, 5, 9]
    >>> strength, = (each for each in settings_of(TotalVariation) if each.name == "strength")
    >>> values_between(strength, 0.5, 2, 3)
    [0.5, 1.0, 2.0]
    """
    if not low < high:
        raise EnsembleError(f"{setting.title} is to go from {low:g} to {high:g}; give the lower value first.")
    least, most = setting.minimum, setting.maximum
    for end in (low, high):  # steps could lie within the limits where an end does not
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
            f"{setting.title} has fewer than two values from {low:g} to {high:g}; go further."
        )
    return [setting.checked(value) for value in found]
