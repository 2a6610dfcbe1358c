"""Command-line options from classes of settings.

A command with the keyword ``settings: FitSettings`` gets one option for each of these settings.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, get_type_hints

import typer

from napari_ensir.cli import terminal
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import Settings, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari_ensir.cli.terminal import Output
    from napari_ensir.restorers import Restorer
    from napari_ensir.settings import Setting

__all__ = [
    "flag",
    "list_restorers",
    "metavar",
    "named_paths",
    "option_of",
    "parse_restorer_options",
    "parser_of",
    "value_of",
    "with_options",
    "with_restorer_options",
]


# ruff: noqa: UP045 -- typer reads Optional in every version that is supported


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the keywords of a command that are annotated with settings by one option for each setting.

    Examples
    --------
    >>> from napari_ensir.settings import ApplySettings
    >>> def combine(path: str, *, settings: ApplySettings) -> None:
    ...     print(path, settings.device)
    >>> made = with_options(combine)
    >>> list(inspect.signature(made).parameters)
    ['path', 'channel_axis', 'device']
    >>> made(path="a.png", channel_axis=None, device="cpu")
    a.png cpu
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if _is_settings(kind)}
    own = [
        each.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, each in inspect.signature(command).parameters.items()
        if name not in groups
    ]
    options = [option_of(each) for kind in groups.values() for each in settings_of(kind)]

    @wraps(command)
    def run(**given: Any) -> None:
        made = {
            name: kind(**{each.name: given.pop(each.name) for each in settings_of(kind)})
            for name, kind in groups.items()
        }
        command(**given, **made)

    run.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*own, *options)}
    return run


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def option_of(setting: Setting) -> inspect.Parameter:
    """Return a setting as a typer parameter.

    Examples
    --------
    >>> from napari_ensir.settings import CompareSettings
    >>> option_of(settings_of(CompareSettings)[0]).default
    2
    """
    flags = ["--" + setting.name.replace("_", "-")] + ["-q"] * (setting.name == "quiet")
    kind: Any
    options: dict[str, Any] = {"help": setting.description, "rich_help_panel": setting.group or None}
    if setting.kind == "flag":
        kind = Annotated[bool, flag(*flags, **options)]
    else:
        options["metavar"] = metavar(setting)
        options["show_default"] = setting.none if setting.default is None and setting.none else True
        if setting.kind == "range":
            kind = Annotated[Optional[tuple[float, float]], typer.Option(*flags, **options)]
        elif setting.kind == "places":
            kind = Annotated[Optional[tuple[int, int]], typer.Option(*flags, **options)]
        else:
            # Parsed here, since a number may also be a word such as "auto".
            kind = Annotated[Optional[str], typer.Option(*flags, parser=parser_of(setting), **options)]
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=setting.default, annotation=kind
    )


def flag(*flags: str, **options: Any) -> Any:
    """Return an option without value, whose help does not show the metavar ``<bool>``.

    Examples
    --------
    >>> flag("--match", help="Rescale the table first.").metavar
    ''
    """
    return typer.Option(*flags, metavar="", **options)


def metavar(setting: Setting) -> str:
    """Return the metavar of a setting.

    Examples
    --------
    >>> from napari_ensir.settings import FitSettings
    >>> [metavar(each) for each in settings_of(FitSettings) if each.name in ("method", "bin_width", "prior")]
    ['auto|em|em-released|least-squares', 'NUMBER|auto', 'NUMBER,NUMBER,...']
    """
    if setting.choices is not None:
        return "|".join(map(str, setting.choices))
    word = {
        "flag": "true|false",
        "integer": "N",
        "number": "NUMBER",
        "range": "LOW HIGH",
        "places": "FIRST LAST",
        "numbers": "NUMBER,NUMBER,...",
        "text": "TEXT",
        "path": "PATH",
    }[setting.kind]
    if setting.default is not None and setting.none is not None:
        word += "|none"
    return word + (f"|{setting.word}" if setting.auto is not None else "")


def parser_of(setting: Setting) -> Callable[[Any], Any]:
    """Return a parser for a setting that raises ``typer.BadParameter`` for wrong values.

    Examples
    --------
    >>> from napari_ensir.settings import FitSettings
    >>> parse = parser_of(next(each for each in settings_of(FitSettings) if each.name == "bin_width"))
    >>> parse("16"), parse("auto")
    (16.0, 'auto')
    """

    def parse(text: Any) -> Any:
        try:
            return value_of(setting, text)
        except EnsembleError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


def value_of(setting: Setting, text: Any) -> Any:
    """Parse and check the value of a setting.

    Raises
    ------
    EnsembleError
        If the text is not a value of the setting.

    Examples
    --------
    >>> from napari_ensir.settings import FitSettings
    >>> known = {each.name: each for each in settings_of(FitSettings)}
    >>> value_of(known["data_range"], "0,4095"), value_of(known["hash_inputs"], "yes")
    ((0.0, 4095.0), True)
    """
    value = text
    if isinstance(text, str) and text not in (setting.word, "none"):
        with suppress(ValueError, KeyError):  # checked() then raises the error
            value = _CONVERT.get(setting.kind, str)(text)
        if setting.choices is not None:
            value = next((one for one in setting.choices if str(one) == text), text)
    elif text == "none" and setting.none is not None:
        value = None
    return setting.checked(value)


_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

_CONVERT: dict[str, Callable[[str], Any]] = {
    "flag": lambda text: _FLAGS[text.lower()],
    "integer": int,
    "number": float,
    "numbers": lambda text: tuple(float(one) for one in text.split(",")),
    "range": lambda text: tuple(float(one) for one in text.split(",")),
    "places": lambda text: tuple(int(one) for one in text.split(",")),
}


def named_paths(given: list[str]) -> dict[str, Path]:
    """Parse NAME=PATH arguments.

    Examples
    --------
    >>> named_paths(["CARE=a.tif", "N2V=b.tif"])["N2V"].name
    'b.tif'
    """
    found: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (name.strip() and equals and path):
            raise typer.BadParameter(f"{one!r} is not NAME=PATH", param_hint="--candidate")
        if name in found:
            raise typer.BadParameter(f"the name {name!r} is given twice", param_hint="--candidate")
        found[name] = Path(path)
    return found


OPTION = "--set"


def parse_restorer_options(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """Parse RESTORER.SETTING=VALUE arguments into texts by restorer and setting.

    Raises
    ------
    typer.BadParameter
        If one has another form or is repeated.

    Examples
    --------
    >>> parse_restorer_options(["median.size=5", "wavelet.wavelet=db1"])
    {'median': {'size': '5'}, 'wavelet': {'wavelet': 'db1'}}
    """
    found: dict[str, dict[str, str]] = {}
    for one in given:
        path, equals, value = one.partition("=")
        restorer, dot, name = path.rpartition(".")
        if not (equals and dot and restorer and name):
            raise _wrong(f"{one!r} is not RESTORER.SETTING=VALUE, such as median.size=5")
        if name in found.setdefault(restorer, {}):
            raise _wrong(f"{path} is given twice")
        found[restorer][name.replace("-", "_")] = value
    return found


def with_restorer_options(
    restorers: Mapping[str, Restorer], given: Mapping[str, Mapping[str, str]]
) -> dict[str, Restorer]:
    """Return the restorers with the given settings.

    Raises
    ------
    typer.BadParameter
        If a restorer or setting does not exist, or a value is wrong.
    """
    from napari_ensir.restorers.base import with_settings

    for name in given:
        if name not in restorers:
            raise _wrong(f"there is no restorer {name}; there are: {', '.join(restorers)}")
    return {
        name: with_settings(restorer, **_values(name, restorer, given.get(name, {})))
        for name, restorer in restorers.items()
    }


def _values(name: str, restorer: Restorer, given: Mapping[str, str]) -> dict[str, Any]:
    known = {each.name: each for each in _settings(restorer)}
    found = {}
    for key, text in given.items():
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise _wrong(f"{name} has no setting {key!r}; {has}")
        try:
            found[key] = value_of(known[key], text)
        except EnsembleError as error:
            raise _wrong(f"{name}.{str(error).rstrip('.')}") from None
    return found


def _settings(restorer: Restorer) -> tuple[Setting, ...]:
    return settings_of(restorer) if is_dataclass(restorer) else ()


def _wrong(text: str) -> typer.BadParameter:
    return typer.BadParameter(f"{text}.", param_hint=OPTION)


def list_restorers(restorers: Mapping[str, Restorer], *, output: Output) -> None:
    """List restorers and their settings."""
    output.check()
    rows, results = [], {}
    for name, restorer in restorers.items():
        settings = _settings(restorer)
        results[name] = {each.name: getattr(restorer, each.name) for each in settings}
        rows += [
            (
                f"{name}.{each.name}",
                _given(each),
                terminal.plain(each.none if results[name][each.name] is None else results[name][each.name]),
                f"{each.description}{_limits(each)}",
            )
            for each in settings
        ] or [(name, "", "", "has no settings")]
    output.finish(results, lambda: terminal.table(("", "values", "current", ""), rows))


def _given(setting: Setting) -> str:
    word = metavar(setting)
    return word if setting.none is None or "none" in word.split("|") else f"{word}|none"


def _limits(setting: Setting) -> str:
    numbers = setting.kind in ("integer", "number") and (setting.minimum, setting.maximum) != (None, None)
    return f" {setting.allowed()[:1].upper()}{setting.allowed()[1:]}." if numbers else ""
