"""Command-line options from dataclasses and their settings."""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from napari_ensir.errors import EnsembleError
from napari_ensir.settings import Settings, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari_ensir.restorers import Restorer
    from napari_ensir.settings import Setting

_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def parameters_of(kind: Any) -> list[inspect.Parameter]:
    """Return the fields of a dataclass as typer parameters; those of nested dataclasses are in their place.

    Examples
    --------
    >>> from napari_ensir.settings import ApplySettings
    >>> [each.name for each in parameters_of(ApplySettings)]
    ['channel_axis', 'device']
    """
    if issubclass(kind, Settings):
        return [option_of(each) for each in settings_of(kind)]
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for each in fields(kind):
        annotation = hints[each.name]
        if is_dataclass(annotation):
            found += parameters_of(annotation)
            continue
        default = each.default if each.default_factory is MISSING else each.default_factory()
        default = inspect.Parameter.empty if default is MISSING else default
        found.append(inspect.Parameter(each.name, _KEYWORD, default=default, annotation=annotation))
    return found


def instance_of(kind: Any, given: Mapping[str, Any]) -> Any:
    """Return an instance of a dataclass whose fields, and those of nested dataclasses, have these values.

    Examples
    --------
    >>> from napari_ensir.settings import ApplySettings
    >>> instance_of(ApplySettings, {"channel_axis": None, "device": "cpu"})
    ApplySettings(channel_axis=None, device='cpu')
    """
    values = {}
    for name, annotation in get_type_hints(kind).items():
        values[name] = instance_of(annotation, given) if is_dataclass(annotation) else given[name]
    return kind(**values)


def option_of(setting: Setting) -> inspect.Parameter:
    """Return a setting as a typer parameter.

    Examples
    --------
    >>> from napari_ensir.settings import CompareSettings
    >>> option_of(settings_of(CompareSettings)[0]).default
    2
    """
    name = "--" + setting.name.replace("_", "-")
    options: dict[str, Any] = {"help": setting.description, "rich_help_panel": setting.group or None}
    kinds: dict[str, Any] = {
        "flag": bool,
        "range": tuple[float, float] | None,
        "places": tuple[int, int] | None,
    }
    if setting.kind not in kinds:  # parsed here, since a number may also be a word such as "auto"
        options["parser"] = _parser_of(setting)
    if setting.kind != "flag":
        options["metavar"] = metavar(setting)
        options["show_default"] = setting.none if setting.default is None and setting.none else True
    kind = kinds.get(setting.kind, str | None)
    annotation: Any = Annotated[kind, typer.Option(name, **options)]
    return inspect.Parameter(setting.name, _KEYWORD, default=setting.default, annotation=annotation)


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


def _parser_of(setting: Setting) -> Callable[[Any], Any]:
    def parse(text: Any) -> Any:
        try:
            return value_of(setting, text)
        except EnsembleError as error:
            raise typer.BadParameter(str(error).replace("or None (", "or leave it out (")) from None

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


def with_restorer_options(restorers: Mapping[str, Restorer], given: Sequence[str]) -> dict[str, Restorer]:
    """Return the restorers with the settings given as RESTORER.SETTING=VALUE.

    Raises
    ------
    typer.BadParameter
        If an argument has another form or is repeated, a restorer or setting does not exist, or a value is
        wrong.

    Examples
    --------
    >>> from napari_ensir.restorers import CLASSICAL
    >>> with_restorer_options({"median": CLASSICAL["median"]()}, ["median.size=5"])["median"].size
    5
    """
    from napari_ensir.restorers.base import with_settings

    values: dict[str, dict[str, Any]] = {name: {} for name in restorers}
    for one in given:
        path, equals, text = one.partition("=")
        name, dot, key = path.rpartition(".")
        key = key.replace("-", "_")
        if not (equals and dot and name and key):
            raise _wrong(f"{one!r} is not RESTORER.SETTING=VALUE, such as median.size=5")
        if name not in restorers:
            raise _wrong(f"there is no restorer {name}; there are: {', '.join(restorers)}")
        known = {each.name: each for each in settings_of(restorers[name])}
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise _wrong(f"{name} has no setting {key!r}; {has}")
        if key in values[name]:
            raise _wrong(f"{path} is given twice")
        try:
            values[name][key] = value_of(known[key], text)
        except EnsembleError as error:
            raise _wrong(f"{name}.{str(error).rstrip('.')}") from None
    return {name: with_settings(restorer, **values[name]) for name, restorer in restorers.items()}


def _wrong(text: str) -> typer.BadParameter:
    return typer.BadParameter(f"{text}.", param_hint="--set")
