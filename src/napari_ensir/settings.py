"""Settings: what one is (``setting.py``), and which there are (``work.py``; ``shared.py``)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from napari_ensir.devices import DEVICES
from napari_ensir.errors import EnsembleError

__all__ = [
    "METHODS",
    "METHOD_CHOICES",
    "SHRINKAGE",
    "TINY",
    "ApplySettings",
    "BlindSettings",
    "CompareSettings",
    "EvaluateSettings",
    "FitSettings",
    "HidingSettings",
    "ReadingSettings",
    "RestoreSettings",
    "Setting",
    "Settings",
    "SweepSettings",
    "TrainSettings",
    "WritingSettings",
    "bin_width_setting",
    "channel_axis_setting",
    "check_settings",
    "crop_border_setting",
    "data_range_setting",
    "device_setting",
    "intensities_setting",
    "noise_setting",
    "seed_setting",
    "setting",
    "settings_of",
    "shrinkage_setting",
    "steps_setting",
    "table_of",
    "tau_setting",
    "truth_noise_setting",
    "y_channel_setting",
]


Kind = Literal["flag", "integer", "number", "choice", "range", "places", "numbers", "text"]


@dataclass(frozen=True)
class Setting:
    """One thing that a user can choose.

    Attributes
    ----------
    name : str
        The keyword in Python; the command line and the viewer use the same.
    title, description : str
        A label, and one sentence.
    default : Any
    kind : "flag", "integer", "number", "choice", "range", "places", "numbers" or "text"
        ``"range"`` is two numbers, the lower first; ``"places"`` two whole ones that may be the same;
        ``"numbers"`` is several.
    minimum, maximum : float or None
        Least and greatest value, both allowed.
    step : float or None
        By how much a control moves it.
    choices : mapping of value to (title, sentence), or None
    none : str or None
        What None stands for; None: the setting needs a value.
    auto : str or None
        What the word that can be given instead of a value stands for; None: there is no such word.
    word : str
        That word.
    unit : str
        Of the value, as a guide names it.
    group : str
        What it belongs to; "" for what everybody meets.
    """

    name: str
    title: str
    description: str
    default: Any
    kind: Kind
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
        """The value in its own type.

        Raises
        ------
        EnsembleError
            If it is of another kind or outside the limits; the sentence says what would be right.

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
            found = _OF_KIND[self.kind](value)
        except (TypeError, ValueError, OverflowError):
            raise self.refusal(value) from None
        if self.choices is not None and not self.others and not self._is_choice(found):
            raise self.refusal(value)
        if self.kind in ("integer", "number") and not self._is_within(found):
            raise self.refusal(value)
        return found

    def _is_choice(self, value: Any) -> bool:
        return any(type(one) is type(value) and one == value for one in self.choices or ())

    def _is_within(self, value: float) -> bool:
        low, high = self.minimum, self.maximum
        return (low is None or value >= low) and (high is None or value <= high)

    def refusal(self, value: Any) -> EnsembleError:
        """The sentence for a value that cannot be used."""
        shown = repr(value)
        shown = shown if len(shown) < 80 else f"{shown[:77]}..."
        return EnsembleError(f"{self.name} is {shown}; use {self.allowed()}.")

    def allowed(self) -> str:
        """What can be given, in words.

        Examples
        --------
        >>> print(Setting("folds", "Folds", "Parts.", 2, "integer", minimum=2).allowed())
        a whole number from 2
        """
        ways = [self._allowed_values()]
        ways += [f'"{self.word}" ({self.auto})'] if self.auto is not None else []
        ways += [f"None ({self.none})"] if self.none is not None else []
        return ways[0] if len(ways) == 1 else ", ".join(ways[:-1]) + " or " + ways[-1]

    def _allowed_values(self) -> str:
        if self.kind == "choice":
            quoted = [f'"{one}"' if isinstance(one, str) else str(one) for one in self.choices or ()]
            return "one of " + ", ".join(quoted) + " and such" * self.others
        words = {
            "flag": "True or False",
            "integer": "a whole number",
            "number": "a number",
            "range": "two finite numbers, the lower first",
            "places": "two whole numbers from 0, the first and the last",
            "numbers": "numbers that are not negative, one for each candidate, not all zero",
            "text": "text",
        }[self.kind]
        if self.kind not in ("integer", "number"):
            return words
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f"{words} from {low:g} to {high:g}"
        if low is not None:
            # The least number above zero stands for "above zero" where a float is asked for.
            return f"{words} above 0" if 0 < low <= TINY else f"{words} from {low:g}"
        return words if high is None else f"{words} up to {high:g}"


