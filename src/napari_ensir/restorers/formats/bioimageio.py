"""Restorers from bioimage.io packages (``.zip``): CAREamics' networks, and TorchScript.

A package describes itself in ``rdf.yaml`` (formats 0.4 and 0.5, https://github.com/bioimage-io/spec-bioimage-io).
Of what it may hold, two kinds of weights restore here: a ``pytorch_state_dict`` of CAREamics' UNet, which is
built here, and ``torchscript``, looked through like any TorchScript file. Code in a package is never run, and
neither is what one names.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.files.tensors import brief
from napari_ensir.files.yaml_text import parse_yaml
from napari_ensir.restorers.formats.careamics import read_weights, restorer_from
from napari_ensir.restorers.formats.file_kinds import DESCRIPTIONS
from napari_ensir.restorers.networks.external import Levels, PackagedNetwork, load_network
from napari_ensir.restorers.networks.tiling import Tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = ["Package", "Tensors", "describe_tensors", "open_package", "processing"]


_PLANES = {"y": 256, "x": 256}
_VOLUMES = {"z": 32, "y": 128, "x": 128}
_MOST_PIXELS = 2**26
_EPS = 1e-6  # what bioimage.io adds to a standard deviation


@dataclass(frozen=True)
class Tensors:
    """What goes into a network and what comes out.

    Attributes
    ----------
    order, order_after : str
        Axes of the network's input and output, of ``bczyx``.
    channels : int
        Of both.
    size : tuple of int
        Sides of the input along [z,] y, x.
    times : int
        How many times as many rows and columns come out.
    halo : int
        Pixels of the input at each side for which the output is not to be used.
    missing : tuple of int
        Pixels of the output that the network leaves out, in all, along [z,] y, x.
    before, after
        What is done with intensities; tensors of shape (channels, ...).
    learned : Levels or None
        Mean and standard deviation of what the network learned from, where they are what it takes off first.
    """

    order: str
    order_after: str
    channels: int
    size: tuple[int, ...]
    times: int
    halo: int
    missing: tuple[int, ...]
    before: Callable[[Tensor], Tensor]
    after: Callable[[Tensor], Tensor]
    learned: Levels | None

    def around(self, network: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
        """The network with its axes in our order, and borders that it leaves out filled with 0."""
        ours = "bc" + "zyx"[-len(self.size) :]

        def apply(tiles: Tensor) -> Tensor:
            given = network(_ordered(tiles, ours, self.order))
            if isinstance(given, list | tuple) and len(given) == 1:
                given = given[0]
            if not isinstance(given, torch.Tensor) or given.ndim != len(self.order_after):
                raise RuntimeError(f"it gives no tensor of {len(self.order_after)} axes, as it says")
            result = _ordered(given, self.order_after, ours)
            lost = [(n // 2, n - n // 2) for n in reversed(self.missing)]
            return functional.pad(result, [each for pair in lost for each in pair])

        return apply


def describe_tensors(rdf: dict[str, Any], where: str) -> Tensors:
    """What a description says of its tensors.

    Parameters
    ----------
    rdf
        The description, of format 0.4 or 0.5: plain values, checked here.
    where
        Named in messages.

    Raises
    ------
    EnsembleError
        If it is no network from one image to one, or works in a way that is not followed here.
    """
    taken, given = _only(rdf.get("inputs"), "input", where), _only(rdf.get("outputs"), "output", where)
    axes, after = _axes(taken, where), _axes(given, where)
    spatial = "".join(letter for letter in "zyx" if letter in axes)
    if spatial not in ("yx", "zyx") or set(spatial) != after.keys() & set("zyx"):
        raise EnsembleError(
            f"{where} has the axes {''.join(axes)} and {''.join(after)}; rows and columns, or volumes, are "
            "needed."
        )
    channels = _channels(axes, 1, where)
    channels_after = _channels(after, channels, where)
    if channels != channels_after:
        raise EnsembleError(
            f"{where} turns {channels} channels into {channels_after}; only networks that keep the channels "
            "can be used."
        )
    size = _sizes(axes, spatial, where)
    times, missing, halo = _output(axes, after, size, spatial, where)
    return Tensors(
        order="".join(axes),
        order_after="".join(after),
        channels=channels,
        size=size,
        times=times,
        halo=max(math.ceil((h + n / 2) / times) for h, n in zip(halo, missing, strict=True)),
        missing=missing,
        before=processing(taken.get("preprocessing"), channels, where),
        after=processing(given.get("postprocessing"), channels, where),
        learned=_learned(taken.get("preprocessing"), where),
    )


def _only(tensors: object, what: str, where: str) -> dict[str, Any]:
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        count = len(tensors) if isinstance(tensors, list) else "no"
        raise EnsembleError(f"{where} has {count} {what}s; networks from one image to one restore here.")
    return tensors[0]


@dataclass(frozen=True)
class _Axis:
    """A size (a number, what it depends on, or None: free), the distance of pixels, and the halo."""

    size: Any
    distance: Any = 1.0
    halo: Any = 0


def _axes(tensor: dict[str, Any], where: str) -> dict[str, _Axis]:
    """What is said of each axis, by its letter, in the network's order."""
    given: Any = tensor.get("axes")
    found: dict[str, _Axis] = {}
    if isinstance(given, str):  # 0.4
        shape, halo = tensor.get("shape"), tensor.get("halo", [0] * len(given))
        if isinstance(shape, dict):  # what is free, or follows from the input
            shape = [{key: _at(each, n) for key, each in shape.items()} for n in range(len(given))]
        found = {letter: _Axis(_at(shape, n), halo=_at(halo, n)) for n, letter in enumerate(given)}
    elif isinstance(given, list) and all(isinstance(each, dict) for each in given):  # 0.5
        for each in given:
            kind, names = str(each.get("type")), each.get("channel_names")
            letter = str(each.get("id")) if kind == "space" else kind[:1]
            size = len(names) if kind == "channel" and isinstance(names, list) else each.get("size")
            found[letter] = _Axis(size, each.get("scale", 1.0), each.get("halo", 0))
    if not found or len(found) < len(given) or not found.keys() <= set("bczyx"):
        raise EnsembleError(
            f"{where} has the axes {_named(given)}; batch, channel, z, y and x are known here."
        )
    return found


