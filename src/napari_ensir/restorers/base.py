"""What a restorer is, and what every restorer of this package does with intensities and axes."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from napari_ensir.ensemble.arrays.intensity_range import byte_range
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "AnyRestorer",
    "FunctionRestorer",
    "ImageRestorer",
    "Progress",
    "Restorer",
    "UnfamiliarImageWarning",
    "as_restorer",
    "check_image",
    "check_keeps_size",
    "data_range_of",
    "doubts_of",
    "enlarged_transform",
    "notes_in_words",
    "notes_of",
    "scale_of",
    "some_pixels",
    "times_between",
    "told_of",
    "unlike_warning",
    "with_channel_axis",
]


def scale_of(restorer: object) -> int | None:
    """How many times as many rows and columns a restorer makes; None: that shows once it is applied.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> scale_of(Gaussian())
    1
    """
    scale: int | None = getattr(restorer, "scale", 1)
    return scale


def times_between(before: Sequence[int], after: Sequence[int]) -> int | None:
    """How many times as many rows and columns, the last two axes, an image has; None: no whole number.

    Parameters
    ----------
    before, after
        Shapes of the image as it was and as it is.

    Examples
    --------
    >>> times_between((3, 16, 24), (3, 32, 48)), times_between((16, 24), (16, 24))
    (2, 1)
    >>> times_between((16, 24), (24, 16)) is None
    True
    """
    if len(before) != len(after) or len(before) < 2 or tuple(before[:-2]) != tuple(after[:-2]):
        return None
    times: int = after[-1] // max(before[-1], 1)
    return times if times >= 1 and [n * times for n in before[-2:]] == list(after[-2:]) else None


def check_keeps_size(
    restorer: Any, image: NDArray[Any] | None = None, restored: NDArray[Any] | None = None
) -> None:
    """Refuse a restorer that enlarges, where results have to lie on the image.

    Parameters
    ----------
    restorer
        Where its scale is known, it is refused before it has worked.
    image, restored
        Afterwards: what went in and what came out.

    Raises
    ------
    EnsembleError
        If it enlarges.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> check_keeps_size(Gaussian())
    """
    grown = image is not None and restored is not None and restored.size > image.size
    if grown or scale_of(restorer) not in (1, None):
        raise EnsembleError(
            f"{restorer.name} enlarges images; here what comes out has to lie on the image pixel by pixel: "
            "leave it out, or take a network that keeps the size."
        )


def enlarged_transform(
    scale: ArrayLike,
    translate: ArrayLike,
    factor: int | Sequence[int],
    linear: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where an enlarged image lies: the scale divided, the translation moved by what pixel centres moved.

    A pixel of the image, whose centre has the index i, becomes `factor` pixels with centres from
    i - 1/2 + 1/(2 factor) on. So the first centre moves by (1/factor - 1) / 2 pixels of the image.

    Parameters
    ----------
    scale, translate
        Of the image, shape (ndim,): world = linear @ (scale * index) + translate.
    factor
        How many times larger it became, along every axis or one for each (1: unchanged).
    linear
        Rotation and shear, shape (ndim, ndim); None: neither.

    Returns
    -------
    scale, translate
        Of the enlarged image, float64, shape (ndim,); `linear` stays what it is.

    Examples
    --------
    >>> scale, translate = enlarged_transform((1.0, 1.0), (0.0, 0.0), 2)
    >>> scale.tolist(), translate.tolist()
    ([0.5, 0.5], [-0.25, -0.25])
    """
    old = np.asarray(scale, np.float64)
    times = np.broadcast_to(np.asarray(factor, np.float64), old.shape)
    moved = old * (1 / times - 1) / 2
    if linear is not None:
        moved = np.asarray(linear, np.float64) @ moved
    return old / times, np.asarray(translate, np.float64) + moved


Progress = Callable[[int, int, str], object]
"""Called as ``progress(done, total, text)``: at the start with ``done = 0``, then after each piece
of work, in the thread that works. What it returns is ignored; what it raises stops the work and
passes through unchanged (:class:`napari_ensir.errors.Cancelled` by convention)."""


class UnfamiliarImageWarning(UserWarning):
    """An image is unlike those that a restorer was made for; see :meth:`ImageRestorer.doubts`."""


@runtime_checkable
class Restorer(Protocol):
    """A callable from a degraded image to a restored one, with a name.

    This is all that the rest of the package knows of it: any object of this shape will do. One that
    enlarges images says so by an attribute ``scale``; see :func:`.enlarging.scale_of`.
    """

    @property
    def name(self) -> str:
        """What to call the candidate that comes out."""

    def __call__(self, image: NDArray[Any], *, progress: Progress | None = None) -> NDArray[np.float32]:
        """Restore `image`; same shape (or larger, see above), same intensity units, float32.

        `image` is left as it is.
        """