TINY = 5e-324
"""The least float above zero: as a ``minimum`` it says "above 0"."""


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, (bool, str)) or not math.isfinite(found := float(value)):
        raise TypeError
    return found


def _flag(value: Any) -> bool:
    # numpy's own bool is no instance of Python's.
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
        raise TypeError
    return bool(value)


def _range(value: Any) -> tuple[float, float]:
    low, high = (_real(one) for one in value)
    if not low < high:
        raise ValueError
    return low, high


def _places(value: Any) -> tuple[int, int]:
    first, last = (_whole(one) for one in value)
    if not 0 <= first <= last:
        raise ValueError
    return first, last


def _numbers(value: Any) -> tuple[float, ...]:
    found = tuple(_real(one) for one in value)
    if min(found) < 0 or max(found) == 0:
        raise ValueError
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_OF_KIND: dict[str, Any] = {
    "flag": _flag,
    "integer": _whole,
    "number": _real,
    "choice": lambda value: value,
    "range": _range,
    "places": _places,
    "numbers": _numbers,
    "text": _text,
}


def setting(
    default: Any,
    *,
    title: str,
    description: str,
    minimum: float | None = None,
    maximum: float | None = None,
    step: float | None = None,
    choices: Mapping[Any, tuple[str, str]] | Sequence[Any] | None = None,
    none: str | None = None,
    auto: str | None = None,
    word: str = "auto",
    unit: str = "",
    others: bool = False,
    group: str = "",
) -> Any:
    """A dataclass field that is a setting; see :class:`Setting`.

    ``choices`` may be a plain sequence of values, which are then their own titles.

    Examples
    --------
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Blur(Settings):
    ...     sigma: float = setting(1.0, title="Sigma", description="Width, in pixels.", minimum=0, maximum=9)
    >>> Blur(sigma=2).sigma
    2.0
    >>> Blur(sigma=10)
    Traceback (most recent call last):
    napari_ensir.errors.EnsembleError: sigma is 10; use a number from 0 to 9.
    """
    if choices is not None and not isinstance(choices, Mapping):
        choices = {value: (str(value), "") for value in choices}
    metadata = {
        "title": title,
        "description": description,
        "minimum": minimum,
        "maximum": maximum,
        "step": step,
        "choices": choices,
        "none": none,
        "auto": auto,
        "word": word,
        "unit": unit,
        "others": others,
        "group": group,
    }
    return field(default=default, metadata={"setting": metadata})


def settings_of(owner: Any) -> tuple[Setting, ...]:
    """The settings of a dataclass, or of one of its instances, in order.

    Examples
    --------
    >>> from napari_ensir.settings import ApplySettings
    >>> [each.name for each in settings_of(ApplySettings)]
    ['channel_axis', 'device']
    """
    return tuple(
        Setting(each.name, default=each.default, kind=_kind_of(each), **each.metadata["setting"])
        for each in fields(owner)
        if "setting" in each.metadata
    )


def _kind_of(declared: Any) -> Kind:
    """The kind that a field's annotation names, as written: some names exist for type checkers alone."""
    if declared.metadata["setting"]["choices"] is not None:
        return "choice"
    written = declared.type.__name__ if isinstance(declared.type, type) else str(declared.type)
    kinds = {kind.strip() for kind in written.split("|")}
    if "tuple[float, float]" in kinds:
        return "range"
    if "tuple[int, int]" in kinds:
        return "places"
    if any(kind.startswith(("Sequence[float]", "tuple[float, ...]")) for kind in kinds):
        return "numbers"
    named: tuple[tuple[str, Kind], ...] = (("bool", "flag"), ("float", "number"), ("int", "integer"))
    return next((kind for name, kind in named if name in kinds), "text")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that are checked when they are made.

    Raises
    ------
    EnsembleError
        If a value is of another kind, or outside its limits.
    """

    def __post_init__(self) -> None:
        for each in settings_of(self):
            object.__setattr__(self, each.name, each.checked(getattr(self, each.name)))

    def keywords(self, *names: str) -> dict[str, Any]:
        """The settings by name, as keywords of the function that they belong to; all, or those named."""
        return {name: getattr(self, name) for name in names or [each.name for each in settings_of(self)]}


def check_settings(owner: Any, place: str = "") -> None:
    """Check the settings of a dataclass that is made before its settings can be.

    Raises
    ------
    EnsembleError
        As :meth:`Setting.checked`, with ``place`` in front.
    """
    for each in settings_of(owner):
        try:
            each.checked(getattr(owner, each.name))
        except EnsembleError as error:
            raise EnsembleError(f"{place}{error}") from None


def table_of(owner: Any, as_options: bool = False) -> str:
    """The settings as a Markdown table, for a guide.

    Parameters
    ----------
    owner
        A class of settings.
    as_options
        Name them as the command line does.

    Examples
    --------
    >>> from napari_ensir.settings import ApplySettings
    >>> print(table_of(ApplySettings, as_options=True).splitlines()[3])
    | `--device` | `auto`, `cpu`, `cuda`, `mps` and such | `auto` | Where to compute; ... |
    """
    rows = []
    for each in settings_of(owner):
        name = "--" + each.name.replace("_", "-") if as_options else each.name
        quote = "" if as_options else '"'
        if each.kind == "choice":
            values = ", ".join(f"`{quote}{one}{quote}`" for one in each.choices or ())
            values += " and such" * each.others
        else:
            values = each._allowed_values()
        values += f"; `{quote}{each.word}{quote}`: {each.auto}" if each.auto is not None else ""
        flag = as_options and each.kind == "flag"  # typed without a value
        shown = f"{each.default:g}" if each.kind == "number" and each.default is not None else each.default
        said = f"`{quote}{shown}{quote}`" if each.kind == "choice" else f"`{shown}`"
        left_out = each.none if each.default is None else said
        values, left_out = ("given or not", "no") if flag else (values, left_out)
        rows.append(f"| `{name}` | {values} | {left_out} | {each.description} |")
    return "\n".join(["| setting | can be | left out | |", "|---|---|---|---|", *rows])


SHRINKAGE = 1000.0
"""Pixels' worth of trust in the global solution that did well on every set measured."""


