"""Protocol and base class of restorers, and functions that work on any restorer."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from napari_ensir.ensemble.arrays.intensity_range import byte_range
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import Setting, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    FloatImage = NDArray[np.float32]

MAX_CONTRAST_RATIO = 4.0
"""Ratio of the contrasts of restoration and image above which to warn; sharpening is far below."""

_MAX_SAMPLE = 2**20

_RANGE = Setting("data range", "", "", None, "range")

Progress = Callable[[int, int, str], object]
"""Progress callback, called as ``progress(done, total, text)``.

It is called with ``done = 0`` at the start and then after each step, in the thread that does the work. Its
return value is ignored. An exception that it raises stops the work and propagates unchanged; by convention it
is :class:`napari_ensir.errors.Cancelled`."""


class UnfamiliarImageWarning(UserWarning):
    """The image may be unsuitable for the restorer; see :meth:`ImageRestorer.input_warnings`."""


@runtime_checkable
class Restorer(Protocol):
    """A callable with a name that maps a degraded image to a restored one.

    This is all that the package requires of a restorer. A restorer that enlarges images also has an attribute
    ``scale``; see :func:`scale_of`.
    """

    @property
    def name(self) -> str:
        """Name of the candidate that the restorer produces."""

    def __call__(self, image: NDArray[Any], *, progress: Progress | None = None) -> FloatImage:
        """Return the restored image: float32, same intensity units and, unless enlarged, same shape.

        `image` is not modified.
        """


AnyRestorer = Restorer | Callable[..., Any]
"""A restorer, or a function that maps an image to one of the same shape; see :func:`as_restorer`."""


@dataclass(frozen=True)
class FunctionRestorer:
    """A restorer that calls a function.

    Attributes
    ----------
    function
        Maps an image to one of the same shape, in the same intensity units.
    name : str
    """

    function: Callable[..., Any]
    name: str

    def __call__(self, image: ArrayLike, *, progress: Progress | None = None) -> FloatImage:
        """Restore an image; see :class:`Restorer`. `progress` is called before and after."""
        progress = progress or no_progress
        progress(0, 1, self.name)
        array = np.asarray(image).copy()  # the function may modify its argument
        restored = np.asarray(self.function(array), np.float32)
        progress(1, 1, self.name)
        return restored


def as_restorer(given: AnyRestorer) -> Restorer:
    """Convert a function to a restorer with the function's name; return a restorer unchanged.

    Raises
    ------
    EnsembleError
        If `given` is not callable.

    Examples
    --------
    >>> as_restorer(np.abs).name
    'absolute'
    """
    if not callable(given):
        raise EnsembleError(
            f"{given!r} is not a restorer; give a function that maps an image to one of the same shape."
        )
    if isinstance(given, Restorer):
        return given
    return FunctionRestorer(given, str(getattr(given, "__name__", type(given).__name__)))


@dataclass(frozen=True, kw_only=True)
class ImageRestorer(ABC):
    """Base class of restorers that work on intensities scaled to 0..1, with the channel axis first.

    A subclass implements :meth:`restore_unit`. This class checks the image, scales its intensities and moves
    its channel axis, and reverses both afterwards. Values are never clipped.

    Parameters
    ----------
    channel_axis
        Axis of the colour channels; negative values count from the end. None: the image has no channels.
    data_range
        Intensities that are mapped to 0 and 1. None: the limits of the dtype for 8-bit images, else the
        lowest and highest value of the image.
    """

    title: ClassVar[str] = ""

    channel_axis: int | None = None
    data_range: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """Name of the candidate that the restorer produces; the title of the class."""
        return self.title

    @property
    def scale(self) -> int | None:
        """Factor by which rows and columns are enlarged; None if it is known only after restoring."""
        return 1

    def range_of(self, image: NDArray[Any]) -> tuple[float, float]:
        """Return the intensities of this image that are mapped to 0 and 1.

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
            If ``data_range`` is given and is not a pair of finite, increasing numbers.
        """
        return data_range_of(image, self.data_range)

    def notes(self, image: NDArray[Any]) -> list[str]:
        """Describe special treatment of this image, for :func:`format_notes`.

        Parameters
        ----------
        image : array

        Returns
        -------
        list of str
            Predicates such as "restored the 2 planes of this image one by one"; often empty.
        """
        return []

    def input_warnings(self, image: NDArray[Any]) -> list[str]:
        """Return the reasons why the restorer may not suit this image, as sentences.

        Calling the restorer issues them as warnings.

        Parameters
        ----------
        image : array

        Returns
        -------
        list of str
            Empty if nothing is wrong.
        """
        return []

    @abstractmethod
    def restore_unit(self, image: FloatImage, scale: float, progress: Progress) -> FloatImage:
        """Restore an image of shape (channels, ..., rows, columns) whose data range is 0..1.

        Parameters
        ----------
        image : (channels, ..., rows, columns) float32
            On the unit scale.
        scale : float
            Width of the data range in intensity units.
        progress
            Called with (done, total, text).

        Returns
        -------
        float32 array
            Of the same shape, or with enlarged rows and columns.
        """

    def __call__(self, image: ArrayLike, *, progress: Progress | None = None) -> FloatImage:
        """Restore `image`.

        Parameters
        ----------
        image
            Anything that `numpy.asarray` accepts, of any integer or float dtype and at least two dimensions
            besides the channel axis. It is not modified.
        progress
            See :data:`Progress`.

        Returns
        -------
        numpy.ndarray
            float32, in the intensity units of `image`, with its shape or :attr:`scale` times its rows and
            columns.

        Raises
        ------
        EnsembleError
            If the image is invalid; the message states the reason.

        Warns
        -----
        UnfamiliarImageWarning
            If there are :meth:`input_warnings`.
        """
        checked = check_image(image, self.channel_axis)
        for sentence in self.input_warnings(checked):
            warnings.warn(sentence, UnfamiliarImageWarning, stacklevel=2)
        low, high = self.range_of(checked)
        # Subtract in float64: float32 cannot resolve a small range of large integers.
        unit = np.subtract(checked, low, dtype=np.float64)
        unit /= high - low
        axis = self.channel_axis
        unit = np.ascontiguousarray(channels_first(unit, axis), np.float32)
        restored = self.restore_unit(unit, high - low, progress or no_progress)
        factor = enlargement_factor(unit.shape, restored.shape)
        if factor is None or factor != (self.scale or factor):
            raise EnsembleError(
                f"{self.name} turned an image of shape {unit.shape} (channels first) into {restored.shape}; "
                "a restorer has to keep the shape or multiply rows and columns by its scale."
            )
        if not np.isfinite(restored).all():
            raise EnsembleError(f"{self.name} gave values that are not finite; change its parameters.")
        back = restored.astype(np.float64) * (high - low) + low
        back = back[0] if axis is None else np.moveaxis(back, 0, axis)
        return np.ascontiguousarray(back, np.float32)


def channels_first(image: NDArray[Any], channel_axis: int | None) -> NDArray[Any]:
    """Return a view of an image with its channels along the first axis, which has length 1 without channels.

    Examples
    --------
    >>> channels_first(np.zeros((8, 9, 3)), -1).shape, channels_first(np.zeros((8, 9)), None).shape
    ((3, 8, 9), (1, 8, 9))
    """
    return image[np.newaxis] if channel_axis is None else np.moveaxis(image, channel_axis, 0)


def check_image(image: ArrayLike, channel_axis: int | None = None) -> NDArray[Any]:
    """Return the image as an array, if it can be restored.

    Parameters
    ----------
    image
        Anything that `numpy.asarray` accepts.
    channel_axis
        Axis of the colour channels, or None.

    Raises
    ------
    EnsembleError
        If the image is empty, has a dtype other than integer or float, has fewer than two dimensions besides
        the channel axis, or contains NaN or infinity.

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
        raise EnsembleError("the image contains NaN or infinite values; replace them first.")
    return array


