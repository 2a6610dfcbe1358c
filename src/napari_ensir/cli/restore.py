"""The commands ``restore``, ``blind`` and ``restorers``, and what ``sweep`` shares with them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_ensir.cli import terminal
from napari_ensir.cli.batch import KEEP, check_before, lut_target, note_alpha, report
from napari_ensir.cli.options import metavar, with_restorer_options
from napari_ensir.devices import resolve_device
from napari_ensir.errors import EnsembleError
from napari_ensir.files.paths import Place
from napari_ensir.files.sets import Part, open_set
from napari_ensir.restorers import RESTORERS, SelfEnsemble
from napari_ensir.restorers.base import with_settings
from napari_ensir.restorers.batch import BlindBatch, RestoreBatch, blind_scores
from napari_ensir.settings import RestoreSettings, settings_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_ensir.cli.app import BlindOptions, RestoreOptions, RestorerOptions, RestorersOptions
    from napari_ensir.cli.terminal import Output
    from napari_ensir.files.sets import ImageSet
    from napari_ensir.restorers import Restorer
    from napari_ensir.settings import Setting


def choose_restorers(options: RestorerOptions, settings: RestoreSettings) -> dict[str, Restorer]:
    """Return the requested restorers by output name: the key of a method, or the file name of a network.

    Parameters
    ----------
    options
    settings
        Settings for all restorers that have them. None keeps the value of the restorer.

    Raises
    ------
    EnsembleError
        If there is no restorer, a name is unknown or repeated, or a file is invalid.
    typer.BadParameter
        If a setting of a single restorer is invalid.
    """
    resolve_device(settings.device)
    given = {name: value for name, value in settings.keywords().items() if value is not None}
    if not options.method and not options.network:
        raise EnsembleError("there is no restorer; give --method NAME or --network FILE.")
    if unknown := [name for name in options.method if name not in RESTORERS]:
        raise EnsembleError(f"there is no method {unknown[0]!r}; choose from {', '.join(RESTORERS)}.")
    named: list[tuple[str, Restorer]] = [(name, RESTORERS[name]()) for name in options.method]
    parts = {"ir": open_named(options.ir), "denoiser": open_named(options.denoiser)}
    for path in options.network:
        named += [(name.partition(".")[0], each) for name, each in _open_networks(path, **parts).items()]
    for part, given_part in parts.items():
        if given_part is not None and not any(hasattr(each, part) for _, each in named):
            raise EnsembleError(f"--{part} is for networks of DP-IR, and none is given; leave it out.")
    found: dict[str, Restorer] = {}
    for name, restorer in named:
        if name in found:
            raise EnsembleError(
                f"two restorers are named {name}; give each restorer once, and rename files with equal names."
            )
        found[name] = with_settings(restorer, **given)
    found = with_restorer_options(found, options.own)
    if settings.self_ensemble:
        return {name: SelfEnsemble(restorer=each) for name, each in found.items()}
    return found


def open_named(name: str | None) -> Restorer | None:
    """Return the restorer of this name, or open the file."""
    if name is None:
        return None
    from napari_ensir.restorers import open_restorer  # with torch, if it is used

    found: Restorer = RESTORERS[name]() if name in RESTORERS else open_restorer(name)
    return found


def _open_networks(path: Path, ir: Restorer | None, denoiser: Restorer | None) -> dict[str, Restorer]:
    """Open a network, or all networks of a folder, by file name."""
    from napari_ensir.restorers import open_restorer, open_restorers  # with torch

    if not path.is_dir():
        return {path.name: open_restorer(path, ir=ir, denoiser=denoiser)}
    opened, failed = open_restorers(path, ir=ir, denoiser=denoiser)
    for error in failed.values():
        raise error
    return opened


def restorers(options: RestorersOptions) -> None:
    """List restorers and their settings."""
    options.output.check()
    chosen = options.restorers
    if not chosen.method and not chosen.network:
        chosen = replace(chosen, method=list(RESTORERS))
    rows, results = [], {}
    for name, restorer in choose_restorers(chosen, RestoreSettings()).items():
        results[name] = {each.name: getattr(restorer, each.name) for each in settings_of(restorer)}
        rows += [_setting_row(name, each, results[name][each.name]) for each in settings_of(restorer)]
        if not results[name]:
            rows.append((name, "", "", "has no settings"))
    options.output.finish(results, terminal.table(("", "values", "current", ""), rows))


def _setting_row(name: str, setting: Setting, current: Any) -> tuple[str, str, str, str]:
    description = setting.description
    if setting.kind in ("integer", "number") and (setting.minimum, setting.maximum) != (None, None):
        allowed = setting.allowed()
        description += f" {allowed[:1].upper()}{allowed[1:]}."
    shown = terminal.plain(setting.none if current is None else current)
    return f"{name}.{setting.name}", metavar(setting, setting.none is not None), shown, description


def restore(options: RestoreOptions) -> dict[str, str]:
    """Restore images; return the errors of images that failed, by stem.

    The output of one restorer is a single image; with several restorers, it is a folder with one image each.
    """
    output = options.output
    restorers = choose_restorers(options.restorers, options.settings)
    images = open_images(options.image, output)
    batch = RestoreBatch(
        images,
        tuple(restorers),
        options.out,
        as_float=output.as_float,
        networks=options.restorers.files,
    )
    check_before(batch, output, read=options.restorers.files, resume=options.resume)
    axis = images.choose_channel_axis(options.settings.channel_axis, pool=options.pool_channels)
    with output.progress() as progress:
        batch.run(
            lambda _, name: restorers[name],
            axis,
            overwrite=output.overwrite,
            resume=options.resume,
            progress=progress,
        )
    return report(batch, output, written_text(batch, options.out), resume=options.resume)


def blind(options: BlindOptions) -> dict[str, str]:
    """Learn one table from all images and write their ensembles; return the errors of images that failed."""
    settings, output = options.settings, options.output
    given = RestoreSettings(
        device=settings.device, data_range=settings.data_range, self_ensemble=options.self_ensemble
    )
    chosen = choose_restorers(options.restorers, given)
    if options.resume and options.save_lut is None:
        raise EnsembleError("--resume needs --save-lut, because it uses the lookup table of the earlier run.")
    target = None
    if options.save_lut is not None:
        target = lut_target(options.save_lut, output.overwrite or options.resume, KEEP)
    images = open_images(options.image, output)
    axis = images.choose_channel_axis(settings.channel_axis, pool=options.pool_channels)
    settings = replace(settings, channel_axis=axis)
    batch = BlindBatch(
        images,
        chosen,
        options.out,
        settings,
        as_float=output.as_float,
        networks=options.restorers.files,
    )
    others = [] if target is None else [Place("--save-lut", target)]
    check_before(batch, output, others=others, read=options.restorers.files, resume=options.resume)
    with output.progress() as progress:
        lut = batch.open_table(target, progress, overwrite=output.overwrite, resume=options.resume)
        batch.combine(lut, overwrite=output.overwrite, resume=options.resume, progress=progress)
    reason = lut.report["blind"]["reason"]
    text = f"{blind_scores(lut)}\n{reason}\n{written_text(batch, options.out)}"
    text += f"\n{target}: {lut!r}" if target else ""
    saved = None if target is None else str(target)
    return report(batch, output, text, resume=options.resume, scores=lut.report["scores"], lut=saved)


def open_images(paths: Sequence[Path], output: Output) -> ImageSet:
    """Open the images to restore."""
    images = open_set({}, {Part.IMAGE: paths})
    note_alpha(images, output)
    return images


def written_text(batch: RestoreBatch, out: Path) -> str:
    """Return how many files were written."""
    return f"{sum(map(len, batch.written.values()))} written to {out}"
