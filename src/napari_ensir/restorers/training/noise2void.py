"""Denoisers that learn without clean images: Noise2Void and Noise2Noise.

Noise2Void (Krull, Buchholz and Jug, CVPR 2019) hides some pixels by putting a neighbour's value there, and
learns to predict them. The noise of a pixel cannot be predicted from other pixels if it is independent, so
the prediction tends to the true intensity. Noise2Noise (Lehtinen et al., ICML 2018) predicts a second
exposure. Both learn from images whose noise has been stabilised; see
:meth:`napari_ensir.restorers.noise_model.NoiseModel.stabilise`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.networks.learned import Draw, LearnedRestorer, Tiled
from napari_ensir.restorers.noise_model import NoiseModel, estimate_noise_model
from napari_ensir.restorers.training.models import NetworkShape, UNetModel

if TYPE_CHECKING:
    from torch import Tensor

    from napari_ensir.restorers.training.trainer import TrainingPairs

REACH = 2
"""Largest distance of the pixel that replaces a hidden one, along rows and columns."""


@dataclass(frozen=True, kw_only=True)
class NoisySettings(NetworkShape):
    """Settings of a network that learns from noisy images.

    Parameters
    ----------
    hidden
        Share of the pixels that are hidden in a step.
    gain, offset, level
        Noise of the training images on the unit scale; see
        :class:`napari_ensir.restorers.noise_model.NoiseModel`. A gain of 0 is noise of one level.
    centre, spread
        Mean and standard deviation of the stabilised training images, which the network gets as 0 and 1.
    """

    hidden: float = 0.03
    gain: float = 0.0
    offset: float = 0.0
    level: float = 1.0
    centre: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.gain, self.level, self.spread) < 0 or not self.level * self.spread:
            raise EnsembleError(
                f"gain = {self.gain}, level = {self.level} and spread = {self.spread} must not be negative, "
                "and the last two not zero."
            )

    @property
    def noise(self) -> NoiseModel:
        """Model of the noise."""
        return NoiseModel(self.gain, self.offset, level=self.level, is_signal_dependent=self.gain > 0)


def noise_of(pairs: TrainingPairs) -> dict[str, float]:
    """Return the noise and the scale of the degraded images, as fields of :class:`NoisySettings`."""
    rows, columns = np.min([plane.shape[1:] for plane in pairs.degraded], axis=0)
    images = np.stack([plane[:, :rows, :columns] for plane in pairs.degraded])
    model = estimate_noise_model(images)
    gain = float(model.gain) if model.is_signal_dependent else 0.0
    known: dict[str, Any] = {"gain": gain, "offset": float(model.offset), "level": float(model.level or 1.0)}
    stabilised = NoisySettings(**known).noise.stabilise(images)
    return known | {"centre": float(stabilised.mean()), "spread": float(stabilised.std()) or 1.0}


class Noise2VoidModel(UNetModel):
    """U-Net on stabilised images, trained to predict hidden pixels.

    Examples
    --------
    >>> model = Noise2VoidModel(NoisySettings(width=8))
    >>> model.loss(*torch.rand(2, 1, 1, 16, 16), torch.Generator().manual_seed(0), 0.0).shape
    torch.Size([])
    """

    kind: ClassVar[str] = "noise2void"
    settings_type = NoisySettings
    settings: NoisySettings

    def forward(self, stabilised: Tensor) -> Tensor:
        """Denoise images of shape (batch, channels, rows, columns) from :meth:`stabilise`."""
        denoised: Tensor = self.network(stabilised, stabilised.new_zeros(len(stabilised)))
        return denoised

    def stabilise(self, image: Tensor) -> Tensor:
        """Stabilise the noise of images with the data range 0..1, and normalise them."""
        scaled = self.settings.noise.stabilise(image.cpu().numpy()) - self.settings.centre
        return torch.from_numpy((scaled / self.settings.spread).astype(np.float32)).to(image.device)

    def unstabilise(self, stabilised: Tensor) -> Tensor:
        """Reverse :meth:`stabilise` for denoised images."""
        scaled = stabilised.cpu().double().numpy() * self.settings.spread + self.settings.centre
        return torch.from_numpy(self.settings.noise.unstabilise(scaled).astype(np.float32))

    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """Mean squared error of hidden pixels of `degraded`; `clean` is not used."""
        image = self.stabilise(degraded)
        hidden, where = _hide(image.cpu(), self.settings.hidden, generator)
        where = where.expand_as(image).to(image.device)
        error: Tensor = (self(hidden.to(image.device)) - image)[where]
        return (error**2).mean()


def _hide(image: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Replace random pixels by random neighbours; return the images and where, (batch, 1, rows, columns).

    All channels are hidden together, since their noise can be correlated.
    """
    count, _, rows, columns = image.shape
    where = torch.rand((count, 1, rows, columns), generator=generator) < share
    where[:, :, rows // 2, columns // 2] = True  # so that no step is without a hidden pixel
    batch, _, row, column = where.nonzero(as_tuple=True)
    side = 2 * REACH + 1
    step = torch.randint(side**2 - 1, (len(row),), generator=generator)
    step += step >= side**2 // 2  # never the pixel itself
    hidden = image.clone()
    hidden[batch, :, row, column] = image[
        batch, :, _moved(row, step // side - REACH, rows), _moved(column, step % side - REACH, columns)
    ]
    return hidden, where


def _moved(index: Tensor, step: Tensor, length: int) -> Tensor:
    """Index moved by a step, in the other direction where it would leave the image."""
    moved = index + step
    return torch.where((moved < 0) | (moved >= length), index - step, moved)


class Noise2NoiseModel(Noise2VoidModel):
    """U-Net on stabilised images, trained to predict a second exposure."""

    kind: ClassVar[str] = "noise2noise"

    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """Mean squared error; `clean` is the second exposure. Which of both is predicted is random."""
        swap = (torch.rand((len(clean), 1, 1, 1), generator=generator) < 0.5).to(clean.device)
        first, second = torch.where(swap, clean, degraded), torch.where(swap, degraded, clean)
        return functional.mse_loss(self(self.stabilise(first)), self.stabilise(second))


@dataclass(frozen=True, kw_only=True, eq=False)
class Noise2Void(LearnedRestorer):
    """Restorer that applies a :class:`Noise2VoidModel`, averaged over eight orientations.

    :class:`LearnedRestorer` has the parameters.
    """

    title: ClassVar[str] = "Noise2Void"
    model_type = Noise2VoidModel
    model: Noise2VoidModel

    @property
    def calls(self) -> int:
        """See :class:`NetworkRestorer`."""
        return 8

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`."""
        total: Any = 0
        stabilised = self.model.stabilise(plane)
        for turns in range(4):
            for mirrored in (False, True):
                turned = torch.rot90(stabilised.flip(2) if mirrored else stabilised, turns, (1, 2))
                back = torch.rot90(tiled(self.model, turned), -turns, (1, 2))
                total = total + (back.flip(2) if mirrored else back)
        return self.model.unstabilise(total / 8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Noise2Noise(Noise2Void):
    """Restorer that applies a :class:`Noise2NoiseModel`."""

    title: ClassVar[str] = "Noise2Noise"
    model_type = Noise2NoiseModel
    model: Noise2NoiseModel
