"""Networks (U-Net, fusion network) and the models Denoiser and Regression."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.classical import estimate_noise
from napari_ensir.restorers.networks.learned import Draw, LearnedRestorer, Model, Tiled
from napari_ensir.settings import TrainSettings, noise_setting, settings_of

if TYPE_CHECKING:
    from torch import Tensor

    from napari_ensir.restorers.base import FloatImage, Progress


def sinusoid(value: Tensor, width: int) -> Tensor:
    """Cosines and sines of numbers at geometrically spaced frequencies, 1 down to 1e-4.

    Parameters
    ----------
    value
        Shape (batch,).
    width
        Number of features per value; even.

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


def _zeroed(layer: nn.Module) -> nn.Module:
    """Initialise all parameters of a layer to zero."""
    for each in layer.parameters():
        nn.init.zeros_(each)
    return layer


class _Block(nn.Module):
    """Residual block whose features are scaled and shifted by the condition.

    The second convolution is initialised to zero, so that a deep network starts as the identity. There are no
    normalisation layers, which would make the result of a tile depend on the tile.
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.condition = _zeroed(nn.Linear(condition, 2 * width))
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        inner = functional.silu(self.first(functional.silu(x)) * (1 + scale) + shift)
        residual: Tensor = self.second(inner)
        return x + residual


class UNet(nn.Module):
    """Small convolutional U-Net conditioned on one number per image: a time or a noise level.

    The finest level works on blocks of 2 x 2 pixels (pixel unshuffle), which costs a quarter. The width
    doubles at each level down. The last convolution is initialised to zero, so that an untrained network
    returns 0.

    Parameters
    ----------
    inputs, outputs
        Numbers of input and output channels.
    width
        Number of features at the finest level.
    depth
        Number of levels; the sides of the image must be multiples of ``2 ** depth`` (:attr:`multiple`).

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
        self.head = _zeroed(nn.Conv2d(width, 4 * outputs, 3, padding=1))

    def forward(self, x: Tensor, value: Tensor) -> Tensor:
        """Apply to images (batch, inputs, rows, columns) and numbers (batch,)."""
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
    """Residual dense block of five convolutions (Zhang et al. 2018)."""

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
        # The usual factor 0.2 keeps an untrained block close to the identity.
        last: Tensor = self.layers[-1](torch.cat(seen, dim=1))
        return x + 0.2 * last


class FusionNetwork(nn.Module):
    """Fusion network F of DP-IR: combines the restorer's and the denoiser's image at time t.

    A shared encoder gives f1 and f2; w = sigmoid(MLP(sinusoid(t))) per feature; w f1 + (1 - w) f2
    passes two dense blocks and a convolution. It has 0.73 million parameters at width 64 in colour.

    F returns a residual that is added to the restorer's image, and its last convolution is initialised to
    zero, so that an untrained F returns that image. The paper's F returns the image itself, which on small
    budgets trained to 21.6 dB where the residual reached 30.7 dB.

    Parameters
    ----------
    channels
        Number of colour channels of the images.
    width
        Number of features.

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
        self.head = _zeroed(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, restored: Tensor, denoised: Tensor, t: Tensor) -> Tensor:
        """Apply to two images (batch, channels, rows, columns) and times (batch,)."""
        weight = self.weigh(sinusoid(t, self.width))[:, :, None, None]
        fused = weight * self.encode(restored) + (1 - weight) * self.encode(denoised)
        residual: Tensor = self.head(self.decode(fused))
        return restored + residual


def check_fields(owner: Any) -> None:
    """Check the fields of a dataclass by the limits of the settings of these names; they may be from a file.

    Raises
    ------
    EnsembleError
        If a value is out of its limits.
    """
    limits = {each.name: each for each in settings_of(TrainSettings)}
    for each in fields(owner):
        if each.name in limits:
            limits[each.name].checked(getattr(owner, each.name))


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """Shape of a network: number of colour channels, of features at the finest level, of levels."""

    channels: int = 1
    width: int = 32
    depth: int = 3

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.channels <= 64 or self.width % 2:
            raise EnsembleError(
                f"a network for {self.channels} channels with width {self.width} cannot be built: 1 to 64 "
                "and an even number are possible."
            )


class UNetModel(Model):
    """Base class of models that consist of one U-Net, from ``inputs`` images to one."""

    settings_type: ClassVar[type[NetworkShape]] = NetworkShape
    settings: NetworkShape
    inputs: ClassVar[int] = 1

    def __init__(self, settings: NetworkShape) -> None:
        super().__init__()
        self.settings = settings
        inputs, shape = self.inputs * settings.channels, {"width": settings.width, "depth": settings.depth}
        self.network = UNet(inputs, settings.channels, **shape)
        self.multiple = self.network.multiple


# Constants of the preconditioning, for images in -1..1: the standard deviation of a typical image, and the
# range of noise to train for, which is that of the diffusion from t = 1 to about 700.
_SPREAD = 0.5
_LEAST, _MOST = 0.01, 10.0


class DenoiserModel(UNetModel):
    """Denoiser D(x, s) = c_skip x + c_out network(c_in x, ln s), for images in -1..1.

    c_skip = d^2 / (s^2 + d^2), c_out = s d / sqrt(s^2 + d^2), c_in = 1 / sqrt(s^2 + d^2), d = 0.5
    (Karras et al. 2022, table 1), so that the network's task is the same at every s.
    """

    kind: ClassVar[str] = "denoiser"

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Denoise images (batch, channels, rows, columns) with noise of standard deviation (batch,)."""
        s = sigma.reshape(-1, 1, 1, 1)
        total = (s**2 + _SPREAD**2).sqrt()
        inner: Tensor = self.network(noisy / total, 10 * sigma.log())
        return (_SPREAD / total) ** 2 * noisy + s * _SPREAD / total * inner

    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """Mean squared error divided by c_out^2, for `clean` with added noise; ln s is uniform."""
        share = torch.rand(len(clean), generator=generator)
        sigma = (_LEAST * (_MOST / _LEAST) ** share).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        image, s = 2 * clean - 1, sigma.reshape(-1, 1, 1, 1)
        weight = (s**2 + _SPREAD**2) / (s * _SPREAD) ** 2
        error: Tensor = self(image + s * noise, sigma) - image
        return (weight * error**2).mean()