def _at(values: object, index: int) -> Any:
    """One of a list, or None."""
    return values[index] if isinstance(values, list) and index < len(values) else None


def _named(axes: object) -> str:
    """Axes as a message shows them."""
    if isinstance(axes, list):
        return ", ".join(
            str(each.get("id", each.get("type")))[:20] for each in axes[:8] if isinstance(each, dict)
        )
    return brief(axes)


def _channels(axes: dict[str, _Axis], before: int, where: str) -> int:
    """How many there are; an axis that is not there is one."""
    size = axes["c"].size if "c" in axes else 1
    if isinstance(size, dict) and size.get("step") == 0:  # 0.4, where the other axes are free
        size = size.get("min")
    elif isinstance(size, dict) and size.get("scale") in (0, 1) and type(size.get("offset")) in (int, float):
        size = int(before * size["scale"] + 2 * size["offset"])
    if type(size) is int and 1 <= size <= 64:
        return size
    raise EnsembleError(f"{where} takes {brief(size)} channels; a number from 1 to 64 is needed.")


def _sizes(axes: dict[str, _Axis], spatial: str, where: str) -> tuple[int, ...]:
    """Fixed sides as they are; of those that are free, the one nearest to what is easily held."""
    wanted = _PLANES if len(spatial) == 2 else _VOLUMES
    found: dict[str, int] = {}
    for letter in spatial:
        size = axes[letter].size
        if isinstance(size, dict) and "axis_id" in size:  # as long as another
            other = axes.get(str(size["axis_id"]))
            size = other.size if other else size
        least, step = (size.get("min"), size.get("step")) if isinstance(size, dict) else (size, 0)
        if type(least) is not int or type(step) is not int or least < 1 or step < 0:
            raise EnsembleError(
                f"{where} states the size {brief(size)} along {letter}; whole numbers are needed."
            )
        found[letter] = least + max(round((wanted[letter] - least) / step), 0) * step if step else least
    if math.prod(found.values()) > _MOST_PIXELS or min(found.values()) < 8:
        raise EnsembleError(
            f"{where} takes images of {' x '.join(map(str, found.values()))} pixels; at least 8 a side are "
            f"needed, and at most {_MOST_PIXELS} in all."
        )
    return tuple(found.values())


