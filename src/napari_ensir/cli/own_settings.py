"""A restorer's own settings on the command line: RESTORER.SETTING=VALUE, and what there is to set."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

import typer

from napari_ensir.cli import terminal
from napari_ensir.cli.options import metavar, value_of
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_ensir.cli.terminal import Output
    from napari_ensir.restorers import Restorer
    from napari_ensir.settings import Setting

__all__ = ["list_restorers", "own_settings", "with_own_settings"]

OPTION = "--set"


def own_settings(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """RESTORER.SETTING=VALUE arguments, as texts by restorer and setting.

    Raises
    ------
    typer.BadParameter
        If one is of another form, or comes twice.

    Examples
    --------
    >>> own_settings(["median.size=5", "wavelet.wavelet=db1"])
    {'median': {'size': '5'}, 'wavelet': {'wavelet': 'db1'}}
    """
    found: dict[str, dict[str, str]] = {}
    for one in given:
        place, equals, value = one.partition("=")
        restorer, dot, name = place.rpartition(".")
        if not (equals and dot and restorer and name):
            raise _wrong(f"{one!r} is not RESTORER.SETTING=VALUE, such as median.size=5")
        if name in found.setdefault(restorer, {}):
            raise _wrong(f"{place} is given twice")
        found[restorer][name.replace("-", "_")] = value
    return found


def with_own_settings(
    restorers: Mapping[str, Restorer], given: Mapping[str, Mapping[str, str]]
) -> dict[str, Restorer]:
    """The restorers, with what was given for each of them.

    Raises
    ------
    typer.BadParameter
        If there is no such restorer or setting, or the value cannot be used.
    """
    from napari_ensir.restorers.base import with_settings

    for name in given:
        if name not in restorers:
            raise _wrong(f"{name} is none of the restorers here, which are {', '.join(restorers)}")
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
    """Show what restorers there are, and what each can be told."""
    output.check()
    rows, told = [], {}
    for name, restorer in restorers.items():
        settings = _settings(restorer)
        told[name] = {each.name: getattr(restorer, each.name) for each in settings}
        rows += [
            (
                f"{name}.{each.name}",
                _given(each),
                terminal.plain(each.none if told[name][each.name] is None else told[name][each.name]),
                f"{each.description}{_limits(each)}",
            )
            for each in settings
        ] or [(name, "", "", "has no settings")]
    output.finish(told, lambda: terminal.table(("", "can be", "is", ""), rows))


def _given(setting: Setting) -> str:
    word = metavar(setting)
    return word if setting.none is None or word.endswith("none") else f"{word}|none"


def _limits(setting: Setting) -> str:
    numbers = setting.kind in ("integer", "number") and (setting.minimum, setting.maximum) != (None, None)
    return f" {setting.allowed()[:1].upper()}{setting.allowed()[1:]}." if numbers else ""