class LocalWiener(nn.Module):
    """Denoiser without weights: shrinks each pixel towards its 5 x 5 mean (Lee 1980).

    x -> m + max(v - s^2, 0) / max(v, s^2) (x - m), with the local mean m and variance v. Used by DP-IR where
    no denoiser has been trained.

    Examples
    --------
    >>> noisy = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> bool(LocalWiener()(noisy, torch.ones(1)).std() < 0.5)
    True
    """

    multiple = 1

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """See :meth:`DenoiserModel.forward`."""
        noise = sigma.reshape(-1, 1, 1, 1) ** 2
        mean = _box(noisy)
        variance = _box((noisy - mean) ** 2)
        gain = (variance - noise).clamp(min=0) / variance.maximum(noise).clamp(min=1e-12)
        return mean + gain * (noisy - mean)


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoiser(LearnedRestorer):
    """Restorer that applies a :class:`DenoiserModel`; :class:`LearnedRestorer` has the other parameters.

    Parameters
    ----------
    noise
        Standard deviation of the noise in intensity units; None: estimated from each plane.
    """

    title: ClassVar[str] = "Denoising network"
    model_type = DenoiserModel
    model: DenoiserModel
    noise: float | None = noise_setting()

    def restore_unit(self, image: FloatImage, scale: float, progress: Progress) -> FloatImage:
        """See :class:`NetworkRestorer`."""
        on_unit_scale = replace(self, noise=None if self.noise is None else self.noise / scale)
        return super(Denoiser, on_unit_scale).restore_unit(image, scale, progress)

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`; `noise` is in units of the plane."""
        sigma = estimate_noise(plane.cpu().numpy()) if self.noise is None else self.noise
        level = torch.full((1,), min(max(2 * sigma, _LEAST), _MOST), device=plane.device)
        restored = tiled(lambda image: self.model(image, level.expand(len(image))), 2 * plane - 1)
        return (restored + 1) / 2


def _box(image: Tensor) -> Tensor:
    """Mean over 5 x 5 pixels; border pixels are repeated."""
    return functional.avg_pool2d(functional.pad(image, (2, 2, 2, 2), mode="replicate"), 5, stride=1)


class RegressionModel(UNetModel):
    """Model that returns y + network(y).

    Examples
    --------
    >>> import torch
    >>> image = torch.rand(1, 3, 16, 16)
    >>> model = RegressionModel(NetworkShape(channels=3, width=8))
    >>> bool((model(image) == image).all())
    True
    """

    kind: ClassVar[str] = "regression"

    def forward(self, degraded: Tensor) -> Tensor:
        """Restore images of shape (batch, channels, rows, columns), data range 0..1."""
        residual: Tensor = self.network(2 * degraded - 1, degraded.new_zeros(len(degraded)))
        return degraded + residual

    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """Mean absolute error."""
        return functional.l1_loss(self(degraded), clean)


@dataclass(frozen=True, kw_only=True, eq=False)
class Regression(LearnedRestorer):
    """Restorer that applies a :class:`RegressionModel`; :class:`LearnedRestorer` has the parameters."""

    title: ClassVar[str] = "Regression"
    model_type = RegressionModel
    model: RegressionModel

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`."""
        return tiled(self.model, plane)