def data_range_of(image: NDArray[Any], given: tuple[float, float] | None = None) -> tuple[float, float]:
    """Return the intensity range by which an image is scaled.

    Parameters
    ----------
    image
        The image.
    given
        The range, if known; it is checked and returned.

    Returns
    -------
    low, high
        `given` if it is not None; the limits of the dtype for 8-bit images; else the minimum and maximum of
        the image. For a constant image, `high` is `low` + 1.

    Raises
    ------
    EnsembleError
        If `given` is not a pair of finite, increasing numbers.

    Examples
    --------
    >>> data_range_of(np.zeros((2, 2), np.uint8))
    (0.0, 255.0)
    >>> data_range_of(np.array([[3.0, 5.0]]))
    (3.0, 5.0)
    """
    if given is not None:
        return check_range(given)
    low, high = byte_range([image.dtype]) or (float(image.min()), float(image.max()))
    return low, high if high > low else low + 1.0


def check_range(given: Any) -> tuple[float, float]:
    """Return a data range as floats; EnsembleError if it is not a pair of finite, increasing numbers."""
    low, high = _RANGE.checked(given)
    return low, high


def scale_of(restorer: object) -> int | None:
    """Return the factor by which a restorer enlarges rows and columns; None if known only after restoring.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> scale_of(Gaussian())
    1
    """
    scale: int | None = getattr(restorer, "scale", 1)
    return scale


