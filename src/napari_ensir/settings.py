"""Settings of fits, comparisons, restorers and training, shared by Python, command line and viewer."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from napari_ensir.devices import DEVICES
from napari_ensir.errors import EnsembleError

METHODS = {
    "em": ("EM (paper)", "Gaussian mixture per bin set by expectation-maximisation, as in the EnsIR paper"),
    "em-released": ("EM (released code)", "EM as implemented in the code released by the EnsIR authors"),
    "least-squares": (
        "Least squares",
        "Smallest squared error per bin set, shrunk toward the global one; the most accurate in benchmarks",
    ),
}
"""Title and description of each method by its key."""

SHRINKAGE = 1000.0
"""Default shrinkage, in pixels."""

TINY = 5e-324
"""Smallest positive float; as a ``minimum`` it means "above 0"."""


class Kind(NamedTuple):
    """Kind of the values of a setting.

    Attributes
    ----------
    annotation : str
        Type in the annotation of a field.
    description : str
    convert : callable
        Returns a value as this kind, or raises an error.
    metavar : str
        Word for a value in the help of the command line.
    parse : callable
        Reads a value from text, or raises ValueError or KeyError.
    """

    annotation: str
    description: str
    convert: Callable[[Any], Any]
    metavar: str
    parse: Callable[[str], Any] = str


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, (bool, str)) or not math.isfinite(found := float(value)):
        raise TypeError
    return found


def _flag(value: Any) -> bool:
    # numpy.bool_ is not a subclass of bool.
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
        raise TypeError
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _tuple_of(convert: Callable[[Any], Any], is_valid: Callable[..., bool]) -> Callable[[Any], Any]:
    def converted(values: Any) -> tuple[Any, ...]:
        found = tuple(convert(each) for each in values)
        if not is_valid(*found):
            raise ValueError
        return found

    return converted


def _split(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: tuple(parse(part) for part in text.split(","))


_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

KINDS = {
    "range": Kind(
        "tuple[float, float]",
        "two finite numbers, the lower first",
        _tuple_of(_real, lambda low, high: low < high),
        "LOW HIGH",
        _split(float),
    ),
    "places": Kind(
        "tuple[int, int]",
        "two whole numbers from 0, the first and the last",
        _tuple_of(_whole, lambda first, last: 0 <= first <= last),
        "FIRST LAST",
        _split(int),
    ),
    "numbers": Kind(
        "Sequence[float]",
        "numbers that are not negative, one for each candidate, not all zero",
        _tuple_of(_real, lambda *found: min(found) >= 0 and max(found) > 0),
        "NUMBER,NUMBER,...",
        _split(float),
    ),
    "flag": Kind("bool", "True or False", _flag, "true|false", lambda text: _FLAGS[text.lower()]),
    "number": Kind("float", "a number", _real, "NUMBER", float),
    "integer": Kind("int", "a whole number", _whole, "N", int),
    "text": Kind("str", "text", _text, "TEXT"),
    "choice": Kind("", "", lambda value: value, ""),
}
"""The kinds of settings; a kind is derived from the annotation and the choices."""


@dataclass(frozen=True)
class Setting:
    """Describe one setting: its name, its texts, its kind and its limits.

    Attributes
    ----------
    name : str
        Keyword argument in Python; the command line and the viewer use the same name.
    title, description : str
        Label, and one sentence.
    default : Any
    kind : str
        A key of :data:`KINDS`.
    minimum, maximum : float or None
        Limits, both allowed.
    step : float or None
        Increment of a spin box.
    choices : mapping of value to (title, sentence), or None
    none : str or None
        Meaning of None; None if the setting needs a value.
    auto : str or None
        Meaning of ``word``; None if no word is allowed.
    word : str
        Word that can be given instead of a value.
    unit : str
        Unit of the value.
    others : bool
        Whether values besides the ``choices`` are allowed.
    group : str
        Section of the help and of the panel; ``""`` for the main one.
    """

    name: str
    title: str
    description: str
    default: Any
    kind: str
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: Mapping[Any, tuple[str, str]] | None = None
    none: str | None = None
    auto: str | None = None
    word: str = "auto"
    unit: str = ""
    others: bool = False
    group: str = ""

    def checked(self, value: Any) -> Any:
        """Return the value converted to the setting's type.

        Raises
        ------
        EnsembleError
            If the value is of another kind or outside the limits; the message says what is allowed.

        Examples
        --------
        >>> width = Setting("width", "Width", "Of a bin.", None, "number", minimum=TINY, none="an eighth")
        >>> width.checked(16), width.checked(None)
        (16.0, None)
        >>> width.checked(-1)
        Traceback (most recent call last):
        napari_ensir.errors.EnsembleError: width is -1; use a number above 0 or None (an eighth).
        """
        if value is None and self.none is not None:
            return None
        if isinstance(value, str) and value == self.word and self.auto is not None:
            return self.word
        try:
            found = KINDS[self.kind].convert(value)
        except (TypeError, ValueError, OverflowError):
            raise self.refusal(value) from None
        if not self._is_allowed(found):
            raise self.refusal(value)
        return found

    def _is_allowed(self, value: Any) -> bool:
        if self.choices is not None and not self.others:
            return any(type(one) is type(value) and one == value for one in self.choices)
        low, high = self.minimum, self.maximum
        return (low is None or value >= low) and (high is None or value <= high)

    def parse(self, text: Any) -> Any:
        """Return the value that a text stands for, such as ``"none"`` for None.

        Raises
        ------
        EnsembleError
            As :meth:`checked`.

        Examples
        --------
        >>> known = {each.name: each for each in settings_of(FitSettings)}
        >>> known["data_range"].parse("0,4095"), known["hash_inputs"].parse("yes")
        ((0.0, 4095.0), True)
        """
        value = None if text == "none" and self.none is not None else text
        if self.choices is not None:
            value = next((one for one in self.choices if str(one) == text), value)
        elif isinstance(value, str):
            with suppress(ValueError, KeyError):  # checked then raises the error
                value = KINDS[self.kind].parse(value)
        return self.checked(value)

    def refusal(self, value: Any) -> EnsembleError:
        """Return the error for a value that cannot be used."""
        shown = repr(value)
        shown = shown if len(shown) < 80 else f"{shown[:77]}..."
        return EnsembleError(f"{self.name} is {shown}; use {self.allowed()}.")

    def allowed(self) -> str:
        """Describe the allowed values.

        Examples
        --------
        >>> print(Setting("folds", "Folds", "Parts.", 2, "integer", minimum=2).allowed())
        a whole number from 2
        """
        ways = [self.allowed_values()]
        ways += [f'"{self.word}" ({self.auto})'] if self.auto is not None else []
        ways += [f"None ({self.none})"] if self.none is not None else []
        return ways[0] if len(ways) == 1 else ", ".join(ways[:-1]) + " or " + ways[-1]

    def allowed_values(self) -> str:
        """Describe the allowed values besides a word and None."""
        if self.kind == "choice":
            quoted = [f'"{one}"' if isinstance(one, str) else str(one) for one in self.choices or ()]
            return "one of " + ", ".join(quoted) + " or similar" * self.others
        words = KINDS[self.kind].description
        if self.kind not in ("integer", "number"):
            return words
        low, high = self.minimum, self.maximum
        if low is None:
            return words if high is None else f"{words} up to {_plain(high)}"
        if high is None:
            return f"{words} above 0" if low == TINY else f"{words} from {_plain(low)}"
        return f"{words} from {_plain(low)} to {_plain(high)}"


def _plain(value: float) -> str:
    """Format a number; whole numbers without an exponent."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:g}"


