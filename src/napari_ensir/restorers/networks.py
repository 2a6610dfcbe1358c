"""The two networks: a small U-Net that knows a time or a noise level, and DP-IR's fusion network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FusionNetwork", "NetworkShape", "UNet", "check_network", "sinusoid"]


def sinusoid(value: Tensor, width: int) -> Tensor:
    """Cosines and sines of numbers at geometrically spaced frequencies, 1 down to 1e-4.

    Parameters
    ----------
    value
        Shape (batch,).
    width
        How many numbers to return for each; even.

    Returns
    -------
    Tensor
        Shape (batch, width), float32.

    Examples
    --------
    >>> sinusoid(torch.zeros(3), 8).shape
    torch.Size([3, 8])
    """
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=value.device) * (-math.log(1e4) / half))
    angle = value.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class _Block(nn.Module):
    """Two convolutions on a residual path, scaled and shifted by the condition between them.

    The second one starts at zero, so that a deep network starts out as the identity; that replaces
    normalisation layers, which would make a tile's result depend on the tile.
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.condition = nn.Linear(condition, 2 * width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        inner = functional.silu(self.first(functional.silu(x)) * (1 + scale) + shift)
        residual: Tensor = self.second(inner)
        return x + residual


class UNet(nn.Module):
    """A small convolutional U-Net on one number per image: a time or a noise level.

    It works on blocks of 2 x 2 pixels (pixel unshuffle) at the finest level, which costs a quarter
    and loses nothing, doubles its width at each level down, adds skips, and its last convolution
    starts at zero: an untrained network returns 0.

    Parameters
    ----------
    inputs, outputs
        Channels in and out.
    width
        Features at the finest level.
    depth
        Levels; the image's sides have to be multiples of 2 ** depth (:attr:`multiple`).

    Examples
    --------
    >>> UNet(6, 3, width=8, depth=2)(torch.zeros(1, 6, 16, 24), torch.zeros(1)).shape
    torch.Size([1, 3, 16, 24])
    """

    def __init__(self, inputs: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.multiple = 2**depth
        self.embedding = 2 * width
        condition = 4 * width
        widths = [width * 2**level for level in range(depth)]
        self.embed = nn.Sequential(
            nn.Linear(self.embedding, condition), nn.SiLU(), nn.Linear(condition, condition), nn.SiLU()
        )
        self.stem = nn.Conv2d(4 * inputs, width, 3, padding=1)
        self.down = nn.ModuleList(_Block(each, condition) for each in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(each, 2 * each, 2, stride=2) for each in widths[:-1])
        self.middle = _Block(widths[-1], condition)
        self.grow = nn.ModuleList(nn.Conv2d(2 * each, 4 * each, 1) for each in widths[:-1])
        self.up = nn.ModuleList(_Block(each, condition) for each in widths)
        self.head = nn.Conv2d(width, 4 * outputs, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, value: Tensor) -> Tensor:
        """Images of shape (batch, inputs, rows, columns) and numbers of shape (batch,)."""
        condition = self.embed(sinusoid(value, self.embedding).to(x.dtype))
        x = self.stem(functional.pixel_unshuffle(x, 2))
        skips = []
        for level, block in enumerate(self.down):
            x = block(x, condition)
            if level < len(self.shrink):
                skips.append(x)
                x = self.shrink[level](x)
        x = self.middle(x, condition)
        for level in reversed(range(len(self.up))):
            if level < len(self.grow):
                x = skips.pop() + functional.pixel_shuffle(self.grow[level](x), 2)
            x = self.up[level](x, condition)
        return functional.pixel_shuffle(self.head(functional.silu(x)), 2)


class _DenseBlock(nn.Module):
    """Five convolutions, each of which sees all before it (residual dense block, Zhang et al. 2018)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        outputs = [growth] * 4 + [width]
        self.layers = nn.ModuleList(
            nn.Conv2d(width + growth * index, out, 3, padding=1) for index, out in enumerate(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.layers[:-1]:
            seen.append(functional.leaky_relu(layer(torch.cat(seen, dim=1)), 0.2))
        # A fifth of the block's output, as is usual for it, keeps the start close to the identity.
        last: Tensor = self.layers[-1](torch.cat(seen, dim=1))
        return x + 0.2 * last


class FusionNetwork(nn.Module):
    """F of DP-IR: fuses the restorer's image with the denoiser's, knowing the time.

    One encoder for both gives f1 and f2; w = sigmoid(MLP(sinusoid(t))) per feature; w f1 + (1 - w) f2
    goes through two dense blocks and a convolution. 0.73 million parameters at width 64 in colour.

    It returns a residual on the restorer's image, and its last convolution starts at zero, so that an
    untrained F returns that image. This departs from the paper, where F returns the image itself:
    on small budgets that trained to 21.6 dB where the residual reached 30.7 dB.

    Parameters
    ----------
    channels
        Of the images.
    width
        Features.

    Examples
    --------
    >>> sum(each.numel() for each in FusionNetwork(3, 64).parameters())
    731267
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.encode = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), _DenseBlock(width, width // 2))
        self.weigh = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.Sigmoid())
        self.decode = nn.Sequential(_DenseBlock(width, width // 2), _DenseBlock(width, width // 2))
        self.head = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, restored: Tensor, denoised: Tensor, t: Tensor) -> Tensor:
        """Two images of shape (batch, channels, rows, columns) and times of shape (batch,)."""
        weight = self.weigh(sinusoid(t, self.width))[:, :, None, None]
        fused = weight * self.encode(restored) + (1 - weight) * self.encode(denoised)
        residual: Tensor = self.head(self.decode(fused))
        return restored + residual


def check_network(channels: int, width: int, depth: int) -> None:
    """Refuse shapes of networks that make no sense, or that a broken file may ask for.

    Raises
    ------
    EnsembleError
        If a number is out of bounds.
    """
    if not (1 <= channels <= 64 and 4 <= width <= 512 and width % 2 == 0 and 1 <= depth <= 6):
        raise EnsembleError(
            f"a network for {channels} channels with width {width} and depth {depth} cannot be built: "
            "1 to 64, an even number from 4 to 512, and 1 to 6 are possible."
        )


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """Shape of a network: colour channels, features at the finest level, levels."""

    channels: int = 1
    width: int = 32
    depth: int = 3

    def __post_init__(self) -> None:
        check_network(self.channels, self.width, self.depth)