AnyRestorer = Restorer | Callable[..., Any]
"""A restorer, or a plain function from an image to one of its shape; see :func:`as_restorer`."""


@dataclass(frozen=True)
class FunctionRestorer:
    """A plain function as a restorer.

    Attributes
    ----------
    function
        From an image to one of its shape, in the same intensity units.
    name : str
    """

    function: Callable[..., Any]
    name: str

    def __call__(self, image: ArrayLike, *, progress: Progress | None = None) -> NDArray[np.float32]:
        """See :class:`Restorer`; `progress` is called before and after."""
        progress = progress or _no_progress
        progress(0, 1, self.name)
        array = np.asarray(image).copy()  # a function that works in place leaves the image as it is
        restored = np.asarray(self.function(array), np.float32)
        progress(1, 1, self.name)
        return restored


def as_restorer(given: AnyRestorer) -> Restorer:
    """A restorer as it is; a plain function as one that carries its name.

    Raises
    ------
    EnsembleError
        If it cannot be called.

    Examples
    --------
    >>> as_restorer(np.abs).name
    'absolute'
    """
    if not callable(given):
        raise EnsembleError(f"{given!r} is no restorer; give a function from an image to one of its shape.")
    if isinstance(given, Restorer):
        return given
    return FunctionRestorer(given, str(getattr(given, "__name__", type(given).__name__)))