def enlargement_factor(before: Sequence[int], after: Sequence[int]) -> int | None:
    """Return the integer factor between the last two axes of two shapes; None if there is no such factor.

    Parameters
    ----------
    before, after
        Shapes of the image before and after.

    Examples
    --------
    >>> enlargement_factor((3, 16, 24), (3, 32, 48)), enlargement_factor((16, 24), (16, 24))
    (2, 1)
    >>> enlargement_factor((16, 24), (24, 16)) is None
    True
    """
    if len(before) < 2 or not after:
        return None
    factor: int = after[-1] // max(before[-1], 1)
    fits = [*before[:-2], *(n * factor for n in before[-2:])] == list(after)
    return factor if fits and factor >= 1 else None


def check_keeps_size(
    restorer: Any, image: NDArray[Any] | None = None, restored: NDArray[Any] | None = None
) -> None:
    """Check that a restorer does not enlarge images.

    Parameters
    ----------
    restorer
        Checked by its scale, if that is known.
    image, restored
        Its input and result, if it has been called.

    Raises
    ------
    EnsembleError
        If the restorer enlarges images.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> check_keeps_size(Gaussian())
    """
    grown = image is not None and restored is not None and restored.size > image.size
    if grown or scale_of(restorer) not in (1, None):
        raise EnsembleError(
            f"{restorer.name} enlarges images, but here results need the size of the image; leave it out, or "
            "use a network that keeps the size."
        )