def device_setting() -> Any:
    """Where to compute."""
    return setting(
        "auto",
        title="Device",
        description="Where to compute; auto takes an accelerator if torch finds one.",
        choices=DEVICES,
        others=True,  # such as "cuda:1"; torch is asked where it is loaded
        group="Machine",
    )


def channel_axis_setting(
    description: str = "One table per channel along this axis, such as -1 for RGB.",
    none: str = "channels are pooled",
) -> Any:
    """Along which axis the channels lie."""
    return setting(None, title="Channel axis", description=description, none=none, group="Images")


def data_range_setting(
    none: str = "the dtype's for 8 bit, else what all but one in ten thousand pixels show",
    description: str = "Lowest and highest intensity; what lies outside goes to the end bins.",
) -> Any:
    """Which intensities there are."""
    return setting(
        None,
        title="Data range",
        description=description,
        none=none,
        unit="intensity units",
        group="Images",
    )


def intensities_setting(default: str | None, none: str | None = None) -> Any:
    """What intensities a network of one's own takes."""
    return setting(
        default,
        title="Intensities",
        description="For networks of your own: what they were trained on.",
        choices={
            "range": (
                "0 to 1",
                "The data range goes in as 0 to 1, and comes out as it was.",
            ),
            "raw": ("as the image is", "The image's own intensities go in and come out."),
        },
        none=none,
        group="Networks",
    )


def y_channel_setting() -> Any:
    """Whether luma is scored."""
    return setting(
        False,
        title="Y channel",
        description="Score Y of YCbCr (BT.601) instead of RGB.",
        group="Scores",
    )


def crop_border_setting() -> Any:
    """What is not scored."""
    return setting(
        0,
        title="Crop border",
        description="Pixels at each edge that are not scored.",
        minimum=0,
        unit="pixels",
        group="Scores",
    )


def tau_setting(default: int | None, none: str | None = None) -> Any:
    """How far DP-IR goes."""
    return setting(
        default,
        title="Tau",
        description="For DP-IR: evaluations of the fusion; few are faithful to the restorer, many sharper.",
        minimum=0,
        maximum=100,
        step=1,
        none=none,
        group="Networks",
    )


def steps_setting(default: int | None, none: str | None = None) -> Any:
    """How often IR-CM evaluates its network."""
    return setting(
        default,
        title="Steps",
        description="For IR-CM: evaluations of the network.",
        minimum=1,
        maximum=7,
        step=1,
        none=none,
        group="Networks",
    )


def seed_setting(default: int = 0) -> Any:
    """What noise is drawn."""
    return setting(
        default,
        title="Seed",
        description="The same seed gives the same result.",
        minimum=0,
        maximum=2**31 - 1,
        group="Networks",
    )


def noise_setting(default: Any = None, *, none: str = "estimated from the image", auto: str = "") -> Any:
    """Noise of the image to restore; `none` and `auto` describe what None and "auto" do."""
    return setting(
        default,
        title="Noise",
        description="Standard deviation of the noise.",
        minimum=0.0,
        none=none,
        auto=auto or None,
        unit="intensity units",
    )


