"""What Fit and Apply would do, as Python or as a command to be run without the viewer. Runs nothing.

Given names, paths and settings; knows no layers. Of a layer that is from no file, the path is a name in
capitals that says so.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ensir.settings import settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_ensir.settings import ApplySettings, FitSettings

__all__ = ["TABLE", "apply_as_command", "apply_as_python", "fit_as_command", "fit_as_python", "path_of"]

TABLE = "ensemble.lut.safetensors"
"""What a table is saved as, and read from where it is not from a file."""


def path_of(name: str, source: str | Path | None) -> str:
    """The file that a layer is from, or what stands for it.

    Examples
    --------
    >>> path_of("median", "/data/median.tif"), path_of("non-local means", None)
    ('/data/median.tif', 'PATH OF non-local means.tif')
    """
    return f"PATH OF {name}.tif" if source is None else str(source)


def fit_as_python(
    candidates: Mapping[str, str], truth: str, settings: FitSettings, mask: str | None = None
) -> str:
    """A program that learns the same table and saves it.

    Parameters
    ----------
    candidates
        Paths by name, in order.
    truth, mask
        Paths.
    settings
        Those that are not at their defaults are written out.

    Examples
    --------
    >>> from napari_ensir.settings import FitSettings
    >>> print(fit_as_python({"a": "a.tif"}, "t.tif", FitSettings(bin_width=16)))
    from napari_ensir import fit_lut
    from napari_ensir.files.image import read_image
    <BLANKLINE>
    paths = {
        'a': 'a.tif',
    }
    candidates = [read_image(path) for path in paths.values()]
    truth = read_image('t.tif')
    mask = None
    pairs = [(candidates, truth)]
    lut = fit_lut(pairs, names=tuple(paths), mask=mask, bin_width=16.0)
    lut = lut.calibrated(pairs, mask)
    lut.save('ensemble.lut.safetensors')
    """
    given = _keywords(settings)
    keywords = "".join(f", {name}={value!r}" for name, value in given.items())
    masks = "None" if mask is None else f"[read_image({mask!r}) > 0]"
    planes = f", planes={given['planes']!r}" if "planes" in given else ""
    lines = [
        "from napari_ensir import fit_lut",
        *_reading(candidates),
        f"truth = read_image({truth!r})",
        f"mask = {masks}",
        "pairs = [(candidates, truth)]",
        f"lut = fit_lut(pairs, names=tuple(paths), mask=mask{keywords})",
    ]
    if settings.truth_noise != "unknown":
        lines.append(f"lut = lut.calibrated(pairs, mask{planes})")
    return "\n".join([*lines, f"lut.save({TABLE!r})"])


def fit_as_command(
    candidates: Mapping[str, str], truth: str, settings: FitSettings, mask: str | None = None
) -> str:
    """The command that learns the same table and saves it.

    Examples
    --------
    >>> from napari_ensir.settings import FitSettings
    >>> fit_as_command({"a b": "a.tif"}, "t.tif", FitSettings(method="em"))
    "napari-ensir fit --candidate 'a b=a.tif' --truth t.tif --method em --out ensemble.lut.safetensors"
    """
    words = ["napari-ensir", "fit", *_named(candidates), "--truth", truth]
    words += [] if mask is None else ["--mask", mask]
    return shlex.join([*words, *_options(settings), "--out", TABLE])


def apply_as_python(
    lut: str, candidates: Mapping[str, str], settings: ApplySettings, *, match: bool, with_errors: bool
) -> str:
    """A program that combines the same images and writes what comes of it.

    Parameters
    ----------
    lut
        Path of the table.
    candidates
        Paths by name, in order.
    settings
        Those that are not at their defaults are written out.
    match, with_errors
        Whether to rescale the table to the images' exposure first, and to write the error to expect.
    """
    keywords = "".join(f", {name}={value!r}" for name, value in _keywords(settings).items())
    lines = ["from napari_ensir import load_lut"]
    lines += (
        [
            "from napari_ensir.ensemble.exposure import exposure_of, matched",
            "from napari_ensir.ensemble.provenance import sample_of",
        ]
        if match
        else []
    )
    lines += [*_reading(candidates, ", write_image"), f"lut = load_lut({lut!r})"]
    if match:
        lines += [
            "exposure = exposure_of(lut.report, [sample_of(lut.field(candidates))])",
            "lut = lut.rescaled(*matched(exposure))",
        ]
    lines.append(f"write_image('ensemble.tif', lut.apply(candidates{keywords}))")
    if with_errors:
        lines.append(f"write_image('expected_error.tif', lut.expected_error(candidates{keywords}))")
    return "\n".join(lines)


def apply_as_command(
    lut: str, candidates: Mapping[str, str], settings: ApplySettings, *, match: bool, with_errors: bool
) -> str:
    """The command that combines the same images and writes what comes of it.

    Examples
    --------
    >>> from napari_ensir.settings import ApplySettings
    >>> text = apply_as_command("t.lut", {"a": "a.tif"}, ApplySettings(), match=True, with_errors=False)
    >>> print(text)
    napari-ensir apply --lut t.lut --candidate a=a.tif --match --dtype float32 --out ensemble.tif
    """
    words = ["napari-ensir", "apply", "--lut", lut, *_named(candidates), *_options(settings)]
    words += ["--match"] if match else []
    words += ["--expected-error", "expected_error.tif"] if with_errors else []
    return shlex.join([*words, "--dtype", "float32", "--out", "ensemble.tif"])


def _reading(candidates: Mapping[str, str], more: str = "") -> list[str]:
    lines = [f"from napari_ensir.files.image import read_image{more}", "", "paths = {"]
    lines += [f"    {name!r}: {path!r}," for name, path in candidates.items()]
    return [*lines, "}", "candidates = [read_image(path) for path in paths.values()]"]


def _named(candidates: Mapping[str, str]) -> list[str]:
    return [word for name, path in candidates.items() for word in ("--candidate", f"{name}={path}")]


def _keywords(settings: FitSettings | ApplySettings) -> dict[str, Any]:
    """The settings that are not at their defaults."""
    return {
        each.name: getattr(settings, each.name)
        for each in settings_of(type(settings))
        if getattr(settings, each.name) != each.default
    }


def _options(settings: FitSettings | ApplySettings) -> list[str]:
    """The same as options of the command line."""
    words: list[str] = []
    kinds = {each.name: each.kind for each in settings_of(type(settings))}
    for name, value in _keywords(settings).items():
        words.append("--" + name.replace("_", "-"))
        if value is True:
            continue
        if isinstance(value, (tuple, list)):
            texts = [f"{one}" for one in value]
            words += [",".join(texts)] if kinds[name] == "numbers" else texts
        else:
            words.append(f"{value}")
    return words
