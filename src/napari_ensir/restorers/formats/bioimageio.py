"""Restorers from bioimage.io packages: CAREamics' networks, TorchScript and ONNX.

A package is a ZIP archive with a description in ``rdf.yaml`` (formats 0.4 and 0.5,
https://github.com/bioimage-io/spec-bioimage-io). Code in a package is never run or imported.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from dataclasses import dataclass
from functools import reduce
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_ensir.errors import EnsembleError, ensemble_errors
from napari_ensir.files.tensors import brief
from napari_ensir.files.yaml_text import parse_yaml
from napari_ensir.restorers.formats.careamics import build_restorer, parse_numbers, read_weights
from napari_ensir.restorers.formats.file_kinds import DESCRIPTIONS
from napari_ensir.restorers.networks.external import (
    Normalization,
    PackagedNetwork,
    check_channels,
    check_tile,
    load_network,
)
from napari_ensir.restorers.networks.onnx import OnnxNetwork
from napari_ensir.restorers.networks.tiling import Tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_CAREAMICS = ("careamics.models.unet", "careamics.models", "careamics.models.unet.unet")
_SETTINGS = "careamics.yaml"
_MAX_FILES = 1000
_MAX_BYTES = 2**32
# Weights are compressed by a tenth, so a file of a much higher ratio was made to fill the memory.
_MAX_RATIO = 8
_MIN_LIMIT = 2**24

_PLANES = {"y": 256, "x": 256}
_VOLUMES = {"z": 32, "y": 128, "x": 128}
_MAX_CHANNELS = 64
_FIXED = "fixed_zero_mean_unit_variance"
_EPS = 1e-6  # bioimage.io adds it to standard deviations


def open_package(path: Path, *, device: str = "auto") -> PackagedNetwork:
    """Create a restorer from a package.

    Parameters
    ----------
    path
        A ``.zip`` file. It is read once.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Raises
    ------
    EnsembleError
        If it is not a package, or contains no network of a supported kind.
    """
    package = _Package(path)
    rdf = package.description()
    weights = rdf.get("weights")
    if not isinstance(weights, dict):
        raise EnsembleError(f"{path} describes no weights.")
    state, script, onnx = (weights.get(key) for key in ("pytorch_state_dict", "torchscript", "onnx"))
    if isinstance(state, dict) and _architecture(state)[0] in _CAREAMICS:
        return _open_careamics(package, rdf, state, device)
    if isinstance(script, dict):
        loaded = load_network(path, content=package.file(script))
        return _open_described(package, rdf, loaded.network, device)
    if isinstance(onnx, dict):
        return _open_described(package, rdf, _load_onnx(package, onnx), device)
    kinds = ", ".join(brief(str(kind)) for kind in weights) or "no weights"
    code = ""
    if isinstance(state, dict):
        code = f" The network of its state dict is {_architecture(state)[1]}, which is not run."
    raise EnsembleError(
        f"{path} contains {kinds}; packages with CAREamics' UNet, TorchScript or "
        f"ONNX weights can be used.{code} The bioimage.io tools can convert weights to TorchScript or ONNX."
    )


class _Package:
    """A package whose archive was checked.

    Parameters
    ----------
    path
        The file, which is read into memory.

    Raises
    ------
    EnsembleError
        If it is not a ZIP archive, or contains file names that are not allowed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ensemble_errors(f"{path} cannot be read as a ZIP archive"):
            if path.stat().st_size > _MAX_BYTES:
                raise EnsembleError(f"{path} is larger than {_MAX_BYTES // 2**30} GB, the limit of packages.")
            content = path.read_bytes()
            self._archive = zipfile.ZipFile(io.BytesIO(content))
        self._max_file = max(_MAX_RATIO * len(content), _MIN_LIMIT)
        self.names = self._archive.namelist()
        if len(self.names) > _MAX_FILES or len({name.lower() for name in self.names}) < len(self.names):
            raise EnsembleError(f"{path} contains two files of one name, or more than {_MAX_FILES} files.")
        for name in self.names:
            if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
                raise EnsembleError(f"{path} contains {name[:80]!r}, a path that leads out of the package.")

    def description(self) -> dict[str, Any]:
        """Read ``rdf.yaml``.

        Raises
        ------
        EnsembleError
            If it is missing, cannot be read, or does not describe a model in format 0.4 or 0.5.
        """
        found = [name for name in DESCRIPTIONS if name in self.names]
        if not found:
            raise EnsembleError(f"{self.path} contains no rdf.yaml, so it is not a bioimage.io package.")
        rdf = self.yaml(found[0])
        if rdf.get("type") != "model":
            raise EnsembleError(f"{self.path} is a package of type {brief(rdf.get('type'))}, not a model.")
        version = str(rdf.get("format_version"))
        if version.split(".")[:2] not in (["0", "4"], ["0", "5"]):
            raise EnsembleError(
                f"{self.path} has format version {brief(version)}; 0.4 and 0.5 can be read, and the "
                "bioimage.io tools convert others to these."
            )
        return rdf

    def yaml(self, name: str) -> dict[str, Any]:
        """Read a YAML file of the package; EnsembleError if it is missing or cannot be read."""
        content = self._read(name)
        with ensemble_errors(f"{self.path}: {name[:80]} cannot be read"):
            return parse_yaml(content)

    def file(self, entry: Mapping[str, Any]) -> bytes:
        """Read the file that an entry of the description names, and check its SHA-256 if that is stated.

        Raises
        ------
        EnsembleError
            If it is not in the package, is damaged, or has another SHA-256.
        """
        name = entry.get("source")
        if not isinstance(name, str):
            raise EnsembleError(f"{self.path} states the name of a file as {brief(name)}; text is needed.")
        if "://" in name:
            raise EnsembleError(
                f"{self.path} refers to {name[:80]!r}, which is not in it; download the complete package."
            )
        content = self._read(name.removeprefix("./"))
        stated = entry.get("sha256")
        if stated is not None and stated != hashlib.sha256(content).hexdigest():
            raise EnsembleError(
                f"{self.path}: {name[:80]} is not the file that rdf.yaml describes (SHA-256 differs)."
            )
        return content

    def _read(self, name: str) -> bytes:
        if name not in self.names:
            raise EnsembleError(f"{self.path} contains no {name[:80]!r}, which it needs.")
        size = self._archive.getinfo(name).file_size
        if size > self._max_file:
            raise EnsembleError(
                f"{self.path}: {name[:80]} has {size // 2**20} MB uncompressed, too many for the size of the "
                "package."
            )
        with ensemble_errors(f"{self.path}: {name[:80]} cannot be read"):
            return self._archive.read(name)


