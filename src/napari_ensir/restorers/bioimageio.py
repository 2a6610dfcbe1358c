"""Restorers from bioimage.io packages (``.zip``): CAREamics' networks, and TorchScript.

A package describes itself in ``rdf.yaml`` (formats 0.4 and 0.5, https://github.com/bioimage-io/spec-bioimage-io).
Of what it may hold, two kinds of weights restore here: a ``pytorch_state_dict`` of CAREamics' UNet, which is
built here, and ``torchscript``, looked through like any TorchScript file. Code in a package is never run, and
neither is what one names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from napari_ensir.errors import EnsembleError
from napari_ensir.files.headers import brief
from napari_ensir.restorers.bioimageio_tensors import describe_tensors, processing
from napari_ensir.restorers.careamics import read_weights, restorer_from
from napari_ensir.restorers.own_network import load_network
from napari_ensir.restorers.package import Package
from napari_ensir.restorers.packaged import PackagedNetwork
from napari_ensir.restorers.tiling import Tiles

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["open_package"]

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
