"""What a setting is: declared once, checked, told in words. Knows no work that has settings.

A field of a frozen dataclass is one setting. From it come the check of its value, the command line's option,
the viewer's control and the guide's table, so that they cannot drift apart. Fields' metadata serve for that
rather than pydantic: restorers are dataclasses already, and importing it takes longer than all of this.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from napari_ensir.errors import EnsembleError

__all__ = ["TINY", "Setting", "Settings", "check_settings", "setting", "settings_of", "table_of"]

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
