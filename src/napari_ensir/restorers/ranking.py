"""Which restorer, and which of its settings, is best on a noisy image, told from that image alone.

By predictions of hidden pixels (:mod:`.blind_pairs`), whose mean squared errors against the noisy pixels
differ as those against the truth do: what scikit-image's ``calibrate_denoiser`` does for a function, for
everything that can restore, with standard errors. Different restorers are judged by what they make of pixels
that they see as well. Learns no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from napari_ensir.ensemble.noisy_scores import NoisyScores
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import with_settings
from napari_ensir.restorers.blind_pairs import Hiding, blind_reference
from napari_ensir.settings import settings_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from napari_ensir.restorers.base import AnyRestorer, Restorer
    from napari_ensir.settings import Setting

__all__ = ["Sweep", "rank_restorers", "sweep_setting"]


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
        As for :func:`~napari_ensir.restorers.blind.learn_blind`.
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
        As :func:`~napari_ensir.restorers.blind.learn_blind`.

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
        As for :func:`~napari_ensir.restorers.blind.learn_blind`.
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
        :func:`~napari_ensir.restorers.blind.learn_blind`.

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
