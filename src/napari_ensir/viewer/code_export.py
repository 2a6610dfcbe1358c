"""Export of the panels Fit, Apply and Restore as Python programs and commands.

The path of a layer that was not read from a file is a placeholder that starts with PATH OF.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_ensir.errors import EnsembleError
from napari_ensir.settings import settings_of
from napari_ensir.viewer.controls.forms import button, row
from napari_ensir.viewer.layers.layers import unique_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magicgui.widgets import Container
    from napari.layers import Layer

    from napari_ensir.settings import ApplySettings, BlindSettings, FitSettings, Settings


TABLE = "ensemble.lut.safetensors"
"""File name for a table that was not read from a file."""

CORRECTION_KEY = "napari-ensir correction"
"""Key in ``layer.metadata`` of a corrected layer; the value is (path of the source, Python expressions)."""

_CORRECTIONS = ("crop_image", "match_intensities", "shift_image", "turn_image")

_OPTIONS = (
    (r"crop_image\(\{\}, \((0, )*0,?\), ", "--crop", True),
    (r"np\.reshape\(\{\}, ", "--squeeze", True),
    (r"shift_image\(\{\}, ", "--align", False),
    (r"match_intensities\(\{\}, ", "--match", False),
)
"""Pattern of a correction, option of ``fit`` that does the same, and whether it changes the truth as well."""


def fit_as_python(
    candidates: Mapping[str, str],
    truth: str,
    settings: FitSettings,
    mask: str | None = None,
    corrections: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return a Python program that learns the same table and saves it.

    Parameters
    ----------
    candidates
        Paths by name, in order.
    truth, mask
        Paths.
    settings
        Only settings that differ from their defaults are written.
    corrections
        Python expressions with ``{}`` in place of the image, by the name of the corrected candidate; the name
        of the truth is "".

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
    given = _changed(settings)
    masks = "None" if mask is None else f"[read_image({mask!r}) > 0]"
    planes = f", planes={given['planes']!r}" if "planes" in given else ""
    lines = [
        "from napari_ensir import fit_lut",
        *_reading(candidates),
        f"truth = read_image({truth!r})",
        *_correcting(list(candidates), corrections or {}),
        f"mask = {masks}",
        "pairs = [(candidates, truth)]",
        f"lut = fit_lut(pairs, names=tuple(paths), mask=mask{_as_keywords(given)})",
    ]
    if settings.truth_noise != "unknown":
        lines.append(f"lut = lut.calibrated(pairs, mask{planes})")
    return "\n".join([*lines, f"lut.save({TABLE!r})"])


def _correcting(names: Sequence[str], corrections: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the statements that correct candidates and truth.

    Examples
    --------
    >>> _correcting(["a", "b"], {"b": ["np.flip({}, -1)", "crop_image({}, (0,), (9,))"]})[-1]
    'candidates[1] = crop_image(np.flip(candidates[1], -1), (0,), (9,))'
    """
    lines = []
    for name, codes in corrections.items():
        target = expression = f"candidates[{names.index(name)}]" if name else "truth"
        for code in codes:
            expression = code.format(expression)
        lines.append(f"{target} = {expression}")
    text = "\n".join(lines)
    if used := [name for name in _CORRECTIONS if f"{name}(" in text]:
        lines.insert(0, f"from napari_ensir.ensemble.corrections import {', '.join(used)}")
    return ["import numpy as np", *lines] if "np." in text else lines