def setting(
    default: Any = None,
    description: str = "",
    *,
    limits: tuple[float | None, float | None] = (None, None),
    choices: Mapping[Any, tuple[str, str]] | Sequence[Any] | None = None,
    **about: Any,
) -> Any:
    """Declare a dataclass field as a setting.

    Parameters
    ----------
    default
    description : str
        One sentence.
    limits : (minimum, maximum)
        Both allowed; None for no limit.
    choices : mapping or sequence, optional
        A sequence of values stands for choices whose titles are the values themselves.
    **about
        Further attributes of :class:`Setting`; the default ``title`` is the name.

    Examples
    --------
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Blur(Settings):
    ...     sigma: float = setting(1.0, "Width, in pixels.", limits=(0, 9))
    >>> Blur(sigma=2).sigma
    2.0
    >>> Blur(sigma=10)
    Traceback (most recent call last):
    napari_ensir.errors.EnsembleError: sigma is 10; use a number from 0 to 9.
    """
    if choices is not None and not isinstance(choices, Mapping):
        choices = {value: (str(value), "") for value in choices}
    about |= {"description": description, "choices": choices, "minimum": limits[0], "maximum": limits[1]}
    return field(default=default, metadata={"setting": about})


def settings_of(owner: Any) -> tuple[Setting, ...]:
    """Return the settings of a dataclass, or of an instance, in order.

    Examples
    --------
    >>> from napari_ensir.settings import ApplySettings
    >>> [each.name for each in settings_of(ApplySettings)]
    ['channel_axis', 'device']
    """
    return tuple(_declared(each) for each in fields(owner) if "setting" in each.metadata)


