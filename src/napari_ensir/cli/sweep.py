"""The command ``sweep``: find the best value of a setting of a restorer."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from napari_ensir.cli.batch import check_any, check_before, report
from napari_ensir.cli.options import usage_errors
from napari_ensir.cli.restore import choose_restorers, open_images, written_text
from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.errors import EnsembleError
from napari_ensir.files.sets import Part
from napari_ensir.restorers import calibrate_restorer, with_channel_axis
from napari_ensir.restorers.base import (
    UnfamiliarImageWarning,
    input_warnings_of,
    restorer_record,
    with_settings,
)
from napari_ensir.restorers.batch import RestoreBatch
from napari_ensir.restorers.self_supervised.calibrate import (
    default_grid_range,
    format_value,
    numeric_settings,
    parameter_grid,
    tunable_settings,
)
from napari_ensir.restorers.self_supervised.learn import CorrelatedNoiseWarning
from napari_ensir.settings import RestoreSettings, SweepSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ensir.cli.app import SweepOptions
    from napari_ensir.restorers import Restorer
    from napari_ensir.restorers.self_supervised.calibrate import Sweep
    from napari_ensir.settings import Setting


def sweep(options: SweepOptions) -> dict[str, str]:
    """Rank values of one setting on all images; return the errors of images that failed, by stem.

    The restorations with the best value are written if there is an output path; with ``--all``, those of all
    values.
    """
    settings, out, write_all = options.settings, options.out, options.write_all
    if write_all and out is None:
        raise typer.BadParameter("there is no output folder; give --out.", param_hint="--all")
    given = RestoreSettings(device=settings.device, data_range=settings.data_range)
    chosen = choose_restorers(options.restorers, given)
    if len(chosen) > 1:
        raise EnsembleError(
            f"a sweep needs one restorer, but there are {len(chosen)}: {', '.join(chosen)}; give one."
        )
    ((name, restorer),) = chosen.items()
    known = _setting(name, restorer, options.setting)
    listed = options.values
    tried = _spread(known, restorer, settings) if listed is None else _listed(known, listed, settings)
    by_value = {
        f"{known.name}-{format_value(value)}": with_settings(restorer, **{known.name: value})
        for value in tried
    }
    names = () if out is None else tuple(by_value) if write_all else (name,)
    images, as_float = open_images(options.image, options.output), options.output.as_float
    batch = RestoreBatch(images, names, out or options.image[0], as_float=as_float, folder=write_all)
    check_before(batch, options.output, read=options.restorers.files)
    axis = images.choose_channel_axis(settings.channel_axis, pool=options.pool_channels)
    restorer = with_channel_axis(restorer, axis)
    arrays: dict[str, NDArray[Any]] = {}

    def read(number: int, stem: str) -> None:
        arrays[stem] = np.asarray(images.load(number)[Part.IMAGE])
        batch.warn(stem, input_warnings_of(restorer, arrays[stem]))

    batch.each(read)
    check_any(batch, arrays)
    with options.output.progress() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", CorrelatedNoiseWarning)  # both are printed below
        warnings.simplefilter("ignore", UnfamiliarImageWarning)
        hiding = settings.keywords("stride", "offsets", "seed")
        found = calibrate_restorer(
            restorer, known.name, tried, list(arrays.values()), channel_axis=axis, progress=progress, **hiding
        )
        best = with_settings(restorer, **{known.name: found.best})
        results = found.to_dict()
        kept = {key: results[key] for key in ("setting", "values", "equivalent")}
        batch.warnings |= dict.fromkeys(found.warnings)
        batch.run(
            lambda _, which: by_value[which] if write_all else best,
            axis,
            record=lambda by, **of: record_of("restored", restorer=restorer_record(by), sweep=kept, **of),
            overwrite=options.output.overwrite,
            progress=progress,
        )
    text = _shown(found) + ("" if out is None else f"\n{written_text(batch, out)}")
    return report(batch, options.output, text, restorer=name, **results)


def _setting(name: str, restorer: Restorer, given: str | None) -> Setting:
    """Return the setting of a name, if it changes the result of the restorer."""
    known = {each.name: each for each in tunable_settings(restorer)}
    if not known:
        raise EnsembleError(f"{name} has no setting to vary.")
    setting = known.get((given or "").replace("-", "_"))
    if setting is None:
        wrong = "give the setting to vary" if given is None else f"there is no setting {given!r}"
        raise typer.BadParameter(f"{wrong}; {name} has {', '.join(known)}.", param_hint="--setting")
    return setting


def _listed(setting: Setting, text: str, settings: SweepSettings) -> list[Any]:
    """Parse a list of values."""
    with usage_errors("--values"):
        if settings.between is not None or settings.count != SweepSettings.count:
            raise EnsembleError("values are given, so --between and --count cannot be; leave them out.")
        values = [setting.parse(part.strip()) for part in text.split(",")]
        names = [format_value(value) for value in values]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise EnsembleError(f"{repeated[0]} is given twice.")
        if len(values) < 2:
            raise EnsembleError(f"{text} is one value; give two or more, as in 0.5,1,2.")
        return values


def _spread(setting: Setting, restorer: Restorer, settings: SweepSettings) -> list[Any]:
    """Return evenly spaced values; by default those around the current one."""
    with usage_errors("--values"):
        if setting not in numeric_settings(restorer):
            raise EnsembleError(f"give the values of {setting.name}, which can be {setting.allowed()}.")
    with usage_errors("--between"):
        now = getattr(restorer, setting.name)
        if settings.between is None and now in (None, setting.word):
            raise EnsembleError(f"{setting.name} has no value to start from; give the range of values.")
        low, high = settings.between or default_grid_range(setting, now)
        return parameter_grid(setting, low, high, settings.count)


def _shown(found: Sweep) -> str:
    """Return the values, ranked by their errors, and the result in words."""
    table = found.scores.table(ranked=True)
    values = [format_value(found.values[index]) for index in found.scores.ranked]
    rows = tuple(replace(row, name=value) for row, value in zip(table.rows, values, strict=True))
    notes = (
        "Differences of mean squared error at hidden pixels are relative to the best value, ± their standard "
        "error over blocks.",
        found.in_words(),
    )
    return str(replace(table, rows=rows, notes=notes, heading=found.setting.replace("_", " ")))