def enlarged_transform(
    scale: ArrayLike,
    translate: ArrayLike,
    factor: int | Sequence[int],
    linear: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scale and translation of an enlarged image that covers the same region.

    The pixel with index i becomes `factor` pixels, the first of which has its centre at
    i - 1/2 + 1/(2 factor). The first centre therefore moves by (1/factor - 1) / 2 pixels of the image.

    Parameters
    ----------
    scale, translate
        Of the image, shape (ndim,): world = linear @ (scale * index) + translate.
    factor
        Enlargement along all axes, or one for each (1: unchanged).
    linear
        Rotation and shear, shape (ndim, ndim), the same for both images; None: the identity.

    Returns
    -------
    scale, translate
        Of the enlarged image, float64, shape (ndim,).

    Examples
    --------
    >>> scale, translate = enlarged_transform((1.0, 1.0), (0.0, 0.0), 2)
    >>> scale.tolist(), translate.tolist()
    ([0.5, 0.5], [-0.25, -0.25])
    """
    old = np.asarray(scale, np.float64)
    factors = np.broadcast_to(np.asarray(factor, np.float64), old.shape)
    shift = old * (1 / factors - 1) / 2
    if linear is not None:
        shift = np.asarray(linear, np.float64) @ shift
    return old / factors, np.asarray(translate, np.float64) + shift


def with_channel_axis(restorer: Restorer, channel_axis: int | None) -> Restorer:
    """Return a copy of a restorer for images with this channel axis; see :func:`with_settings`.

    Parameters
    ----------
    restorer : Restorer
    channel_axis : int or None
        None: the images have no channels.

    Returns
    -------
    Restorer
        The restorer itself if it has no ``channel_axis``.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> with_channel_axis(Gaussian(), -1).channel_axis
    -1
    """
    return with_settings(restorer, channel_axis=channel_axis)


def with_settings(restorer: Restorer, **settings: Any) -> Restorer:
    """Return a copy of a restorer with these settings; unknown settings are ignored.

    The settings also apply to a wrapped restorer (attribute ``restorer``). A restorer that is not a dataclass
    is returned unchanged.

    Examples
    --------
    >>> from napari_ensir.restorers import SelfEnsemble
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> with_settings(SelfEnsemble(restorer=Gaussian()), sigma=2.0, device="cpu").restorer.sigma
    2.0
    """
    if not is_dataclass(restorer) or isinstance(restorer, type):
        return restorer
    present = {each.name: getattr(restorer, each.name) for each in fields(restorer)}
    changes: dict[str, Any] = {name: value for name, value in settings.items() if name in present}
    if "restorer" in present:
        changes["restorer"] = with_settings(present["restorer"], **settings)
    changed: Restorer = replace(restorer, **changes)
    return changed


PARTS = ("ir", "denoiser")
"""Fields of DP-IR that hold restorers."""


def takes_noise(restorer: Restorer) -> bool:
    """Whether a restorer has a setting ``noise``, or is a network that may take a level of noise.

    Whether it does is found by :func:`napari_ensir.restorers.training.dp_ir.denoising_function`.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian, Wavelet
    >>> takes_noise(Wavelet()), takes_noise(Gaussian())
    (True, False)
    """
    has_setting = "noise" in getattr(restorer, "__dataclass_fields__", ())
    return has_setting or callable(getattr(restorer, "network", None))


def trained_on(
    restorer: Restorer, images: Sequence[NDArray[Any]], progress: Progress | None = None
) -> Restorer:
    """Train a restorer on the images that it will restore, if it learns from them; else return it unchanged.

    A wrapped restorer (attribute ``restorer``) is trained too. Such a restorer has a method ``trained_on``;
    see :class:`napari_ensir.restorers.methods.Noise2VoidFromImage`.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> trained_on(Gaussian(), []) == Gaussian()
    True
    """
    inner = getattr(restorer, "restorer", None)
    if inner is not None and is_dataclass(restorer) and not isinstance(restorer, type):
        wrapped: Restorer = replace(restorer, restorer=trained_on(inner, images, progress))  # type: ignore[call-arg]
        return wrapped
    method = getattr(restorer, "trained_on", None)
    return method(images, progress) if callable(method) else restorer


def learns_from_images(restorer: Restorer) -> bool:
    """Whether a restorer, or the one that it wraps, is still to be trained on images; see :func:`trained_on`.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> learns_from_images(Gaussian())
    False
    """
    inner = getattr(restorer, "restorer", restorer)
    return callable(getattr(inner, "trained_on", None)) and getattr(inner, "network", None) is None


def restorer_record(restorer: Restorer) -> dict[str, Any]:
    """Return the record of a restorer that is saved with its results: name, settings and inner restorers.

    Examples
    --------
    >>> from napari_ensir.restorers import SelfEnsemble
    >>> from napari_ensir.restorers.classical import Median
    >>> restorer_record(SelfEnsemble(restorer=Median(size=5)))["restorer"]["settings"]["size"]
    5
    """
    record: dict[str, Any] = {"name": restorer.name}
    known: tuple[Setting, ...] = settings_of(restorer) if is_dataclass(restorer) else ()
    if settings := {each.name: getattr(restorer, each.name) for each in known}:
        record["settings"] = settings
    for name in ("restorer", *PARTS):
        if isinstance(inner := getattr(restorer, name, None), Restorer):
            record[name] = restorer_record(inner)
    return record


def notes_of(restorer: Restorer, image: NDArray[Any]) -> list[tuple[str, str]]:
    """Return (name, note) for each note from :meth:`ImageRestorer.notes`; empty without that method.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Median
    >>> notes_of(Median(), np.ones((8, 8)))
    []
    """
    notes = getattr(restorer, "notes", None)
    return [(restorer.name, note) for note in notes(image)] if callable(notes) else []


def format_notes(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Return one sentence for each distinct note, with the names of all restorers that have it.

    Parameters
    ----------
    notes : pairs of (name, note)
        As returned by :func:`notes_of`, from any number of restorers and images.

    Returns
    -------
    list of str

    Examples
    --------
    >>> planes = "restored the 2 planes of this image one by one"
    >>> format_notes([("N2V", planes), ("CARE", planes), ("N2V", planes)])
    ['N2V and CARE restored the 2 planes of this image one by one.']
    """
    names: dict[str, dict[str, None]] = {}
    for name, note in notes:
        names.setdefault(note, {})[name] = None
    return [f"{' and '.join(having)} {note}." for note, having in names.items()]


def input_warnings_of(restorer: Restorer, image: NDArray[Any]) -> list[str]:
    """Return the result of :meth:`ImageRestorer.input_warnings`; empty without that method.

    Examples
    --------
    >>> input_warnings_of(as_restorer(np.sqrt), np.ones((2, 2)))
    []
    """
    method = getattr(restorer, "input_warnings", None)
    return list(method(image)) if callable(method) else []


def warnings_of(restorer: Restorer, image: NDArray[Any], restored: NDArray[Any]) -> list[str]:
    """Return the warnings about an image and its restoration; of the latter only if there are no others.

    See :func:`input_warnings_of` and :func:`intensity_warning`.

    Examples
    --------
    >>> from napari_ensir.restorers.classical import Median
    >>> image = np.arange(64.0).reshape(8, 8)
    >>> len(warnings_of(Median(), image, image)), len(warnings_of(Median(), image, 255 * image))
    (0, 1)
    """
    found = input_warnings_of(restorer, image) or [
        intensity_warning(restorer.name, sample_block(image), sample_block(restored))
    ]
    return [each for each in found if each]


def intensity_warning(name: str, image: ArrayLike, restored: ArrayLike) -> str:
    """Return a warning if the intensities of a restoration differ grossly from its image, else "".

    A common cause is a network that was trained on other intensities.

    Parameters
    ----------
    name
        Name of the restorer.
    image, restored
        Arrays of any shape; one plane of each suffices. NaN is ignored.

    Examples
    --------
    >>> image = np.arange(256.0)
    >>> intensity_warning("mine", image, image + 20)
    ''
    >>> intensity_warning("mine", image, image * 255)[:51]
    'mine: the restoration has intensities around 32512 '
    """
    low, middle, high = np.nanpercentile(np.asarray(image, np.float64), (1, 50, 99))
    first, centre, last = np.nanpercentile(np.asarray(restored, np.float64), (1, 50, 99))
    contrast = high - low
    if contrast == 0 or (abs(centre - middle) <= contrast and last - first <= MAX_CONTRAST_RATIO * contrast):
        return ""
    return (
        f"{name}: the restoration has intensities around {centre:.5g} ({first:.4g} to {last:.4g}), but the "
        f"image has intensities around {middle:.5g} ({low:.4g} to {high:.4g}); if a network was trained on "
        "other intensities, change them in its settings."
    )


def sample_block(image: NDArray[Any]) -> NDArray[Any]:
    """Return a view of at most about a million pixels, evenly spaced along every axis.

    Parameters
    ----------
    image : array

    Returns
    -------
    array
        With the same number of axes.

    Examples
    --------
    >>> sample_block(np.zeros((10, 4000, 3000))).shape
    (2, 800, 600)
    """
    step = max(int(np.ceil((image.size / _MAX_SAMPLE) ** (1 / max(image.ndim, 1)))), 1)
    return image[(slice(None, None, step),) * image.ndim]


def no_progress(done: int, total: int, text: str) -> None:
    """Ignore the progress; see :data:`Progress`."""