def bin_width_setting() -> Any:
    """How finely intensities are told apart."""
    return setting(
        None,
        title="Bin width",
        description=(
            "Width of an intensity bin; narrow bins follow intensity more closely and have fewer pixels each "
            "to learn from."
        ),
        minimum=TINY,
        none="an eighth of the data range, 32 for 8 bit",
        auto="what does best on parts held out in turn",
        unit="intensity units",
    )


def shrinkage_setting() -> Any:
    """How much a bin set trusts the solution for all."""
    return setting(
        SHRINKAGE,
        title="Shrinkage",
        description=(
            "For least squares: how many pixels' worth of trust the solution for all intensities gets in "
            "each bin set."
        ),
        minimum=0,
        step=100,
        auto="what does best on parts held out in turn",
        unit="pixels",
    )


def truth_noise_setting() -> Any:
    """What is known of the noise of the ground truth."""
    return setting(
        None,
        title="Noise of the truth",
        description=(
            "Standard deviation of the ground truth's noise, where it is another exposure; of mean zero and "
            "independent of the candidates."
        ),
        minimum=TINY,
        none="the truth is clean",
        auto="noise of unknown strength",
        word="unknown",
        unit="intensity units",
    )


METHODS = {
    "em": (
        "EM (paper)",
        "Gaussian mixture per bin set by expectation-maximisation, as in the EnsIR paper",
    ),
    "em-released": (
        "EM (released code)",
        "The same as the EnsIR authors' released code computes it",
    ),
    "least-squares": (
        "Least squares",
        "Smallest squared error per bin set, shrunk toward the global solution; best on held-out data so far",
    ),
}
"""Title and sentence of each method, by the name that scripts use."""

METHOD_CHOICES = {
    "auto": ("Automatic", "Try every method and take the one with the least error on parts held out"),
    **METHODS,
}
"""The methods that a fit accepts."""

