"""Perceptual term of IR-CM's loss: features of a VGG-16, from a file of weights that the user provides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_ensir.errors import EnsembleError, ensemble_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

# Features of the convolutions of VGG-16 up to relu3_3 (Simonyan and Zisserman 2015); 0 stands for a pool.
_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256)
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class _VGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in _WIDTHS:
            if width:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            else:
                layers.append(nn.MaxPool2d(2))
            inputs = width or inputs
        self.features = nn.Sequential(*layers)  # with the indices of torchvision's files

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[1] not in (1, 3):
            raise EnsembleError(
                f"the perceptual term takes grey or RGB images; these have {image.shape[1]} channels."
            )
        mean, spread = (image.new_tensor(each).reshape(1, 3, 1, 1) for each in (_MEAN, _SPREAD))
        features: Tensor = self.features((image.expand(-1, 3, -1, -1) - mean) / spread)
        return features


def vgg_features(path: str | Path, device: str | torch.device = "cpu") -> Callable[[Tensor], Tensor]:
    """Load the features of a VGG-16 up to relu3_3, for a :class:`~.ir_cm.ConsistencyModel`.

    Parameters
    ----------
    path
        Weights under torchvision's names (``features.0.weight``, ...): safetensors, or a ``.pth`` that holds
        only tensors.
    device
        Device of the training.

    Raises
    ------
    EnsembleError
        If the file cannot be read or lacks a layer.
    """
    with ensemble_errors(f"{path} cannot be read as weights"):
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            tensors = load_file(str(path))
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    network = _VGG()
    wanted = network.state_dict()
    unfit = [n for n, each in wanted.items() if n not in tensors or tensors[n].shape != each.shape]
    if unfit:
        raise EnsembleError(
            f"{path} does not hold the weights of a VGG-16: {unfit[0]} is missing or has another shape."
        )
    network.load_state_dict({name: tensors[name] for name in wanted})
    return network.requires_grad_(False).eval().to(device)