@dataclass(frozen=True, kw_only=True)
class ImageRestorer(ABC):
    """A restorer that works on intensities scaled to 0..1 with the channel axis first.

    A subclass says how to restore in :meth:`restore_unit`; this class checks the image, scales and
    moves axes on the way in, and undoes both on the way out. Values are never clipped.

    Parameters
    ----------
    channel_axis
        Axis of the colour channels, negative counts from the end; None: the image has none.
    data_range
        Intensities that become 0 and 1; None: the dtype's for 8-bit images, else the lowest and
        highest value of the image.
    """

    channel_axis: int | None = None
    data_range: tuple[float, float] | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call the candidate that comes out."""

    @property
    def scale(self) -> int | None:
        """How many times as many rows and columns come out; None: that shows once it is applied."""
        return 1

    def range_of(self, image: NDArray[Any]) -> tuple[float, float]:
        """Intensities of this image that become 0 and 1.

        Parameters
        ----------
        image : array

        Returns
        -------
        low, high : float
            In intensity units.

        Raises
        ------
        EnsembleError
            If ``data_range`` is given and no pair of finite numbers in rising order.
        """
        return data_range_of(image, self.data_range)

    def notes(self, image: NDArray[Any]) -> list[str]:
        """What of an image of this shape the restorer takes one by one. See :func:`.remarks.notes_in_words`.

        Parameters
        ----------
        image : array

        Returns
        -------
        list of str
            What follows "takes", such as "planes: the 2 of this image were restored one by one". Empty where
            there is nothing that one would not expect.
        """
        return []

    def doubts(self, image: NDArray[Any]) -> list[str]:
        """Sentences about an image that the restorer may not be made for; calling it warns of them.

        Parameters
        ----------
        image : array

        Returns
        -------
        list of str
            Empty where there is no doubt.
        """
        return []

    @abstractmethod
    def restore_unit(
        self, image: NDArray[np.float32], scale: float, progress: Progress
    ) -> NDArray[np.float32]:
        """Restore an image of shape (channels, ..., rows, columns) whose data range is 0..1.

        Parameters
        ----------
        image : (channels, ..., rows, columns) float32
            On the unit scale.
        scale : float
            Width of the data range: intensity units of the caller's image that are one here.
        progress
            Called with (done, total, text).

        Returns
        -------
        float32 array
            Of that shape, or of more rows and columns.
        """

    def __call__(self, image: ArrayLike, *, progress: Progress | None = None) -> NDArray[np.float32]:
        """Restore `image`.

        Parameters
        ----------
        image
            Any integer or float dtype, at least two dimensions beside the channel axis; anything
            `numpy.asarray` takes. It is not changed.
        progress
            See :data:`Progress`.

        Returns
        -------
        numpy.ndarray
            float32, the intensity units of `image` and its shape; of a restorer that enlarges, with
            :attr:`scale` times the rows and columns.

        Raises
        ------
        EnsembleError
            If the image cannot be used: the message says why.

        Warns
        -----
        UnfamiliarImageWarning
            If there are :meth:`doubts`.
        """
        checked = check_image(image, self.channel_axis)
        for doubt in self.doubts(checked):
            warnings.warn(doubt, UnfamiliarImageWarning, stacklevel=2)
        low, high = self.range_of(checked)
        # float64 for the subtraction: large integers with a small range would lose it in float32.
        unit = np.subtract(checked, low, dtype=np.float64)
        unit /= high - low
        axis = self.channel_axis
        unit = unit[np.newaxis] if axis is None else np.moveaxis(unit, axis, 0)
        restored = self.restore_unit(
            np.ascontiguousarray(unit, np.float32), high - low, progress or _no_progress
        )
        times = times_between(unit.shape, restored.shape)
        if times is None or times != (self.scale or times):
            raise EnsembleError(
                f"{self.name} turned an image of shape {unit.shape} (channels first) into {restored.shape}; "
                "a restorer has to keep the shape, or to enlarge rows and columns as many times as it says."
            )
        if not np.isfinite(restored).all():
            raise EnsembleError(f"{self.name} gave values that are not finite; change its parameters.")
        back = restored.astype(np.float64) * (high - low) + low
        back = back[0] if axis is None else np.moveaxis(back, 0, axis)
        return np.ascontiguousarray(back, np.float32)


def check_image(image: ArrayLike, channel_axis: int | None = None) -> NDArray[Any]:
    """The image as an array that can be restored.

    Parameters
    ----------
    image
        Anything `numpy.asarray` takes.
    channel_axis
        Axis of the colour channels, or None.

    Raises
    ------
    EnsembleError
        If it is empty, not of an integer or float dtype, has fewer than two dimensions beside the
        channel axis, or holds NaN or infinity.

    Examples
    --------
    >>> check_image([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    array = np.asarray(image)
    if array.dtype.kind not in "iuf":
        raise EnsembleError(f"the image has dtype {array.dtype}; an integer or float dtype is needed.")
    if array.size == 0:
        raise EnsembleError(f"the image is empty (shape {array.shape}).")
    if channel_axis is not None and not -array.ndim <= channel_axis < array.ndim:
        raise EnsembleError(f"channel axis {channel_axis} does not exist in an image of shape {array.shape}.")
    spatial = array.ndim - (channel_axis is not None)
    if spatial < 2:
        raise EnsembleError(
            f"the image has shape {array.shape}, which leaves {spatial} dimension(s) beside the channel "
            "axis; two or more are needed."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise EnsembleError("the image holds NaN or infinite values; replace them first.")
    return array


def data_range_of(image: NDArray[Any], given: tuple[float, float] | None = None) -> tuple[float, float]:
    """The lowest and highest intensity that the scale of an image spans.

    Parameters
    ----------
    image
        The image.
    given
        The range where it is known; it is then only checked.

    Returns
    -------
    low, high
        `given`, else the dtype's limits for 8-bit images, else the image's own extremes (one apart
        where the image is constant).

    Raises
    ------
    EnsembleError
        If `given` is not two finite numbers in rising order.

    Examples
    --------
    >>> data_range_of(np.zeros((2, 2), np.uint8))
    (0.0, 255.0)
    >>> data_range_of(np.array([[3.0, 5.0]]))
    (3.0, 5.0)
    """
    if given is not None:
        low, high = (float(value) for value in given)
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise EnsembleError(f"the data range {given} is not a pair of finite numbers, low before high.")
        return low, high
    if (limits := byte_range([image.dtype])) is not None:
        return limits
    low, high = float(image.min()), float(image.max())
    return low, high if high > low else low + 1.0


def with_channel_axis(restorer: Restorer, channel_axis: int | None) -> Restorer:
    """The same restorer for images whose channels lie along this axis; see :func:`with_settings`.

    Parameters
    ----------
    restorer : Restorer
    channel_axis : int or None
        None: the images have no channels.

    Returns
    -------
    Restorer
        A copy, where the restorer has a ``channel_axis``; else the restorer as it is.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> with_channel_axis(Gaussian(), -1).channel_axis
    -1
    """
    return with_settings(restorer, channel_axis=channel_axis)


def with_settings(restorer: Restorer, **settings: Any) -> Restorer:
    """The same restorer with these settings, as far as it has them.

    A restorer that is no dataclass comes back as it is; one that wraps another (``restorer``) has that
    changed as well.

    Examples
    --------
    >>> from napari_ensir.restorers import SelfEnsemble
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> with_settings(SelfEnsemble(restorer=Gaussian()), sigma=2.0, device="cpu").restorer.sigma
    2.0
    """
    if not is_dataclass(restorer) or isinstance(restorer, type):
        return restorer
    has = {each.name: getattr(restorer, each.name) for each in fields(restorer)}
    changes: dict[str, Any] = {name: value for name, value in settings.items() if name in has}
    if "restorer" in has:
        changes["restorer"] = with_settings(has["restorer"], **settings)
    changed: Restorer = replace(restorer, **changes)
    return changed


def _no_progress(done: int, total: int, text: str) -> None:
    pass


def notes_of(restorer: Restorer, image: NDArray[Any]) -> list[tuple[str, str]]:
    """What :meth:`ImageRestorer.notes` says, of a restorer that has it, each with the restorer's name.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir.restorers.classical import Median
    >>> notes_of(Median(), np.ones((2, 2)))
    []
    """
    tell = getattr(restorer, "notes", None)
    return [(restorer.name, note) for note in tell(image)] if callable(tell) else []


def notes_in_words(notes: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence for each note, of all restorers that have it together.

    Parameters
    ----------
    notes : pairs of (name, note)
        As of :func:`notes_of`, of any number of restorers and images.

    Returns
    -------
    list of str

    Examples
    --------
    >>> planes = "planes: the 2 of this image were restored one by one"
    >>> notes_in_words([("N2V", planes), ("CARE", planes), ("N2V", planes)])
    ['N2V and CARE take planes: the 2 of this image were restored one by one.']
    >>> notes_in_words([("N2V", planes)])
    ['N2V takes planes: the 2 of this image were restored one by one.']
    """
    having: dict[str, dict[str, None]] = {}
    for name, note in notes:
        having.setdefault(note, {})[name] = None
    return [
        f"{' and '.join(names)} {'takes' if len(names) == 1 else 'take'} {note}."
        for note, names in having.items()
    ]


def doubts_of(restorer: Restorer, image: NDArray[Any]) -> list[str]:
    """What :meth:`ImageRestorer.doubts` says, of a restorer that has it.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir.restorers.base import as_restorer
    >>> doubts_of(as_restorer(np.sqrt), np.ones((2, 2)))
    []
    """
    tell = getattr(restorer, "doubts", None)
    return list(tell(image)) if callable(tell) else []


def told_of(restorer: Restorer) -> dict[str, Any]:
    """What an output says of what made it: the restorer's name, its settings, and what it wraps.

    Examples
    --------
    >>> from napari_ensir.restorers import SelfEnsemble
    >>> from napari_ensir.restorers.classical import Median
    >>> told_of(SelfEnsemble(restorer=Median(size=5)))
    {'name': 'Median x8', 'restorer': {'name': 'Median', 'settings': {'spatial_ndim': 2, 'size': 5}}}
    """
    found: dict[str, Any] = {"name": restorer.name}
    if is_dataclass(restorer) and not isinstance(restorer, type):
        settings = {each.name: getattr(restorer, each.name) for each in settings_of(restorer)}
        found |= {"settings": settings} if settings else {}
    if isinstance(inner := getattr(restorer, "restorer", None), Restorer):
        found["restorer"] = told_of(inner)
    return found


_SOME = 2**20

MOST_CONTRAST = 4.0
"""How many times the image's contrast a restoration may have: sharpening does not come near it."""


def unlike_warning(name: str, image: ArrayLike, restored: ArrayLike) -> str:
    """A sentence about a restoration that has left its image's intensities; empty if it has not.

    A network that was trained on other intensities than it is given does so.

    Parameters
    ----------
    name
        What to call the restorer.
    image, restored
        Of any shapes, a plane of each will do; NaN counts for nothing.

    Examples
    --------
    >>> image = np.arange(256.0)
    >>> unlike_warning("mine", image, image + 20)
    ''
    >>> unlike_warning("mine", image, image * 255)[:51]
    'mine made intensities around 32512 (650.3 to 6.437e'
    """
    low, middle, high = np.nanpercentile(np.asarray(image, np.float64), (1, 50, 99))
    first, centre, last = np.nanpercentile(np.asarray(restored, np.float64), (1, 50, 99))
    contrast = high - low
    if contrast == 0 or (abs(centre - middle) <= contrast and last - first <= MOST_CONTRAST * contrast):
        return ""
    return (
        f"{name} made intensities around {centre:.5g} ({first:.4g} to {last:.4g}) of an image around "
        f"{middle:.5g} ({low:.4g} to {high:.4g}): was it trained on other intensities? They are among its "
        "settings."
    )


def some_pixels(image: NDArray[Any]) -> NDArray[Any]:
    """At most about a million pixels, evenly spread, to judge an image's intensities by.

    Parameters
    ----------
    image : array

    Returns
    -------
    array
        A view with as many axes.

    Examples
    --------
    >>> some_pixels(np.zeros((10, 4000, 3000))).shape
    (2, 800, 600)
    """
    step = max(int(np.ceil((image.size / _SOME) ** (1 / max(image.ndim, 1)))), 1)
    return image[(slice(None, None, step),) * image.ndim]
