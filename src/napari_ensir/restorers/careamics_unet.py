"""The U-Net that CAREamics trains, for its weights to be applied. Knows no files and does no training.

The names of the tensors and the order of the operations are CAREamics' (0.1 to 0.3 have the same); batch
normalisation uses the figures that training left. N2V2 (Hoeck et al. 2022) blurs where it pools and has no
skip at the finest level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CAREamicsUNet", "UNetSettings"]


@dataclass(frozen=True, kw_only=True)
class UNetSettings:
    """Shape of the network, under the names and with the defaults that CAREamics has.

    Parameters
    ----------
    conv_dims
        2 for planes, 3 for volumes.
    num_classes, in_channels
        Channels that come out and go in.
    depth, num_channels_init
        How often it halves, and features at the finest level (for each channel, where these are independent).
    residual
        Whether the input is added to the output.
    final_activation
        ``"None"``; CAREamics restores with no other.
    n2v2
        Whether it is N2V2's.
    independent_channels
        Whether every channel has a network of its own.
    use_batch_norm
        Whether features are normalised.
    """

    conv_dims: int = 2
    num_classes: int = 1
    in_channels: int = 1
    depth: int = 2
    num_channels_init: int = 32
    residual: bool = False
    final_activation: str = "None"
    n2v2: bool = False
    independent_channels: bool = True
    use_batch_norm: bool = True

    def __post_init__(self) -> None:
        if not (
            self.conv_dims in (2, 3)
            and 1 <= self.in_channels <= 64
            and 1 <= self.num_classes <= 64
            and 1 <= self.depth <= 8
            and 1 <= self.num_channels_init <= 1024
        ):
            raise EnsembleError(f"no U-Net of CAREamics is of this shape: {self}.")
        if self.num_classes != self.in_channels:
            raise EnsembleError(
                f"it turns {self.in_channels} channels into {self.num_classes}; only networks that keep the "
                "channels can be used."
            )
        if self.final_activation != "None":
            raise EnsembleError(
                f"its final activation {self.final_activation[:40]!r} is none that CAREamics restores with."
            )


class CAREamicsUNet(nn.Module):
    """Planes or volumes, normalised, to such.

    Parameters
    ----------
    settings
        See :class:`UNetSettings`.

    Attributes
    ----------
    multiple : int
        What the sides of an image have to be multiples of.

    Examples
    --------
    >>> network = CAREamicsUNet(UNetSettings(num_channels_init=4)).eval()
    >>> network(torch.zeros(1, 1, 16, 24)).shape
    torch.Size([1, 1, 16, 24])
    """

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        self.settings = settings
        self.multiple = 2**settings.depth
        self.groups = settings.in_channels if settings.independent_channels else 1
        ndim, depth, normed = settings.conv_dims, settings.depth, settings.use_batch_norm
        widths = [settings.num_channels_init * self.groups * 2**level for level in range(depth)]

        def block(inputs: int, middle: int, outputs: int) -> _Block:
            return _Block(ndim, inputs, middle, outputs, groups=self.groups, normed=normed)

        # CAREamics counts poolings and enlargements among the blocks; they have no weights.
        down = {
            str(2 * level): block(widths[level - 1] if level else settings.in_channels, width, width)
            for level, width in enumerate(widths)
        }
        up = {}
        for number, level in enumerate(reversed(range(depth))):
            width = widths[level]
            inputs = width if settings.n2v2 and level == 0 else 2 * width
            outputs = width // 2 if level else width
            up[str(2 * number + 1)] = block(inputs, 2 * outputs if level else outputs, outputs)
        self.encoder = nn.ModuleDict({"encoder_blocks": nn.ModuleDict(down)})
        self.decoder = nn.ModuleDict(
            {
                "bottleneck": block(widths[-1], 2 * widths[-1], widths[-1]),
                "decoder_blocks": nn.ModuleDict(up),
            }
        )
        conv = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.final_conv = conv(widths[0], settings.num_classes, 1, groups=self.groups)

    def forward(self, image: Tensor) -> Tensor:
        """Shape (batch, channels, [planes,] rows, columns), sides multiples of :attr:`multiple`."""
        x, skips = image, []
        for block in self.encoder["encoder_blocks"].values():  # type: ignore[operator]
            x = block(x)
            skips.append(x)
            x = self._pool(x)
        x = self.decoder["bottleneck"](x)
        mode = "bilinear" if self.settings.conv_dims == 2 else "trilinear"
        for block in self.decoder["decoder_blocks"].values():  # type: ignore[operator]
            x = functional.interpolate(x, scale_factor=2.0, mode=mode)
            skip = skips.pop()
            if skips or not self.settings.n2v2:
                x = self._beside(x, skip)
            x = block(x)
        restored: Tensor = self.final_conv(x)
        return restored + image if self.settings.residual else restored

    def _pool(self, x: Tensor) -> Tensor:
        ndim = self.settings.conv_dims
        pool = functional.max_pool2d if ndim == 2 else functional.max_pool3d
        if not self.settings.n2v2:
            return pool(x, 2)
        line = x.new_tensor([0.25, 0.5, 0.25])
        kernel = line[:, None] * line
        if ndim == 3:
            kernel = line[:, None, None] * kernel
        kernel = kernel.expand(x.shape[1], 1, *kernel.shape)
        convolve = functional.conv2d if ndim == 2 else functional.conv3d
        return convolve(pool(x, 2, stride=1), kernel, padding=1, stride=2, groups=x.shape[1])

    def _beside(self, x: Tensor, skip: Tensor) -> Tensor:
        """Features and those of the skip, group by group."""
        both = [each.reshape(len(each), self.groups, -1, *each.shape[2:]) for each in (x, skip)]
        return torch.cat(both, dim=2).flatten(1, 2)


class _Block(nn.Module):
    """Two convolutions, each with its normalisation and ReLU."""

    def __init__(
        self, ndim: int, inputs: int, middle: int, outputs: int, *, groups: int, normed: bool
    ) -> None:
        super().__init__()
        conv = nn.Conv2d if ndim == 2 else nn.Conv3d
        norm = (nn.BatchNorm2d if ndim == 2 else nn.BatchNorm3d) if normed else nn.Identity
        self.conv1 = conv(inputs, middle, 3, padding=1, groups=groups)
        self.conv2 = conv(middle, outputs, 3, padding=1, groups=groups)
        self.batch_norm1 = norm(middle)
        self.batch_norm2 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.batch_norm1(self.conv1(x)))
        return functional.relu(self.batch_norm2(self.conv2(x)))