def _architecture(state: dict[str, Any]) -> tuple[str, str]:
    """The library of a network (empty if none), and a description of the network for messages."""
    stated = state.get("architecture")
    if isinstance(stated, str):  # 0.4: "module.Class", or "file.py:Class"
        library, _, name = stated.rpartition(".")
        return ("" if ":" in stated else library if name == "UNet" else "other"), brief(stated)
    if isinstance(stated, dict) and isinstance(module := stated.get("import_from"), str):
        called = stated.get("callable")
        return (module if called == "UNet" else "other"), f"{brief(called)} of {brief(module)}"
    if isinstance(stated, dict):
        return "", f"code in {brief(stated.get('source'))}"
    return "", "not named"


def _open_careamics(
    package: _Package, rdf: dict[str, Any], state: dict[str, Any], device: str
) -> PackagedNetwork:
    path = package.path
    if _SETTINGS not in package.names:
        raise EnsembleError(
            f"{path} contains no {_SETTINGS}, which states how intensities are normalised; export it again "
            "from CAREamics."
        )
    settings = package.yaml(_SETTINGS)
    algorithm, data = settings.get("algorithm_config"), settings.get("data_config")
    if not isinstance(algorithm, dict) or not isinstance(data, dict):
        raise EnsembleError(f"{path}: {_SETTINGS} does not describe a training with CAREamics.")
    architecture = state.get("architecture")
    stated = (architecture if isinstance(architecture, dict) else state).get("kwargs")
    model = algorithm.get("model")
    stated, model = (each if isinstance(each, dict) else {} for each in (stated, model))
    if differ := [name for name in stated.keys() & model.keys() if stated[name] != model[name]]:
        raise EnsembleError(f"{path}: rdf.yaml and {_SETTINGS} differ in the network's {brief(differ[0])}.")
    weights = read_weights(package.file(state), f"{path}: {str(state.get('source'))[:80]}")
    restorer = build_restorer(algorithm, data, weights, where=str(path), label=path.stem, device=device)
    # The output is not compared: for it, CAREamics states the numbers of the input instead of the target.
    source = _single(rdf.get("inputs"), "input", str(path))
    preprocess = _processing(source.get("preprocessing"), restorer.channels, str(path))
    probe = torch.linspace(0, 1000, 16).repeat(restorer.channels, 1)
    ours, theirs = restorer.before(probe), preprocess(probe)
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(ours.abs().max())):
        raise EnsembleError(f"{path}: rdf.yaml and {_SETTINGS} differ in how intensities are normalised.")
    return restorer