def fit_as_command(
    candidates: Mapping[str, str],
    truth: str,
    settings: FitSettings,
    mask: str | None = None,
    corrections: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return the command that learns the same table and saves it.

    Raises
    ------
    EnsembleError
        If an image was corrected in a way that the command has no option for.

    Notes
    -----
    The options ``--align`` and ``--match`` measure the corrections again.

    Examples
    --------
    >>> from napari_ensir.settings import FitSettings
    >>> fit_as_command({"a b": "a.tif"}, "t.tif", FitSettings(method="em"))
    "napari-ensir fit --candidate 'a b=a.tif' --truth t.tif --method em --out ensemble.lut.safetensors"
    """
    options = [_option(name, code) for name, codes in (corrections or {}).items() for code in codes]
    marked = [] if mask is None else ["--mask", mask]
    words = [*_named(candidates), "--truth", truth, *marked, *dict.fromkeys(options), *_options(settings)]
    return shlex.join(["napari-ensir", "fit", *words, "--out", TABLE])


def _option(name: str, code: str) -> str:
    """Return the option of ``fit`` that corrects an image in the same way; the name of the truth is ""."""
    for pattern, option, of_truth in _OPTIONS:
        if re.match(pattern, code) and (name or of_truth):
            return option
    whose = f'"{name}"' if name else "the ground truth"
    raise EnsembleError(
        f"the command line has no option for the correction of {whose}, {code.format('image')}; use Copy as "
        "Python, or save the corrected layer and open its file."
    )


def apply_as_python(
    lut: str, candidates: Mapping[str, str], settings: ApplySettings, *, match: bool, with_errors: bool
) -> str:
    """Return a Python program that combines the same images and writes the results.

    Parameters
    ----------
    lut
        Path of the table.
    candidates
        Paths by name, in order.
    settings
        Only settings that differ from their defaults are written.
    match, with_errors
        Whether to rescale the table to the exposure of the images first, and whether to write the expected
        error.
    """
    keywords = _as_keywords(_changed(settings))
    errors = f"write_image('expected_error.tif', lut.expected_error(candidates{keywords}))"
    lines = [
        "from napari_ensir import load_lut",
        *_reading(candidates, ", write_image"),
        f"lut = load_lut({lut!r})",
        *["lut = lut.match_exposure(candidates)"] * match,
        f"write_image('ensemble.tif', lut.apply(candidates{keywords}))",
        *[errors] * with_errors,
    ]
    return "\n".join(lines)


def apply_as_command(
    lut: str, candidates: Mapping[str, str], settings: ApplySettings, *, match: bool, with_errors: bool
) -> str:
    """Return the command that combines the same images and writes the results.

    Examples
    --------
    >>> from napari_ensir.settings import ApplySettings
    >>> text = apply_as_command("t.lut", {"a": "a.tif"}, ApplySettings(), match=True, with_errors=False)
    >>> print(text)
    napari-ensir apply --lut t.lut --candidate a=a.tif --match --dtype float32 --out ensemble.tif
    """
    words = ["--lut", lut, *_named(candidates), *_options(settings), *["--match"] * match]
    words += ["--expected-error", "expected_error.tif"] * with_errors
    return shlex.join(["napari-ensir", "apply", *words, "--dtype", "float32", "--out", "ensemble.tif"])


@dataclass(frozen=True)
class Chosen:
    """A restorer with its settings.

    Attributes
    ----------
    key : str
        Key of a classical method, or name of a network.
    settings : dict
        Settings that differ from the defaults of the method or of the network file.
    path : str or None
        File of the network; None for a classical method.
    parts : dict
        Restorers that a DP-IR network gets instead of its own: "ir", "denoiser".
    """

    key: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None
    parts: Mapping[str, Chosen] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name on the command line and of the output."""
        return self.key if self.path is None else Path(self.path).name.partition(".")[0]


@dataclass(frozen=True)
class Restoring:
    """The choices in the panel Restore.

    Attributes
    ----------
    image : str
        Path of the image.
    chosen : sequence of Chosen
    channel_axis : int or None
    device : str
    self_ensemble : bool
    data_range : (low, high) or None
        Intensities that are mapped to 0 and 1 for the restorers, if given.
    float_output : bool
        Whether to write float32 images, which are not clipped.
    """

    image: str
    chosen: Sequence[Chosen]
    channel_axis: int | None = None
    device: str = "auto"
    self_ensemble: bool = False
    data_range: tuple[float, float] | None = None
    float_output: bool = False

    def words(self) -> list[str]:
        """Return the image and the restorers as arguments of ``restore`` and ``blind``."""
        words = [self.image]
        for each in self.chosen:
            words += ["--method", each.key] if each.path is None else ["--network", each.path]
            for part, other in each.parts.items():
                if other.settings:
                    raise EnsembleError(
                        f"the command line cannot change settings of the {part} of DP-IR, and those of "
                        f"{other.name} were changed here; copy a Python program."
                    )
                words += [f"--{part}", other.path or other.key]
        for each in self.chosen:
            for name, value in each.settings.items():
                words += ["--set", f"{each.name}.{name}={_as_text(value)}"]
        words += ["--self-ensemble"] * self.self_ensemble
        words += [] if self.channel_axis is None else ["--channel-axis", f"{self.channel_axis}"]
        return words + ["--device", self.device] * (self.device != "auto")

    def lines(self, more: str = "") -> list[str]:
        """Return the first lines of a program: imports, the image, and the restorers by name."""
        bases = ", ".join(["RESTORERS", *["SelfEnsemble"] * self.self_ensemble, "open_restorer"])
        how: dict[str, Any] = {"channel_axis": self.channel_axis, "device": self.device}
        how |= {} if self.data_range is None else {"data_range": self.data_range}
        names: list[str] = []
        for each in self.chosen:
            names.append(unique_name(each.name, names))
        conversion = "" if self.float_output else "as_dtype, "
        return [
            f"from napari_ensir.files.image import {conversion}read_image{more}",
            f"from napari_ensir.restorers import {bases}",
            "from napari_ensir.restorers.base import with_settings",
            "",
            f"image = read_image({self.image!r})",
            f"how = {how!r}",
            "restorers = {",
            *(
                f"    {name!r}: {self._expression(one)},"
                for name, one in zip(names, self.chosen, strict=True)
            ),
            "}",
        ]

    def _expression(self, chosen: Chosen) -> str:
        made = _expression(chosen, ", **how")
        return f"SelfEnsemble(restorer={made})" if self.self_ensemble else made


def _expression(chosen: Chosen, more: str = "") -> str:
    """Return an expression for a restorer; ``more`` are further arguments of ``with_settings``."""
    parts = "".join(f", {part}={_expression(other)}" for part, other in chosen.parts.items())
    is_classical = chosen.path is None
    made = f"RESTORERS[{chosen.key!r}]()" if is_classical else f"open_restorer({chosen.path!r}{parts})"
    arguments = _as_keywords(chosen.settings) + more
    return f"with_settings({made}{arguments})" if arguments else made


def _as_keywords(settings: Mapping[str, Any]) -> str:
    return "".join(f", {name}={value!r}" for name, value in settings.items())


def restore_as_python(restoring: Restoring) -> str:
    """Return a Python program that restores the same image and writes each result as ``<restorer>.tif``.

    Examples
    --------
    >>> print(restore_as_python(Restoring("noisy.tif", [Chosen("median", {"size": 5})])))
    from napari_ensir.files.image import as_dtype, read_image, write_image
    from napari_ensir.restorers import RESTORERS, open_restorer
    from napari_ensir.restorers.base import with_settings
    <BLANKLINE>
    image = read_image('noisy.tif')
    how = {'channel_axis': None, 'device': 'auto'}
    restorers = {
        'median': with_settings(RESTORERS['median'](), size=5, **how),
    }
    for name, restorer in restorers.items():
        write_image(f'{name}.tif', as_dtype(restorer(image), image.dtype))
    """
    lines = restoring.lines(", write_image")
    restored = "restorer(image)" if restoring.float_output else "as_dtype(restorer(image), image.dtype)"
    lines += ["for name, restorer in restorers.items():", f"    write_image(f'{{name}}.tif', {restored})"]
    return "\n".join(lines)


def restore_as_command(restoring: Restoring) -> str:
    """Return the command that restores the same image to ``<restorer>.tif``, or to the folder ``restored``.

    Examples
    --------
    >>> restore_as_command(Restoring("noisy.tif", [Chosen("median", {"size": 5})]))
    'napari-ensir restore noisy.tif --method median --set median.size=5 --out median.tif'
    """
    words = ["napari-ensir", "restore", *restoring.words()]
    words += ["--dtype", "float32"] if restoring.float_output else []
    out = f"{restoring.chosen[0].name}.tif" if len(restoring.chosen) == 1 else "restored"
    return shlex.join([*words, "--out", out])


def blind_as_python(restoring: Restoring, settings: BlindSettings, second: str | None = None) -> str:
    """Return a Python program that restores the same image, combines the results and writes them.

    Parameters
    ----------
    restoring, settings
    second
        Path of the second exposure, if there is one.
    """
    keywords = _changed(settings) | {"device": restoring.device}
    keywords |= {} if restoring.channel_axis is None else {"channel_axis": restoring.channel_axis}
    given = _as_keywords(keywords)
    given += "" if second is None else f", second_exposure=read_image({second!r})"
    lines = restoring.lines(", write_image")
    lines.insert(3, "from napari_ensir.restorers.self_supervised.learn import restore_and_combine")
    lines += [
        f"found = restore_and_combine(image, [*restorers.values()], [*restorers]{given})",
        "candidates = found.candidates"
        if restoring.float_output
        else "candidates = [as_dtype(each, image.dtype) for each in found.candidates]",
        "write_image('ensemble.tif', found.lut.apply(candidates, how['device']))",
        f"found.lut.save({TABLE!r})",
    ]
    return "\n".join(lines)


def blind_as_command(restoring: Restoring, settings: BlindSettings, second: str | None = None) -> str:
    """Return the command that restores the same image and combines the results.

    Raises
    ------
    EnsembleError
        If there is a second exposure, which the command cannot use.

    Examples
    --------
    >>> from napari_ensir.settings import BlindSettings
    >>> two = Restoring("noisy.tif", [Chosen("median"), Chosen("gaussian")])
    >>> print(blind_as_command(two, BlindSettings(stride=4)))  # doctest: +NORMALIZE_WHITESPACE
    napari-ensir blind noisy.tif --method median --method gaussian --stride 4 --dtype float32
        --out ensemble.tif --save-lut ensemble.lut.safetensors
    """
    if second is not None:
        raise EnsembleError(
            "the command learns from the image alone; choose no second exposure, or copy the Python program."
        )
    words = ["napari-ensir", "blind", *restoring.words(), *_options(settings), "--dtype", "float32"]
    return shlex.join([*words, "--out", "ensemble.tif", "--save-lut", TABLE])


def _as_text(value: Any) -> str:
    """Format a value for ``--set``.

    Examples
    --------
    >>> _as_text((0.0, 4095.0)), _as_text(None), _as_text(0.5)
    ('0.0,4095.0', 'none', '0.5')
    """
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def _reading(candidates: Mapping[str, str], more: str = "") -> list[str]:
    lines = [f"from napari_ensir.files.image import read_image{more}", "", "paths = {"]
    lines += [f"    {name!r}: {path!r}," for name, path in candidates.items()]
    return [*lines, "}", "candidates = [read_image(path) for path in paths.values()]"]


def _named(candidates: Mapping[str, str]) -> list[str]:
    return [word for name, path in candidates.items() for word in ("--candidate", f"{name}={path}")]


def _changed(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from their defaults."""
    defaults = type(settings)().keywords()
    return {name: value for name, value in settings.keywords().items() if value != defaults[name]}


def _options(settings: Settings) -> list[str]:
    """Return the settings that differ from their defaults as command-line options."""
    words: list[str] = []
    lists = [each.name for each in settings_of(settings) if each.kind == "numbers"]
    for name, value in _changed(settings).items():
        words.append("--" + name.replace("_", "-"))
        if isinstance(value, tuple) and name not in lists:
            words += map(str, value)
        elif value is not True:
            words.append(_as_text(value))
    return words


def copy_buttons() -> Container:
    """Return the buttons ``python_button`` and ``command_button``."""
    tooltip = "Copy a {} that does the same without the viewer."
    return row(
        button("Copy as Python", tooltip.format("program"), "python_button"),
        button("Copy as command", tooltip.format("command"), "command_button"),
        name="copies",
        gui_only=True,
    )


def corrections_of_layers(layers: Mapping[str, Layer]) -> dict[str, Sequence[str]]:
    """Return the corrections of the corrected layers by the same keys; omit other layers."""
    return {
        key: layer.metadata[CORRECTION_KEY][1]
        for key, layer in layers.items()
        if CORRECTION_KEY in layer.metadata
    }


def path_of_layer(layer: Layer) -> str:
    """Return the path of the file that napari read a layer from, or a placeholder."""
    if CORRECTION_KEY in layer.metadata:
        return str(layer.metadata[CORRECTION_KEY][0])
    return layer.source.path or f"PATH OF {layer.name}.tif"


def copied(text: str) -> str:
    """Copy text to the clipboard; return a sentence for the user."""
    from qtpy.QtWidgets import QApplication

    QApplication.clipboard().setText(text)
    hint = " Replace each PATH OF ... with a path; these layers were not read from files."
    return "Copied." + hint * ("PATH OF" in text)
