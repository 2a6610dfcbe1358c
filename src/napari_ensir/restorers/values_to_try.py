"""Which of a restorer's settings can be tried, and which values of them. Tries none."""

from __future__ import annotations

from dataclasses import is_dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.settings import SweepSettings, settings_of

if TYPE_CHECKING:
    from napari_ensir.restorers.base import Restorer
    from napari_ensir.settings import Setting

__all__ = ["around", "numbers_to_try", "settings_to_try", "values_between"]

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
    ['spatial_ndim', 'wavelet', 'method', 'noise']
    """
    known: tuple[Setting, ...] = settings_of(restorer) if is_dataclass(restorer) else ()
    found = [each for each in known if each.name not in _ELSEWHERE]
    return tuple(sorted(found, key=lambda each: getattr(restorer, each.name) is None))


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