def _load_onnx(package: _Package, entry: dict[str, Any]) -> OnnxNetwork:
    external = entry.get("external_data")
    stated = external if isinstance(external, dict) else {}

    def read(name: str) -> bytes:
        source = PurePosixPath(str(entry.get("source"))).parent / name
        return package.file({"source": str(source), "sha256": stated.get("sha256")})

    return OnnxNetwork(package.file(entry), str(package.path), read)


def _open_described(
    package: _Package, rdf: dict[str, Any], network: Callable[[Tensor], Any], device: str
) -> PackagedNetwork:
    """Create a restorer from a network and the description of its tensors."""
    where = str(package.path)
    source, target = _single(rdf.get("inputs"), "input", where), _single(rdf.get("outputs"), "output", where)
    inputs, outputs = _parse_axes(source, where), _parse_axes(target, where)
    spatial = "".join(letter for letter in "zyx" if letter in inputs)
    if spatial not in ("yx", "zyx") or set(spatial) != outputs.keys() & set("zyx"):
        raise EnsembleError(
            f"{where} has the axes {''.join(inputs)} and {''.join(outputs)}; rows and columns, or volumes, "
            "are needed."
        )
    channels = _channels(inputs, 1, where)
    check_channels(channels, _channels(outputs, channels, where), where)
    size = _sizes(inputs, spatial, where)
    scale, missing, halos = _output_geometry(inputs, outputs, size, spatial, where)
    # Pixels of the input at each side for which the output is not valid.
    halo = max(math.ceil((h + n / 2) / scale) for h, n in zip(halos, missing, strict=True))
    if 2 * halo >= min(size):
        raise EnsembleError(
            f"{where} takes images of {' x '.join(map(str, size))} pixels and discards {halo} at each side, "
            "which leaves nothing."
        )
    overlap = tuple(max(2 * halo, side // 4) for side in size)
    return PackagedNetwork(
        network=_Adapted(network, "".join(inputs), "".join(outputs), "bc" + spatial, missing),
        label=package.path.stem,
        channels=channels,
        sides=size,
        enlarges=scale,
        axes=len(size),
        before=_processing(source.get("preprocessing"), channels, where),
        after=_processing(target.get("postprocessing"), channels, where),
        learned=_training_intensities(source.get("preprocessing"), where),
        tiles=Tiles(size=size, overlap=overlap, margin=halo, border=halo, batch=1),
        device=device,
    )


class _Adapted(nn.Module):
    """A network with our axes, and zeros at the borders that it leaves out."""

    def __init__(
        self, network: Callable[[Tensor], Any], inputs: str, outputs: str, ours: str, missing: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.network, self.inputs, self.outputs, self.ours = network, inputs, outputs, ours
        self.padding = [each for n in reversed(missing) for each in (n // 2, n - n // 2)]

    def forward(self, tiles: Tensor) -> Tensor:
        output = self.network(_reorder(tiles, self.ours, self.inputs))
        if isinstance(output, list | tuple) and len(output) == 1:
            output = output[0]
        if not isinstance(output, Tensor) or output.ndim != len(self.outputs):
            raise RuntimeError(f"its output is not a tensor of {len(self.outputs)} axes")
        return functional.pad(_reorder(output, self.outputs, self.ours), self.padding)


def _reorder(tensor: Tensor, axes: str, wanted: str) -> Tensor:
    """A tensor with its axes in another order; axes of length 1 are added or removed."""
    for axis in reversed(range(len(axes))):
        if axes[axis] not in wanted:
            tensor = tensor.squeeze(axis)
    kept = [letter for letter in axes if letter in wanted]
    if tensor.ndim != len(kept):
        raise RuntimeError(f"an axis of {axes!r} that is not among {wanted!r} is longer than 1")
    tensor = tensor.permute([kept.index(letter) for letter in wanted if letter in kept])
    for axis, letter in enumerate(wanted):
        if letter not in kept:
            tensor = tensor.unsqueeze(axis)
    return tensor


def _single(tensors: object, what: str, where: str) -> dict[str, Any]:
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        count = len(tensors) if isinstance(tensors, list) else "no"
        raise EnsembleError(f"{where} has {count} {what}s; networks from one image to one can be used.")
    return tensors[0]


@dataclass(frozen=True)
class _Axis:
    """Size of an axis (a number, a rule, or None: free), its pixel distance, and its halo."""

    size: Any
    distance: Any = 1.0
    halo: Any = 0


def _parse_axes(tensor: dict[str, Any], where: str) -> dict[str, _Axis]:
    """The axes of a tensor by their letters, in the network's order."""
    stated: Any = tensor.get("axes")
    found: dict[str, _Axis] = {}
    if isinstance(stated, str):  # 0.4
        shape, halo = tensor.get("shape"), tensor.get("halo", [0] * len(stated))
        if isinstance(shape, dict):  # free sizes, or a rule
            shape = [{key: _item(each, n) for key, each in shape.items()} for n in range(len(stated))]
        found = {letter: _Axis(_item(shape, n), halo=_item(halo, n)) for n, letter in enumerate(stated)}
    elif isinstance(stated, list) and all(isinstance(each, dict) for each in stated):  # 0.5
        for each in stated:
            kind, names = str(each.get("type")), each.get("channel_names")
            letter = str(each.get("id")) if kind == "space" else kind[:1]
            size = len(names) if kind == "channel" and isinstance(names, list) else each.get("size")
            found[letter] = _Axis(size, each.get("scale", 1.0), each.get("halo", 0))
    if not found or len(found) < len(stated) or not found.keys() <= set("bczyx"):
        names = brief(stated)
        if isinstance(stated, list):
            mappings = [each for each in stated[:8] if isinstance(each, dict)]
            names = ", ".join(str(each.get("id", each.get("type")))[:20] for each in mappings)
        raise EnsembleError(f"{where} has the axes {names}; batch, channel, z, y and x are supported.")
    return found


def _item(values: object, index: int) -> Any:
    """An item of a list; None if there is none."""
    return values[index] if isinstance(values, list) and index < len(values) else None


def _channels(axes: dict[str, _Axis], before: int, where: str) -> int:
    """Number of channels; a missing axis is one."""
    size = axes["c"].size if "c" in axes else 1
    if isinstance(size, dict) and size.get("step") == 0:  # 0.4, if other axes are free
        size = size.get("min")
    elif isinstance(size, dict) and size.get("scale") in (0, 1) and type(size.get("offset")) in (int, float):
        size = int(before * size["scale"] + 2 * size["offset"])
    if type(size) is int and 1 <= size <= _MAX_CHANNELS:
        return size
    raise EnsembleError(
        f"{where} takes {brief(size)} channels; a number from 1 to {_MAX_CHANNELS} is needed."
    )


def _sizes(axes: dict[str, _Axis], spatial: str, where: str) -> tuple[int, ...]:
    """Fixed sizes, and for free ones those closest to the default size of tiles."""
    wanted = _PLANES if len(spatial) == 2 else _VOLUMES
    found: dict[str, int] = {}
    for letter in spatial:
        size = axes[letter].size
        if isinstance(size, dict) and "axis_id" in size:  # equal to another axis
            other = axes.get(str(size["axis_id"]))
            size = other.size if other else size
        least, step = (size.get("min"), size.get("step")) if isinstance(size, dict) else (size, 0)
        if type(least) is not int or type(step) is not int or least < 1 or step < 0:
            raise EnsembleError(
                f"{where} states the size {brief(size)} along {letter}; whole numbers are needed."
            )
        found[letter] = least + max(round((wanted[letter] - least) / step), 0) * step if step else least
    return check_tile(tuple(found.values()), where)


def _output_geometry(
    inputs: dict[str, _Axis], outputs: dict[str, _Axis], size: tuple[int, ...], spatial: str, where: str
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Scale of rows and columns; the pixels that the output leaves out, and its halo, along each axis."""
    scales: list[Any] = []
    missing: list[Any] = []
    for letter, side in zip(spatial, size, strict=True):
        stated, offset = outputs[letter].size, 0
        try:
            if isinstance(stated, dict) and "scale" in stated:  # 0.4, whose offset is that of each side
                scale, offset = stated["scale"], 2 * stated["offset"]
            elif isinstance(stated, dict):
                scale, offset = inputs[letter].distance / outputs[letter].distance, stated.get("offset", 0)
            else:
                scale = stated / side
            scales.append(round(float(scale), 6))
            missing.append(-float(offset))
        except (TypeError, KeyError, ZeroDivisionError, OverflowError):
            scales.append(math.nan)
    halos = [outputs[letter].halo for letter in spatial]
    if not (
        all(type(each) is int and each >= 0 for each in halos)
        and all(each == each // 1 >= 1 for each in scales)
        and all(each == each // 1 >= 0 for each in missing)
    ):
        raise EnsembleError(
            f"{where} scales images by {scales}, leaves out {missing} pixels and has a halo of {halos}; "
            "whole numbers are needed, scales from 1 and the others from 0."
        )
    scale = int(scales[-1])
    if scales[-2] != scale or (len(scales) == 3 and max(scales) > 1):
        raise EnsembleError(
            f"{where} scales images by {scales}; only planes can be enlarged, rows and columns equally."
        )
    return scale, tuple(map(int, missing)), tuple(halos)


def _processing(steps: object, channels: int, where: str) -> Callable[[Tensor], Tensor]:
    """Return ``preprocessing`` or ``postprocessing`` as one function of tensors of shape (channels, ...).

    Steps that depend on the image are refused, because their effect on intensities cannot be inverted.
    """
    functions = [_function(*each, channels, where) for each in _steps(steps, where)]
    return lambda x: reduce(lambda value, step: step(value), functions, x)


def _steps(stated: object, where: str) -> list[tuple[object, dict[str, Any]]]:
    """Names in format 0.5 and arguments of the steps, without those that keep intensities as they are."""
    stated = [] if stated is None else stated
    if not isinstance(stated, list) or not all(isinstance(each, dict) for each in stated):
        raise EnsembleError(
            f"{where} states the processing of intensities as {brief(stated)}; a list is needed."
        )
    found: list[tuple[object, dict[str, Any]]] = []
    for each in stated:
        name, kwargs = each.get("id", each.get("name")), each.get("kwargs")
        kwargs = kwargs if isinstance(kwargs, dict) else {}
        if name == "zero_mean_unit_variance" and kwargs.get("mode") == "fixed":  # 0.4
            name = _FIXED
        if name != "ensure_dtype" or kwargs.get("dtype") not in ("float32", "float64"):
            found.append((name, kwargs))
    return found


def _training_intensities(stated: object, where: str) -> Normalization | None:
    """Mean and standard deviation of the first step, if it normalises by fixed numbers."""
    (name, kwargs), *_ = [*_steps(stated, where), (None, {})]
    return _fixed(kwargs, where) if name == _FIXED else None


def _fixed(kwargs: dict[str, Any], where: str) -> Normalization:
    mean, deviation = (parse_numbers(kwargs.get(key), where) for key in ("mean", "std"))
    return Normalization(mean, tuple(each + _EPS for each in deviation))


def _function(name: object, kwargs: dict[str, Any], channels: int, where: str) -> Callable[[Tensor], Tensor]:
    if name == _FIXED:
        fixed = _fixed(kwargs, where)
        fixed.check(channels, where)
        return fixed.normalize
    if name == "scale_linear":
        gain = parse_numbers(kwargs.get("gain"), where) or (1.0,)
        offset = parse_numbers(kwargs.get("offset"), where) or (0.0,)
        length = max(len(gain), len(offset))
        linear = Normalization(offset * (length // len(offset)), gain * (length // len(gain)))
        linear.check(channels, where)
        return linear.denormalize
    if name == "clip":
        low, high = parse_numbers([kwargs.get("min"), kwargs.get("max")], where)
        return lambda x: x.clamp(low, high)
    raise EnsembleError(
        f"{where} processes intensities with {brief(name)}, which is not supported; supported are "
        f"{_FIXED}, scale_linear, clip, and ensure_dtype to float32."
    )
