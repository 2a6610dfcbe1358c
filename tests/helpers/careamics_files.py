"""Small files in the formats of CAREamics and bioimage.io, valid or with a change."""

from __future__ import annotations

import hashlib
import io
import zipfile
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
import yaml

from napari_ensir.restorers.formats.careamics import CAREamicsUNet, UNetSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

STATISTICS = {"input_means": [100.0], "input_stds": [20.0], "target_means": [50.0], "target_stds": [4.0]}


def network_of(**settings: Any) -> CAREamicsUNet:
    """A network whose weights and statistics all affect the result."""
    torch.manual_seed(0)
    network = CAREamicsUNet(UNetSettings(num_channels_init=8, **settings))
    with torch.no_grad():
        for name, each in network.state_dict().items():
            if each.is_floating_point():
                each.copy_(0.3 * torch.randn(each.shape))
            if name.endswith("running_var"):
                each.abs_().add_(0.5)
    return network.eval()


def configuration(
    network: CAREamicsUNet, kind: str = "care", statistics: Mapping[str, Any] = STATISTICS
) -> dict[str, Any]:
    """The configuration that CAREamics 0.3 saves."""
    model = {"architecture": "UNet", **vars(network.settings)}
    return {
        "version": "0.3.0",
        "experiment_name": "small",
        "algorithm_config": {"algorithm": kind, "loss": "mae", "model": model},
        "data_config": {
            "axes": "YX",
            "normalization": {"name": "mean_std", "per_channel": True, **deepcopy(dict(statistics))},
        },
        "training_config": {},
    }


def as_saved(network: CAREamicsUNet) -> dict[str, torch.Tensor]:
    """The tensors that CAREamics saves, with unused batch normalisations."""
    tensors = dict(network.state_dict())
    if not network.settings.use_batch_norm:
        for name in [name for name in tensors if name.endswith(("conv1.bias", "conv2.bias"))]:
            tensors[name.replace(".conv", ".batch_norm").replace(".bias", ".weight")] = torch.ones(1)
    return tensors


def write_checkpoint(
    path: Path,
    network: CAREamicsUNet,
    config: dict[str, Any],
    layout: str = "0.3",
    change: Mapping[str, Any] = {},
) -> Path:
    """A Lightning checkpoint of CAREamics 0.1 or 0.3."""
    content: dict[str, Any] = {
        "epoch": 1,
        "state_dict": {f"model.{name}": each for name, each in as_saved(network).items()},
        "optimizer_states": [],
    }
    if layout == "0.1":
        statistics = config["data_config"]["normalization"]
        old = {key.replace("input", "image"): statistics.get(key) or [] for key in STATISTICS}
        text = {key: [f"{each:.7e}" for each in values] for key, values in old.items()}
        content["hyper_parameters"] = config | {"data_config": {"axes": "YX", **text}}
    else:
        content["hyper_parameters"] = {"algorithm_config": config["algorithm_config"]}
        content["datamodule_hyper_parameters"] = {"data_config": config["data_config"]}
        content["careamics_info"] = {"version": "0.3.0"}
    torch.save(content | dict(change), path)
    return path


def saved(tensors: Mapping[str, torch.Tensor]) -> bytes:
    stream = io.BytesIO()
    torch.save(dict(tensors), stream)
    return stream.getvalue()


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_package(
    path: Path,
    network: CAREamicsUNet,
    config: dict[str, Any],
    change: Callable[[dict[str, Any], dict[str, bytes]], object] = lambda rdf, files: None,
) -> Path:
    """A package of CAREamics, with the wrong postprocessing that it states for CARE."""
    statistics = config["data_config"]["normalization"]
    mean, std = statistics["input_means"], statistics["input_stds"]
    weights = saved(as_saved(network))
    fixed = {"id": "fixed_zero_mean_unit_variance"}
    as_float = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    axes = [
        {"type": "batch"},
        {"type": "channel", "channel_names": [f"c{n}" for n in range(network.settings.in_channels)]},
        *({"type": "space", "id": letter, "size": 64} for letter in "zyx"[-network.settings.conv_dims :]),
    ]
    inverse = {
        "mean": [-m / s for m, s in zip(mean, std, strict=True)],
        "std": [1 / s for s in std],
        "axis": "channel",
    }
    before = [as_float, fixed | {"kwargs": {"mean": mean, "std": std, "axis": "channel"}}, as_float]
    rdf = {
        "format_version": "0.5.12",
        "type": "model",
        "inputs": [{"id": "input", "axes": axes, "preprocessing": before}],
        "outputs": [{"id": "prediction", "axes": axes, "postprocessing": [fixed | {"kwargs": inverse}]}],
        "weights": {
            "pytorch_state_dict": {
                "source": "weights.pth",
                "sha256": hashlib.sha256(weights).hexdigest(),
                "architecture": {
                    "callable": "UNet",
                    "import_from": "careamics.models.unet",
                    "kwargs": {"architecture": "UNet", **vars(network.settings)},
                },
            }
        },
    }
    files = {"weights.pth": weights, "careamics.yaml": yaml.safe_dump(config).encode()}
    change(rdf, files)
    return write_zip(path, {"rdf.yaml": b"%YAML 1.2\n---\n" + yaml.safe_dump(rdf).encode()} | files)
