"""Perceptual term of IR-CM's loss: features of a VGG-16, from a file of weights that the user provides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

# Convolutions of VGG-16 up to relu3_3 (Simonyan and Zisserman 2015) and the pools between them, by their
# indices in torchvision's files.
_LAYERS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
_POOLS = (4, 9)
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class _VGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict()
        inputs = 3
        for index, outputs in _LAYERS.items():
            self.features[str(index)] = nn.Conv2d(inputs, outputs, 3, padding=1)
            inputs = outputs

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[1] not in (1, 3):
            raise EnsembleError(
                f"the perceptual term takes grey or RGB images; these have {image.shape[1]} channels."
            )
        mean, spread = (image.new_tensor(each).reshape(1, 3, 1, 1) for each in (_MEAN, _SPREAD))
        x: Tensor = (image.expand(-1, 3, -1, -1) - mean) / spread
        for index in _LAYERS:
            if index - 1 in _POOLS:
                x = nn.functional.max_pool2d(x, 2)
            x = nn.functional.relu(self.features[str(index)](x))
        return x


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
    try:
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            tensors = load_file(str(path))
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a bad file
        raise EnsembleError(f"{path} cannot be read as weights: {error}.") from error
    network = _VGG()
    wanted = network.state_dict()
    unfit = [n for n, each in wanted.items() if n not in tensors or tensors[n].shape != each.shape]
    if unfit:
        raise EnsembleError(
            f"{path} does not hold the weights of a VGG-16: {unfit[0]} is missing or has another shape."
        )
    network.load_state_dict({name: tensors[name] for name in wanted})
    return network.requires_grad_(False).eval().to(device)