def _output(
    axes: dict[str, _Axis], after: dict[str, _Axis], size: tuple[int, ...], spatial: str, where: str
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """How many times larger the output is, how many pixels it leaves out, and its halo along each axis."""
    scales: list[Any] = []
    missing: list[Any] = []
    for letter, side in zip(spatial, size, strict=True):
        given, offset = after[letter].size, 0
        try:
            if isinstance(given, dict) and "scale" in given:  # 0.4, where the offset is that of each side
                scale, offset = given["scale"], 2 * given["offset"]
            elif isinstance(given, dict):
                scale, offset = axes[letter].distance / after[letter].distance, given.get("offset", 0)
            else:
                scale = given / side
            scales.append(round(float(scale), 6))
            missing.append(-float(offset))
        except (TypeError, KeyError, ZeroDivisionError, OverflowError):
            scales.append(math.nan)
    halos = [after[letter].halo for letter in spatial]
    if not (
        all(type(each) is int and each >= 0 for each in halos)
        and all(each == each // 1 >= 1 for each in scales)
        and all(each == each // 1 >= 0 for each in missing)
    ):
        raise EnsembleError(
            f"{where} gives images {scales} times as large less {missing} pixels, with a halo of {halos}; "
            "whole numbers from 1 and from 0 are needed."
        )
    times = int(scales[-1])
    if scales[-2] != times or (len(scales) == 3 and max(scales) > 1):
        raise EnsembleError(f"{where} enlarges images {scales} times; planes may be, rows and columns alike.")
    return times, tuple(map(int, missing)), tuple(halos)


def _ordered(tensor: Tensor, now: str, wanted: str) -> Tensor:
    """A tensor with its axes in another order; those of one place come and go."""
    for axis in reversed(range(len(now))):
        if now[axis] not in wanted:
            tensor = tensor.squeeze(axis)
    kept = [letter for letter in now if letter in wanted]
    if tensor.ndim != len(kept):
        raise RuntimeError(f"an axis of {now!r} that has no place in {wanted!r} is longer than 1")
    tensor = tensor.permute([kept.index(letter) for letter in wanted if letter in kept])
    for axis, letter in enumerate(wanted):
        if letter not in kept:
            tensor = tensor.unsqueeze(axis)
    return tensor


def processing(steps: object, channels: int, where: str) -> Callable[[Tensor], Tensor]:
    """What is done with intensities, as one function of tensors of shape (channels, ...).

    Parameters
    ----------
    steps
        ``preprocessing`` or ``postprocessing`` of a description; None: nothing.
    channels
        Of the tensors.
    where
        Named in messages.

    Raises
    ------
    EnsembleError
        If a step is not followed here. Steps that depend on the image are none: what they did to the
        intensities cannot be undone.

    Examples
    --------
    >>> double = processing([{"id": "scale_linear", "kwargs": {"gain": 2}}], 1, "rdf.yaml")
    >>> double(torch.ones(1, 2, 2)).sum().item()
    8.0
    """
    if steps is None:
        steps = []
    if not isinstance(steps, list) or not all(isinstance(each, dict) for each in steps):
        raise EnsembleError(
            f"{where} states what is done with intensities as {brief(steps)}; a list is needed."
        )
    done = [_step(each, channels, where) for each in steps]
    return lambda x: reduce(lambda value, step: step(value), done, x)


def _learned(steps: Any, where: str) -> Levels | None:
    """The figures of a first step that takes off a mean and divides by a standard deviation."""
    for step in steps or []:
        if _is_fixed(step):
            return _fixed(step.get("kwargs"), where)
        if step.get("id", step.get("name")) != "ensure_dtype":
            break
    return None


def _is_fixed(step: dict[str, Any]) -> bool:
    """Whether a step normalises by figures that it states."""
    name, kwargs = step.get("id", step.get("name")), step.get("kwargs")
    old = isinstance(kwargs, dict) and kwargs.get("mode") == "fixed"  # 0.4
    return name == "fixed_zero_mean_unit_variance" or (name == "zero_mean_unit_variance" and old)


def _fixed(kwargs: Any, where: str) -> Levels:
    stated = kwargs if isinstance(kwargs, dict) else {}
    mean, deviation = (_numbers(stated.get(key), where) for key in ("mean", "std"))
    return Levels(mean, tuple(each + _EPS for each in deviation))


def _step(step: dict[str, Any], channels: int, where: str) -> Callable[[Tensor], Tensor]:
    name, kwargs = step.get("id", step.get("name")), step.get("kwargs") or {}
    if not isinstance(kwargs, dict):
        kwargs = {}
    if name == "ensure_dtype" and kwargs.get("dtype") in ("float32", "float64"):
        return lambda x: x
    if _is_fixed(step):
        levels = _fixed(kwargs, where)
        levels.check(channels, where)
        return levels.normalised
    if name == "scale_linear":
        gain = _numbers(kwargs.get("gain", 1.0), where)
        zero = _numbers(kwargs.get("offset", 0.0), where)
        length = max(len(gain), len(zero))
        scaled = Levels(zero * (length // len(zero)), gain * (length // len(gain)))
        scaled.check(channels, where)
        return scaled.intensities
    if name == "clip":
        low, high = _numbers([kwargs.get("min"), kwargs.get("max")], where)
        return lambda x: x.clamp(low, high)
    raise EnsembleError(
        f"{where} does {brief(name)} with intensities, which is not followed here: fixed figures are "
        "(fixed_zero_mean_unit_variance, scale_linear, clip, ensure_dtype to float32)."
    )


def _numbers(value: Any, where: str) -> tuple[float, ...]:
    listed = value if isinstance(value, list) else [value]
    if 1 <= len(listed) <= 64 and all(type(each) in (int, float) for each in listed):
        try:
            return tuple(float(each) for each in listed)
        except OverflowError:  # YAML knows whole numbers of any size
            pass
    raise EnsembleError(f"{where} works on intensities with {brief(value)}, where numbers are needed.")


_MAX_FILES = 1000
_MAX_BYTES = 2**32
# Weights are compressed by a tenth; what unfolds to much more was made to fill the memory.
_MOST_TIMES = 8
_LEAST_BOUND = 2**24


@dataclass(frozen=True, eq=False)
class Package:
    """A package whose archive has been looked through.

    Parameters
    ----------
    path
        Named in messages.
    archive
        The file, in memory.
    size
        Bytes of the file.
    """

    path: Path
    archive: zipfile.ZipFile
    size: int

    @classmethod
    def open(cls, path: Path) -> Package:
        """Read a package's file.

        Raises
        ------
        EnsembleError
            If it is no ZIP archive, or names its files in ways that no package does.
        """
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise EnsembleError(
                    f"{path} has more than {_MAX_BYTES // 2**30} GB; no package is that large."
                )
            content = path.read_bytes()
            archive = zipfile.ZipFile(io.BytesIO(content))
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            if isinstance(error, EnsembleError):
                raise
            raise EnsembleError(f"{path} cannot be read as a ZIP archive: {str(error)[:200]}.") from error
        names = [info.filename for info in archive.infolist()]
        if len(names) > _MAX_FILES or len({name.lower() for name in names}) < len(names):
            raise EnsembleError(f"{path} holds two files of one name, or more than a package does.")
        for name in names:
            if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
                raise EnsembleError(f"{path} holds {name[:80]!r}, a path that leads out of a package.")
        return cls(path, archive, len(content))

    def description(self) -> dict[str, Any]:
        """What ``rdf.yaml`` says.

        Raises
        ------
        EnsembleError
            If there is none, or it cannot be read, or describes no model in format 0.4 or 0.5.
        """
        found = [name for name in DESCRIPTIONS if name in self.archive.namelist()]
        if not found:
            raise EnsembleError(f"{self.path} holds no rdf.yaml, so it is no package of bioimage.io.")
        rdf = self.yaml(found[0])
        if rdf.get("type") != "model":
            raise EnsembleError(f"{self.path} is a package of type {brief(rdf.get('type'))}, no model.")
        version = str(rdf.get("format_version"))
        if version.split(".")[:2] not in (["0", "4"], ["0", "5"]):
            raise EnsembleError(
                f"{self.path} is of format {brief(version)}; 0.4 and 0.5 are read. The bioimage.io tools "
                "bring others to these."
            )
        return rdf

    def yaml(self, name: str) -> dict[str, Any]:
        """A YAML file of the package.

        Raises
        ------
        EnsembleError
            If it is absent or cannot be read.
        """
        try:
            return parse_yaml(self._read(name))
        except EnsembleError:
            raise
        except ValueError as error:
            raise EnsembleError(f"{self.path}: {name[:80]} cannot be read: {error}.") from error

    def file(self, entry: Mapping[str, Any]) -> bytes:
        """The file that an entry of the description names, checked by the sum that stands there.

        Raises
        ------
        EnsembleError
            If it is not in the package, damaged, or another one than was described.
        """
        name = entry.get("source")
        if not isinstance(name, str):
            raise EnsembleError(f"{self.path} names a file by {brief(name)}, where text is needed.")
        if "://" in name:
            raise EnsembleError(
                f"{self.path} refers to {name[:80]!r}, which is not in it; download it whole."
            )
        content = self._read(name.removeprefix("./"))
        stated = entry.get("sha256")
        if stated is not None and stated != hashlib.sha256(content).hexdigest():
            raise EnsembleError(
                f"{self.path}: {name[:80]} is not the file that rdf.yaml describes (SHA-256)."
            )
        return content

    def _read(self, name: str) -> bytes:
        try:
            info = self.archive.getinfo(name)
            if info.file_size > max(_MOST_TIMES * self.size, _LEAST_BOUND):
                raise EnsembleError(
                    f"{self.path}: {name[:80]} would unfold to {info.file_size // 2**20} MB; no package does."
                )
            return self.archive.read(info)
        except EnsembleError:
            raise
        except KeyError:
            raise EnsembleError(f"{self.path} holds no {name[:80]!r}, which it needs.") from None
        except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
            raise EnsembleError(f"{self.path}: {name[:80]} cannot be read: {str(error)[:200]}.") from error
        except (zipfile.BadZipFile, zlib.error) as error:
            raise EnsembleError(f"{self.path}: {name[:80]} is damaged: {str(error)[:200]}.") from error


_CAREAMICS = ("careamics.models.unet", "careamics.models", "careamics.models.unet.unet")
_SETTINGS = "careamics.yaml"
_WEIGHTS = {
    "pytorch_state_dict": "weights of PyTorch",
    "onnx": "ONNX",
    "keras_hdf5": "Keras",
    "keras_v3": "Keras",
    "tensorflow_js": "TensorFlow.js",
    "tensorflow_saved_model_bundle": "TensorFlow",
}


def open_package(path: Path, *, device: str = "auto") -> PackagedNetwork:
    """A restorer from a package; see this module on what it may hold.

    Parameters
    ----------
    path
        A ``.zip`` file. It is read once.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Raises
    ------
    EnsembleError
        If it is no package, or holds nothing that restores here: the message names what it holds.
    """
    package = Package.open(path)
    rdf = package.description()
    weights = rdf.get("weights")
    if not isinstance(weights, dict):
        raise EnsembleError(f"{path} describes no weights.")
    state = weights.get("pytorch_state_dict")
    if isinstance(state, dict) and _architecture(state)[0] in _CAREAMICS:
        return _careamics(package, rdf, state, device)
    script = weights.get("torchscript")
    if isinstance(script, dict):
        return _torchscript(package, rdf, script, device)
    kinds = sorted({_WEIGHTS.get(str(kind), brief(str(kind))) for kind in weights})
    code = ""
    if isinstance(state, dict):
        code = f" The network of its weights of PyTorch is {_architecture(state)[1]}, which is not run."
    raise EnsembleError(
        f"{path} holds {', '.join(kinds) or 'no weights'}; of packages, CAREamics' UNet and TorchScript "
        f"weights restore here.{code} Ask for TorchScript weights; the bioimage.io tools make them."
    )


def _architecture(state: dict[str, Any]) -> tuple[str, str]:
    """The library that a network comes from (empty if none), and how a message names the network."""
    given = state.get("architecture")
    if isinstance(given, str):  # 0.4: "module.Class", or "file.py:Class"
        library, _, name = given.rpartition(".")
        return ("" if ":" in given else library if name == "UNet" else "other"), brief(given)
    if isinstance(given, dict) and isinstance(given.get("import_from"), str):
        module, called = given["import_from"], given.get("callable")
        return (module if called == "UNet" else "other"), f"{brief(called)} of {brief(module)}"
    if isinstance(given, dict):
        return "", f"code in {brief(given.get('source'))}"
    return "", "not named"


def _careamics(package: Package, rdf: dict[str, Any], state: dict[str, Any], device: str) -> PackagedNetwork:
    path = package.path
    if _SETTINGS not in package.archive.namelist():
        raise EnsembleError(
            f"{path} holds no {_SETTINGS}, which tells how intensities were normalised; export it again from "
            "CAREamics."
        )
    settings = package.yaml(_SETTINGS)
    algorithm, data = settings.get("algorithm_config"), settings.get("data_config")
    if not isinstance(algorithm, dict) or not isinstance(data, dict):
        raise EnsembleError(f"{path}: {_SETTINGS} describes no training of CAREamics.")
    given = state.get("architecture")
    stated = (given if isinstance(given, dict) else state).get("kwargs")
    model = algorithm.get("model")
    if isinstance(stated, dict) and isinstance(model, dict):
        for name in stated.keys() & model.keys():
            if stated[name] != model[name]:
                raise EnsembleError(
                    f"{path}: rdf.yaml and {_SETTINGS} differ about the network's {brief(name)}."
                )
    restorer = restorer_from(
        algorithm,
        data,
        read_weights(package.file(state), f"{path}: {str(state.get('source'))[:80]}"),
        where=str(path),
        label=path.stem,
        device=device,
    )
    _check_agreement(rdf, restorer, path)
    return restorer


def _check_agreement(rdf: dict[str, Any], restorer: PackagedNetwork, path: Path) -> None:
    """Whether rdf.yaml normalises as careamics.yaml does, or somebody has changed one of them.

    What comes after the network is not looked at: CAREamics states the figures of the input there, where
    those of the target belong.
    """
    inputs = rdf.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise EnsembleError(f"{path}: rdf.yaml describes no network with one input.")
    theirs_too = processing(inputs[0].get("preprocessing"), restorer.channels, str(path))
    probe = torch.linspace(0, 1000, 16).repeat(restorer.channels, 1)
    ours, theirs = restorer.before(probe), theirs_too(probe)
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(ours.abs().max())):
        raise EnsembleError(f"{path}: rdf.yaml and {_SETTINGS} differ about how intensities are normalised.")


def _torchscript(
    package: Package, rdf: dict[str, Any], script: dict[str, Any], device: str
) -> PackagedNetwork:
    path = package.path
    described = describe_tensors(rdf, str(path))
    loaded = load_network(path, content=package.file(script))
    size, halo = described.size, described.halo
    if 2 * halo >= min(size):
        raise EnsembleError(
            f"{path} takes images of {' x '.join(map(str, size))} pixels and loses {halo} at each side, "
            "which leaves nothing."
        )
    overlap = tuple(max(2 * halo, side // 4) for side in size)
    return PackagedNetwork(
        network=described.around(loaded.network),
        label=path.stem,
        channels=described.channels,
        sides=size,
        enlarges=described.times,
        move=loaded.to_device,
        axes=len(size),
        before=described.before,
        after=described.after,
        learned=described.learned,
        tiles=Tiles(size=size, overlap=overlap, margin=halo, border=halo, batch=1),
        device=device,
    )