# -- one for each kind of work ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FitSettings(Settings):
    """What learning a table can be told; see :func:`napari_ensir.fit_lut`."""

    method: str = setting(
        "auto",
        title="Method",
        description="How the weights are estimated; auto takes the best of all methods on parts held out.",
        choices=METHOD_CHOICES,
    )
    truth_noise: float | Literal["unknown"] | None = truth_noise_setting()
    bin_width: float | Literal["auto"] | None = bin_width_setting()
    shrinkage: float | Literal["auto"] = shrinkage_setting()
    prior: Sequence[float] | None = setting(
        None,
        title="Prior",
        description="For EM: one weight per candidate, to start from and to keep where pixels are too few.",
        none="equal weights",
        group="EM",
    )
    max_iter: int | None = setting(
        None,
        title="Most iterations",
        description="For EM: where it stops at the latest.",
        minimum=1,
        none="1000 as in the paper, 1001 as in the released code",
        group="EM",
    )
    channel_axis: int | None = channel_axis_setting()
    data_range: tuple[float, float] | None = data_range_setting()
    planes: tuple[int, int] | None = setting(
        None,
        title="Planes",
        description="First and last place along the first axis to learn from.",
        none="all planes",
        group="Images",
    )
    hash_inputs: bool = setting(
        False,
        title="Hash all inputs",
        description="Keep a hash of every image's content in the report, also beyond 16 MB.",
        group="Images",
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class HidingSettings(Settings):
    """How pixels are hidden from restorers, to judge them by the noisy image alone."""

    stride: int = setting(
        6,
        title="Stride",
        description=(
            "One pixel in so many along rows and columns is hidden; few cost fewer runs for as many pixels, "
            "and spoil each other's surroundings."
        ),
        minimum=2,
        maximum=64,
        unit="pixels",
        group="Hidden pixels",
    )
    offsets: int = setting(
        6,
        title="Runs",
        description="How often each restorer runs; every run hides other pixels, at most stride x stride.",
        minimum=1,
        maximum=64**2,
        group="Hidden pixels",
    )
    seed: int = setting(
        0,
        title="Seed",
        description="Of the order in which pixels are hidden; the same seed gives the same result.",
        minimum=0,
        maximum=2**31 - 1,
        group="Hidden pixels",
    )


@dataclass(frozen=True, kw_only=True)
class BlindSettings(HidingSettings):
    """What learning from the noisy image alone can be told; see :func:`napari_ensir.learn_blind`."""

    bin_width: float | Literal["auto"] | None = bin_width_setting()
    shrinkage: float | Literal["auto"] = shrinkage_setting()
    channel_axis: int | None = channel_axis_setting(
        "Axis of the channels: hidden together, and each with a table of its own.",
        "the restorers' own, pooled",
    )
    data_range: tuple[float, float] | None = data_range_setting(
        "the dtype's for 8 bit, else what the restored pixels show"
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class SweepSettings(HidingSettings):
    """What trying values of a restorer's setting can be told beside the values."""

    between: tuple[float, float] | None = setting(
        None,
        title="From, to",
        description="The least and the greatest value to try, where none are listed.",
        none="a quarter of the value that is set, and four times it",
    )
    count: int = setting(
        7,
        title="Values",
        description="How many values to try, evenly spaced by ratio where all are above zero.",
        minimum=2,
        maximum=50,
    )
    channel_axis: int | None = channel_axis_setting(
        "Axis of the channels, which are hidden together.", "-1 for RGB files"
    )
    data_range: tuple[float, float] | None = data_range_setting(
        "the restorer's, else the image's", "Intensities that become 0 and 1 for the restorer."
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class ApplySettings(Settings):
    """What combining can be told; see :meth:`napari_ensir.WeightLUT.apply`."""

    channel_axis: int | None = channel_axis_setting(
        "Where the channels lie, if elsewhere than in the images learned from.", "as when it was learned"
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
    """What scoring can be told."""

    y_channel: bool = y_channel_setting()
    crop_border: int = crop_border_setting()
    channel_axis: int | None = channel_axis_setting("Axis of colour channels, which SSIM averages over.")
    data_range: tuple[float, float] | None = data_range_setting("the dtype's for 8 bit, else the truth's own")
    truth_noise: float | Literal["unknown"] | None = truth_noise_setting()
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """What a comparison can be told; see :func:`napari_ensir.compare`."""

    folds: int = setting(
        2, title="Folds", description="Parts, each predicted from the others.", minimum=2, maximum=1000
    )
    y_channel: bool = y_channel_setting()
    crop_border: int = crop_border_setting()
    channel_axis: int | None = channel_axis_setting()
    data_range: tuple[float, float] | None = data_range_setting("the dtype's for 8 bit, else the truths' own")
    samples: int | None = setting(
        100_000,
        title="Samples",
        description="Pixels that scikit-learn's regressors learn from.",
        minimum=1,
        none="all",
        unit="pixels",
    )
    truth_noise: float | Literal["unknown"] | None = truth_noise_setting()
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class RestoreSettings(Settings):
    """What restoring can be told beside a restorer's own settings."""

    self_ensemble: bool = setting(
        False,
        title="Self-ensemble",
        description="Average what eight rotations and reflections of the image give: eight times the time.",
    )
    channel_axis: int | None = channel_axis_setting("Axis of colour channels.", "-1 for RGB files")
    data_range: tuple[float, float] | None = data_range_setting(
        "the network's, else the image's", "Intensities that become 0 and 1 for a restorer."
    )
    intensities: str | None = intensities_setting(None, none="0 to 1")
    tau: int | None = tau_setting(None, none="the checkpoint's own")
    steps: int | None = steps_setting(None, none="the checkpoint's own")
    seed: int = seed_setting()
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """Settings of a training; see :data:`napari_ensir.restorers.training.recipes.RECIPES`."""

    steps: int = setting(
        2400,
        title="Steps",
        description=(
            "Steps of training in all; the learning rate falls over them. A resumed training goes on up to "
            "them."
        ),
        minimum=1,
        maximum=10_000_000,
        step=100,
    )
    minutes: float | None = setting(
        None,
        title="At most",
        description="Minutes after which to stop, even if steps are left, which resuming makes.",
        minimum=TINY,
        none="all steps",
        unit="minutes",
    )
    width: int = setting(
        32,
        title="Width",
        description="Features at the network's finest level: more learn more, slowly.",
        minimum=4,
        maximum=512,
        step=8,
    )
    seed: int = setting(
        0,
        title="Seed",
        description="The same seed, images and settings give the same network.",
        minimum=0,
        maximum=2**31 - 1,
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class ReadingSettings(Settings):
    """What reading sets of images can be told."""

    crop: bool = setting(
        False, title="Crop", description="Cut images of unlike size alike, at the top left.", group="Images"
    )


@dataclass(frozen=True, kw_only=True)
class WritingSettings(Settings):
    """What writing images can be told."""

    dtype: str = setting(
        "same",
        title="Dtype",
        description="Of the pixels written: the inputs', rounded and clipped, or float32.",
        choices=("same", "float32"),
        group="Output",
    )

    @property
    def as_float(self) -> bool:
        """Whether pixels are written as computed."""
        return self.dtype == "float32"
