"""Command-line options from dataclasses and their settings."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from napari_ensir.errors import EnsembleError
from napari_ensir.settings import KINDS, Settings, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from napari_ensir.restorers import Restorer
    from napari_ensir.settings import Setting

_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def option(
    default: Any,
    description: str,
    *names: str,
    metavar: str | None = None,
    none: str | None = None,
    group: str | None = None,
) -> Any:
    """Declare a field of a dataclass as an option.

    Parameters
    ----------
    default
        ``...`` for an option that must be given.
    description : str
    *names : str
        A short name; or a long one, if it is not the name of the field.
    metavar : str, optional
        Word for the value; by default ``"PATH"`` for paths.
    none : str, optional
        What the default means.
    group : str, optional
        Section of the help.
    """
    return typer.Option(
        default, *names, help=description, metavar=metavar, show_default=none or True, rich_help_panel=group
    )


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
    found = []
    for name, annotation in get_type_hints(kind).items():
        if is_dataclass(annotation):
            found += parameters_of(annotation)
            continue
        default = kind.__dataclass_fields__[name].default
        if isinstance(default, OptionInfo):
            given = default.param_decls or ()
            has_long = any(each.startswith("--") for each in given)
            default.param_decls = given if has_long else (_long_name(name), *given)
            if default.metavar is None and Path in (annotation, *get_args(annotation)):
                default.metavar = "PATH"
        found.append(inspect.Parameter(name, _KEYWORD, default=default, annotation=annotation))
    return found


def _long_name(name: str) -> str:
    return "--" + name.replace("_", "-")


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
    >>> option_of(settings_of(CompareSettings)[0]).default.default
    2
    """
    kinds: dict[str, Any] = {
        "flag": bool,
        "range": tuple[float, float] | None,
        "places": tuple[int, int] | None,
    }
    is_optional, has_default = setting.none is not None, setting.default is not None
    info = option(
        setting.default,
        setting.description,
        _long_name(setting.name),
        metavar=None if setting.kind == "flag" else metavar(setting, is_optional and has_default),
        none=None if has_default else setting.none,
        group=setting.group or None,
    )
    if setting.kind not in kinds:  # parsed here, since a number may also be a word such as "auto"
        info.parser = _parser_of(setting)
    annotation = kinds.get(setting.kind, str | None)
    return inspect.Parameter(setting.name, _KEYWORD, default=info, annotation=annotation)


def metavar(setting: Setting, with_none: bool = False) -> str:
    """Return the metavar of a setting.

    Examples
    --------
    >>> from napari_ensir.settings import FitSettings
    >>> [metavar(each) for each in settings_of(FitSettings) if each.name in ("method", "bin_width", "prior")]
    ['auto|em|em-released|least-squares', 'NUMBER|auto', 'NUMBER,NUMBER,...']
    """
    words = [KINDS[setting.kind].metavar] if setting.choices is None else [*map(str, setting.choices)]
    words += [setting.word] if setting.auto is not None else []
    return "|".join([*words, "none"] if with_none and "none" not in words else words)


def _parser_of(setting: Setting) -> Callable[[Any], Any]:
    def parse(text: Any) -> Any:
        try:
            return setting.parse(text)
        except EnsembleError as error:
            raise typer.BadParameter(str(error).replace("or None (", "or leave it out (")) from None

    return parse


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
    with usage_errors("--set"):
        for one in given:
            path, equals, text = one.partition("=")
            name, dot, key = path.rpartition(".")
            key = key.replace("-", "_")
            if not (equals and dot and name and key):
                raise EnsembleError(f"{one!r} is not RESTORER.SETTING=VALUE, such as median.size=5.")
            if name not in restorers:
                raise EnsembleError(f"there is no restorer {name}; there are: {', '.join(restorers)}.")
            known = {each.name: each for each in settings_of(restorers[name])}
            if key not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise EnsembleError(f"{name} has no setting {key!r}; {has}.")
            if key in values[name]:
                raise EnsembleError(f"{path} is given twice.")
            values[name][key] = replace(known[key], name=f"{name}.{key}").parse(text)
    return {name: with_settings(restorer, **values[name]) for name, restorer in restorers.items()}


@contextmanager
def usage_errors(option: str) -> Iterator[None]:
    """Raise EnsembleError as wrong usage of an option."""
    try:
        yield
    except EnsembleError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
