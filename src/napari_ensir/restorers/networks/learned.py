"""What the restorers that are trained here share: a model, and the restorer that applies it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from napari_ensir.devices import resolve_device
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import ImageRestorer, Progress
from napari_ensir.restorers.networks.tiling import Tiles, apply_tiled
from napari_ensir.settings import device_setting

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Draw", "LearnedRestorer", "Model", "NetworkRestorer", "Ticker", "Tiled"]

_MOST_COLOURS = 4

Draw = Callable[[], "Tensor"]
"""Gives standard normal noise of the shape and on the device of the plane, new at each call."""

Tiled = Callable[..., "Tensor"]
"""``tiled(function, *planes)``: see :func:`napari_ensir.restorers.networks.tiling.apply_tiled`."""


class Ticker:
    """Counts pieces of work and tells `progress`."""

    def __init__(self, progress: Progress, total: int, text: str) -> None:
        self._progress, self._total, self._text = progress, max(total, 1), text
        self._done = -1
        self.tick()

    def tick(self) -> None:
        """One piece is done."""
        self._done += 1
        self._progress(self._done, self._total, self._text)


class Model(nn.Module, ABC):
    """A network together with its loss; all that a training has to know.

    A subclass has a dataclass of settings (numbers and words only) that rebuilds it, parameters that
    require a gradient where they are to be trained, and `kind`, its name in checkpoints.
    """

    kind: ClassVar[str]
    settings_type: ClassVar[type[Any]]
    settings: Any
    multiple: int

    @property
    def channels(self) -> int:
        """Colour channels of the images."""
        return int(self.settings.channels)

    @abstractmethod
    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """The loss of a batch.

        Parameters
        ----------
        degraded, clean
            Shape (batch, channels, rows, columns), data range 0..1.
        generator
            On the CPU; everything random is to be drawn from it, so that a resumed training goes on
            exactly as it would have.
        done
            How much of the training is done, 0..1.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkRestorer(ImageRestorer):
    """Applies a network to images of any size, plane by plane or volume by volume, in tiles.

    The network takes the last two axes, or the last three (beside the channel axis); all axes before
    them are gone through one by one. A network of one channel is applied to each channel of a colour
    image by itself. One that enlarges gives rows and columns a whole number of times as many.

    Parameters
    ----------
    tiles
        How to cut what is larger than a tile.
    seed
        Of the noise, where the restorer has any. It is drawn for each whole plane on the CPU, so the
        image depends on the seed alone: not on the batch, and not on where tiles lie.
    device
        See :func:`napari_ensir.devices.resolve_device`.
    """

    tiles: Tiles = field(default_factory=Tiles)
    seed: int = 0
    device: str = device_setting()

    @property
    @abstractmethod
    def network_channels(self) -> int:
        """Channels that the network takes; 0: any number."""

    @property
    @abstractmethod
    def multiple(self) -> int | tuple[int, ...]:
        """What the sides of the tiles have to be multiples of, along every axis or one for each."""

    @property
    def network_ndim(self) -> int:
        """Axes that the network takes together, the channels apart: 2 (planes) or 3 (volumes)."""
        return 2

    @property
    def evaluations(self) -> int:
        """How often :meth:`restore_plane` calls `tiled`."""
        return 1

    @abstractmethod
    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """Restore a plane (channels, rows, columns), or a volume with planes before the rows, on the device.

        Its data range is 0..1.
        """

    @abstractmethod
    def to_device(self, device: torch.device) -> None:
        """Bring the networks there, ready for use."""

    def notes(self, image: NDArray[Any]) -> list[str]:
        """See :meth:`ImageRestorer.notes`."""
        axis, ndim = self.channel_axis, self.network_ndim
        channels = 1 if axis is None else image.shape[axis]
        spatial = [n for at, n in enumerate(image.shape) if axis is None or at != axis % image.ndim]
        count, said = int(np.prod(spatial[:-ndim])), []
        if count > 1:
            kind = "planes" if ndim == 2 else "volumes"
            said.append(f"restored the {count} {kind} of this image one by one")
        if channels > 1 == self.network_channels:
            said.append(f"restored the {channels} channels of this image one by one")
        return said

    def input_warnings(self, image: NDArray[Any]) -> list[str]:
        """See :meth:`ImageRestorer.input_warnings`."""
        if self.channel_axis is None and image.ndim > 2 and image.shape[-1] <= _MOST_COLOURS:
            return [
                f"{self.name} takes the last axis, of length {image.shape[-1]}, for columns of pixels; if "
                "these are channels, set the channel axis to -1."
            ]
        return []

    def restore_unit(
        self, image: NDArray[np.float32], scale: float, progress: Progress
    ) -> NDArray[np.float32]:
        """See :meth:`ImageRestorer.restore_unit`."""
        ndim = self.network_ndim
        if image.ndim - 1 < ndim:
            raise EnsembleError(
                f"{self.name} takes volumes, and the image has {image.ndim - 1} axes beside the channel "
                "axis; give it one of three or more."
            )
        device = resolve_device(self.device)
        self.to_device(device)
        groups = self._groups(image.shape[0])
        before, last = image.shape[1:-ndim], image.shape[-ndim:]
        calls = self.tiles.batches(last, self.multiple) * self.evaluations
        ticker = Ticker(progress, len(groups) * int(np.prod(before)) * calls, self.name)
        restored = np.empty(0, np.float32)

        def tiled(function: Callable[..., Tensor], *planes: Tensor) -> Tensor:
            return apply_tiled(function, *planes, tiles=self.tiles, multiple=self.multiple, tick=ticker.tick)

        with torch.inference_mode():
            for number, index in enumerate(np.ndindex(before)):
                for group in groups:
                    at = (group, *index)
                    plane = torch.from_numpy(np.ascontiguousarray(image[at])).to(device)
                    rng = np.random.default_rng([self.seed, number, group.start or 0])
                    result = self.restore_plane(plane, _noise(rng, plane), tiled).cpu().numpy()
                    if restored.size == 0:  # how large the results are is known now
                        restored = np.empty((*image.shape[:-ndim], *result.shape[-ndim:]), np.float32)
                    restored[at] = result
        return restored

    def _groups(self, channels: int) -> list[slice]:
        if self.network_channels in (0, channels):
            return [slice(None)]
        if self.network_channels == 1:
            return [slice(each, each + 1) for each in range(channels)]
        raise EnsembleError(
            f"{self.name} takes {self.network_channels} colour channels and the image has {channels}; "
            "state the channel axis, or use a network for such images."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedRestorer(NetworkRestorer):
    """Applies a model of this package.

    Parameters
    ----------
    model
        The model.
    data_range
        As in :class:`ImageRestorer`; a trained restorer carries the range it was trained on, since
        the same intensities have to mean the same to it.
    trained_steps
        Training steps made; 0: untrained, which the name says.
    """

    title: ClassVar[str]

    model: Model
    trained_steps: int = 0

    @property
    def name(self) -> str:
        """The method's title, and whether it is untrained."""
        return self.title if self.trained_steps else f"{self.title} (untrained)"

    @property
    def network_channels(self) -> int:
        """See :class:`NetworkRestorer`."""
        return self.model.channels

    @property
    def multiple(self) -> int:
        """See :class:`NetworkRestorer`."""
        return self.model.multiple

    def to_device(self, device: torch.device) -> None:
        """See :class:`NetworkRestorer`."""
        self.model.to(device).eval()

    def header(self) -> dict[str, Any]:
        """What a checkpoint says of this restorer."""
        return {
            "kind": self.model.kind,
            "settings": asdict(self.model.settings),
            "data_range": self.data_range and list(self.data_range),
            "step": self.trained_steps,
        }

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of this restorer."""
        return {f"model.{name}": each for name, each in self.model.state_dict().items()}

    def save(self, path: str | Path) -> None:
        """Save a checkpoint that :func:`napari_ensir.restorers.load_restorer` reads.

        Parameters
        ----------
        path : str or Path
            A ``.safetensors`` file.

        Raises
        ------
        EnsembleError
            If the file cannot be written.
        """
        from napari_ensir.restorers.networks.checkpoint import write_checkpoint

        write_checkpoint(path, self.tensors(), self.header())


def _noise(rng: np.random.Generator, plane: Tensor) -> Draw:
    """A :data:`Draw` for one plane."""
    return lambda: torch.from_numpy(rng.standard_normal(plane.shape, dtype=np.float32)).to(plane.device)