def _declared(each: Field[Any]) -> Setting:
    about = {"title": each.name.replace("_", " ").capitalize(), **each.metadata["setting"]}
    # Annotations are text, since some of their names are imported for typing only.
    written = each.type.__name__ if isinstance(each.type, type) else str(each.type)
    kinds = {kind.strip() for kind in written.split("|")}
    kind = next((name for name, one in KINDS.items() if one.annotation in kinds), "text")
    kind = kind if about["choices"] is None else "choice"
    return Setting(each.name, default=each.default, kind=kind, **about)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base class of settings, which are checked on creation.

    Raises
    ------
    EnsembleError
        If a value is of another kind or outside its limits.
    """

    def __post_init__(self) -> None:
        for each in settings_of(self):
            object.__setattr__(self, each.name, each.checked(getattr(self, each.name)))

    def keywords(self, *names: str) -> dict[str, Any]:
        """Return the settings as keyword arguments: all, or only those named."""
        return {name: getattr(self, name) for name in names or [each.name for each in settings_of(self)]}


def check_settings(owner: Any, place: str = "") -> None:
    """Check the settings of an instance of a dataclass.

    Raises
    ------
    EnsembleError
        As :meth:`Setting.checked`, with ``place`` in front of the message.
    """
    for each in settings_of(owner):
        replace(each, name=f"{place}{each.name}").checked(getattr(owner, each.name))


# -- settings of several classes; a call may override any attribute -------------------------------------

device_setting = partial(
    setting,
    "auto",
    "Processor to compute on; auto uses a GPU if torch finds one.",
    choices=DEVICES,
    others=True,
    group="Device",
)
channel_axis_setting = partial(
    setting,
    description="Axis of the channels, such as -1 for RGB; each channel gets its own table.",
    none="one table for all channels",
    group="Images",
)
colour_axis_setting = partial(
    channel_axis_setting, description="Axis of colour channels.", none="-1 for RGB files"
)
data_range_setting = partial(
    setting,
    description="Lowest and highest intensity; pixels outside are assigned to the outermost bins.",
    none="range of the dtype for 8 bit, else the range of all but 1 in 10,000 pixels",
    unit="intensity units",
    group="Images",
)
intensities_setting = partial(
    setting,
    description="For external networks: the intensities that they were trained on.",
    choices={
        "range": (
            "0 to 1",
            "The data range is scaled to 0 to 1 for the network, and the result is scaled back.",
        ),
        "raw": ("unscaled", "The network gets and returns the intensities of the image."),
    },
    group="Networks",
)
y_channel_setting = partial(
    setting, False, "Score the Y channel of YCbCr (BT.601) instead of RGB.", group="Scores"
)
crop_border_setting = partial(
    setting, 0, "Width of the border that is not scored.", limits=(0, None), unit="pixels", group="Scores"
)
tau_setting = partial(
    setting,
    description=(
        "For DP-IR: number of fusion steps; more steps sharpen more and deviate more from the restorer."
    ),
    limits=(0, 1000),
    step=1,
    group="Networks",
)
evaluations_setting = partial(
    setting,
    None,
    "For DP-IR: number of steps in which the fusion steps are made; fewer are faster.",
    limits=(1, 100),
    step=1,
    none="tau",
    group="Networks",
)
steps_setting = partial(
    setting,
    description="For IR-CM: number of evaluations of the network.",
    limits=(1, 7),
    step=1,
    group="Networks",
)
seed_setting = partial(
    setting,
    0,
    description="The same seed gives the same result.",
    limits=(0, 2**31 - 1),
    group="Networks",
)
noise_setting = partial(
    setting,
    description="Standard deviation of the noise.",
    limits=(0.0, None),
    none="estimated from the image",
    unit="intensity units",
)
bin_width_setting = partial(
    setting,
    None,
    "Width of an intensity bin; with narrow bins, weights follow the intensity more closely, but each bin "
    "has fewer pixels to learn from.",
    limits=(TINY, None),
    none="range / 8, which is 32 for 8 bit",
    auto="chosen by cross-validation",
    unit="intensity units",
)
shrinkage_setting = partial(
    setting,
    SHRINKAGE,
    "For least squares: number of pixels that the solution for all intensities counts as in each bin set; "
    "with more, sparse bin sets follow it more closely.",
    limits=(0, None),
    step=100,
    auto="chosen by cross-validation",
    unit="pixels",
)
truth_noise_setting = partial(
    setting,
    None,
    "Standard deviation of the noise of the ground truth, if it is a second exposure of the same field; the "
    "noise must have zero mean and be independent of that of the candidates.",
    title="Ground truth noise",
    limits=(TINY, None),
    none="the ground truth is clean",
    auto="the noise level is not known",
    word="unknown",
    unit="intensity units",
)

MATCH_TRUTH = {
    "auto": ("Match", "Measure its gain and offset against the candidates, and correct them if significant"),
    "never": ("Do not match", "Use its intensities as recorded"),
}

METHOD_CHOICES = {
    "auto": ("Automatic", "Try every method and use the one with the smallest error on held-out parts"),
    **METHODS,
}
"""The methods that a fit accepts."""

# -- one class for each command ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FitSettings(Settings):
    """Settings of :func:`napari_ensir.fit_lut`."""

    method: str = setting(
        "auto",
        "How to estimate the weights; auto uses the method with the smallest held-out error.",
        choices=METHOD_CHOICES,
    )
    truth_noise: float | Literal["unknown"] | None = truth_noise_setting()
    match_truth: str = setting(
        "auto",
        "What to do if a noisy ground truth is brighter or darker than the candidates.",
        title="Brightness of the ground truth",
        choices=MATCH_TRUTH,
    )
    bin_width: float | Literal["auto"] | None = bin_width_setting()
    shrinkage: float | Literal["auto"] = shrinkage_setting()
    prior: Sequence[float] | None = setting(
        None,
        "For EM: one weight per candidate, for the start and for bin sets with too few pixels.",
        none="equal weights",
        group="EM",
    )
    max_iter: int | None = setting(
        None,
        "For EM: maximum number of iterations.",
        title="Max. iterations",
        limits=(1, None),
        none="1000 in the paper, 1001 in the released code",
        group="EM",
    )
    channel_axis: int | None = channel_axis_setting()
    data_range: tuple[float, float] | None = data_range_setting()
    planes: tuple[int, int] | None = setting(
        None,
        "First and last plane to learn from, counted from 0 along the first axis.",
        none="all planes",
        group="Images",
    )
    hash_inputs: bool = setting(
        False,
        "Store a hash of every image in the table, even if the images exceed 16 MB in total.",
        title="Hash all inputs",
        group="Images",
    )
    device: str = device_setting()


_hidden_setting = partial(setting, group="Hidden pixels")


@dataclass(frozen=True, kw_only=True)
class HidingSettings(Settings):
    """Settings of J-invariant prediction: restorers predict pixels that are hidden from them."""

    stride: int = _hidden_setting(
        6,
        "Spacing of the hidden pixels along rows and columns; a small stride hides more pixels in each run, "
        "but leaves each fewer intact neighbours.",
        limits=(2, 64),
        unit="pixels",
    )
    offsets: int = _hidden_setting(
        6,
        "Number of runs of each restorer, each with different pixels hidden; at most stride x stride.",
        title="Runs",
        limits=(1, 64**2),
    )
    seed: int = seed_setting(
        description="Seed of the order in which pixels are hidden; the same seed gives the same result.",
        group="Hidden pixels",
    )


@dataclass(frozen=True, kw_only=True)
class BlindSettings(HidingSettings):
    """Settings of :func:`napari_ensir.learn_blind`."""

    bin_width: float | Literal["auto"] | None = bin_width_setting()
    shrinkage: float | Literal["auto"] = shrinkage_setting()
    channel_axis: int | None = channel_axis_setting(
        description="Axis of the channels, which are hidden together; each channel gets its own table.",
        none="channel axis of the restorers, one table for all channels",
    )
    data_range: tuple[float, float] | None = data_range_setting(
        none="range of the dtype for 8 bit, else the range of the restored pixels"
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class SweepSettings(HidingSettings):
    """Settings of a sweep over the values of a restorer's setting."""

    between: tuple[float, float] | None = setting(
        None,
        "Smallest and largest value to try, if no values are listed.",
        title="From, to",
        none="1/4 of the current value to 4 times it",
    )
    count: int = setting(
        7,
        "Number of values to try, spaced geometrically if all are above zero.",
        title="Values",
        limits=(2, 50),
    )
    channel_axis: int | None = channel_axis_setting(
        description="Axis of the channels, which are hidden together.", none="-1 for RGB files"
    )
    data_range: tuple[float, float] | None = data_range_setting(
        description="Lowest and highest intensity, which are scaled to 0 and 1 for the restorer.",
        none="range of the restorer, else of the image",
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class ApplySettings(Settings):
    """Settings of :meth:`napari_ensir.WeightLUT.apply`."""

    channel_axis: int | None = channel_axis_setting(
        description="Axis of the channels, if it differs from that of the reference images.",
        none="as in the fit",
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
    """Settings of the command ``evaluate``."""

    y_channel: bool = y_channel_setting()
    crop_border: int = crop_border_setting()
    channel_axis: int | None = channel_axis_setting(
        description="Axis of colour channels, over which SSIM is averaged.", none="-1 for RGB, else none"
    )
    data_range: tuple[float, float] | None = data_range_setting(
        description="Lowest and highest intensity; their difference is the peak of PSNR and SSIM.",
        none="range of the dtype for 8 bit, else of the ground truth",
    )
    truth_noise: float | Literal["unknown"] | None = truth_noise_setting()
    frc: bool = setting(
        False,
        "Report the resolution by Fourier ring correlation with the ground truth, whose noise must be "
        "independent of the candidates.",
        title="Resolution",
        group="Scores",
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """Settings of :func:`napari_ensir.compare`."""

    folds: int = setting(
        2,
        "Number of parts for cross-validation; each is predicted by tables learned from the others.",
        limits=(2, 1000),
    )
    y_channel: bool = y_channel_setting()
    crop_border: int = crop_border_setting()
    channel_axis: int | None = channel_axis_setting()
    data_range: tuple[float, float] | None = data_range_setting(
        none="range of the dtype for 8 bit, else of the ground truths"
    )
    samples: int | None = setting(
        100_000,
        "Number of pixels that the scikit-learn regressors learn from.",
        limits=(1, None),
        none="all",
        unit="pixels",
    )
    truth_noise: float | Literal["unknown"] | None = truth_noise_setting()
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class RestoreSettings(Settings):
    """Settings of restoring, besides those of a restorer."""

    self_ensemble: bool = setting(
        False,
        "Average the results of eight rotations and reflections; takes eight times as long.",
        title="Self-ensemble",
    )
    channel_axis: int | None = colour_axis_setting()
    data_range: tuple[float, float] | None = data_range_setting(
        description="Lowest and highest intensity, which are scaled to 0 and 1 for the restorer.",
        none="range of the network, else of the image",
    )
    intensities: str | None = intensities_setting(None, none="0 to 1")
    tau: int | None = tau_setting(None, none="value of the checkpoint")
    evaluations: int | None = evaluations_setting(none="one for each fusion step")
    steps: int | None = steps_setting(None, none="value of the checkpoint")
    seed: int = seed_setting()
    device: str = device_setting()


_recipe_setting = partial(setting, None, none="value of the recipe")
_single_recipe_setting = partial(setting, group="Recipes")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """Settings of training; see :data:`napari_ensir.restorers.training.recipes.RECIPES`.

    A recipe ignores the settings of other recipes. None stands for the value of the recipe.
    """

    steps: int | None = _recipe_setting(
        "Total number of training steps, over which the learning rate decays. A resumed training continues "
        "up to this number.",
        limits=(1, 10_000_000),
        step=100,
    )
    minutes: float | None = setting(
        None,
        "Stop after this time; resuming continues with the remaining steps.",
        title="Time limit",
        limits=(TINY, None),
        none="no limit",
        unit="minutes",
    )
    width: int | None = _recipe_setting(
        "Number of features at the finest level; a wider network learns better, but trains more slowly.",
        limits=(4, 512),
        step=8,
    )
    depth: int | None = _recipe_setting("Number of levels of the network.", limits=(1, 6))
    batch: int | None = _recipe_setting("Number of patches in a step.", limits=(1, 4096))
    patch: int | None = _recipe_setting(
        "Side of a patch; less where an image is smaller.", limits=(8, 4096), unit="pixels"
    )
    learning_rate: float | None = _recipe_setting("Greatest learning rate of AdamW.", limits=(1e-7, 0.1))
    average: float = setting(
        0.0,
        "Decay of the moving average of the weights, which is what is applied and saved, such as 0.999; 0 "
        "uses the weights themselves.",
        limits=(0, 0.99999),
    )
    seed: int = seed_setting(
        description="The same seed, images and settings give the same network.", group=""
    )
    device: str = device_setting()
    validation: float = setting(
        0.0,
        "Share of the images that is not trained on; the network with the least loss on them is kept.",
        limits=(0, 0.5),
        step=0.05,
    )
    channel_axis: int | None = colour_axis_setting()
    hidden: float = _single_recipe_setting(
        0.03,
        "For Noise2Void: share of the pixels that are hidden in a step.",
        title="Hidden pixels",
        limits=(0.001, 0.25),
    )
    times: int = _single_recipe_setting(100, "For IR-CM: number of times of its path.", limits=(2, 10_000))
    linear_share: float | None = _recipe_setting(
        "For IR-CM: share of the steps in stage 1, whose paths start at the degraded image.",
        title="Stage 1",
        limits=(0, 1),
        group="Recipes",
    )
    origin_weight: float = _single_recipe_setting(
        0.8, "For IR-CM: weight of the origin-guided loss.", limits=(0, 1000)
    )
    vgg: str | None = _single_recipe_setting(
        None,
        "For IR-CM: file of the weights of a VGG-16, for the perceptual loss.",
        title="VGG-16",
        none="no perceptual loss",
    )
    perceptual_weight: float = _single_recipe_setting(
        0.125,
        "For IR-CM: weight of the perceptual loss within the origin-guided loss.",
        limits=(0, 1000),
    )
    sampled_share: float | None = _recipe_setting(
        "For IR-CM and DP-IR: share of the training that starts where sampling starts, rather than at the "
        "clean image.",
        limits=(0, 1),
        group="Recipes",
    )
    latest: int = _single_recipe_setting(
        1000,
        "For DP-IR: greatest tau that the network is trained for.",
        title="Latest time",
        limits=(1, 1000),
    )
