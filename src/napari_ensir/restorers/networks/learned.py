"""Base classes of restorers that apply networks, and of models that are trained with this package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from napari_ensir.devices import resolve_device
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import ImageRestorer, channels_first
from napari_ensir.restorers.networks.tiling import Tiles, apply_tiled
from napari_ensir.settings import device_setting

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_ensir.restorers.base import FloatImage, Progress

_MAX_COLOURS = 4

Draw = Callable[[], "Tensor"]
"""Returns new standard normal noise at each call, with the shape and device of the plane."""

Tiled = Callable[..., "Tensor"]
"""``tiled(function, *planes)``: see :func:`napari_ensir.restorers.networks.tiling.apply_tiled`."""


class Model(nn.Module, ABC):
    """A network with its training loss.

    A subclass defines `kind`, its name in checkpoints, and a dataclass of settings (numbers and text only)
    from which it is rebuilt. The parameters that require a gradient are trained.
    """

    kind: ClassVar[str]
    settings_type: ClassVar[type[Any]]
    settings: Any
    multiple: int

    @property
    def channels(self) -> int:
        """Number of colour channels of the images."""
        return int(self.settings.channels)

    @abstractmethod
    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """Compute the loss of a batch.

        Parameters
        ----------
        degraded, clean
            Shape (batch, channels, rows, columns), data range 0..1.
        generator
            On the CPU; the only source of randomness, so that a resumed training gives the same result.
        done
            Fraction of the training that is done, 0..1.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkRestorer(ImageRestorer):
    """Applies a network to images of any size, plane by plane or volume by volume, in tiles.

    The network takes the last two or three axes besides the channel axis, and is applied to each index of
    the axes before them. A network of one channel is applied to each channel of a colour image. A network
    may enlarge rows and columns by an integer factor.

    Parameters
    ----------
    channels
        Number of channels that the network takes; 0: any.
    sides
        The sides of a tile are multiples of this, along every axis or one for each.
    axes
        Number of spatial axes of the network: 2 (planes) or 3 (volumes).
    tiles
        How to cut images that are larger than a tile.
    seed
        Seed of the noise, if the restorer draws any. Noise is drawn on the CPU for each whole plane, so
        results do not depend on the tiles or the batch size.
    device
        See :func:`napari_ensir.devices.resolve_device`.
    """

    channels: int = 0
    sides: int | tuple[int, ...] = 8
    axes: int = 2
    tiles: Tiles = field(default_factory=Tiles)
    seed: int = 0
    device: str = device_setting()

    @property
    def calls(self) -> int:
        """Number of calls of `tiled` in :meth:`restore_plane`."""
        return 1

    @abstractmethod
    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """Restore a plane (channels, rows, columns) or a volume (channels, planes, rows, columns).

        It is on the device, and its data range is 0..1.
        """

    @abstractmethod
    def to_device(self, device: torch.device) -> None:
        """Move the networks to a device and prepare them for use."""

    def notes(self, image: NDArray[Any]) -> list[str]:
        """See :meth:`ImageRestorer.notes`."""
        ndim = self.axes
        channels, *spatial = channels_first(image, self.channel_axis).shape
        number, found = int(np.prod(spatial[:-ndim])), []
        if number > 1:
            kind = "planes" if ndim == 2 else "volumes"
            found.append(f"restored the {number} {kind} of this image one by one")
        if channels > 1 == self.channels:
            found.append(f"restored the {channels} channels of this image one by one")
        return found

    def input_warnings(self, image: NDArray[Any]) -> list[str]:
        """See :meth:`ImageRestorer.input_warnings`."""
        if self.channel_axis is None and image.ndim > 2 and image.shape[-1] <= _MAX_COLOURS:
            return [
                f"{self.name} treats the last axis, of length {image.shape[-1]}, as columns of pixels; if it "
                "contains channels, set the channel axis to -1."
            ]
        return []

    def restore_unit(self, image: FloatImage, scale: float, progress: Progress) -> FloatImage:
        """See :meth:`ImageRestorer.restore_unit`."""
        ndim = self.axes
        if image.ndim - 1 < ndim:
            raise EnsembleError(
                f"{self.name} takes volumes, but the image has {image.ndim - 1} axes besides the channel "
                "axis; at least three are needed."
            )
        device = resolve_device(self.device)
        self.to_device(device)
        groups = self._groups(image.shape[0])
        before, last = image.shape[1:-ndim], image.shape[-ndim:]
        calls = self.tiles.batches(last, self.sides) * self.calls
        total, done = max(len(groups) * int(np.prod(before)) * calls, 1), count()
        restored = np.empty(0, np.float32)

        def report() -> None:
            progress(next(done), total, self.name)

        tiled = partial(apply_tiled, tiles=self.tiles, multiple=self.sides, tick=report)
        report()
        with torch.inference_mode():
            for number, index in enumerate(np.ndindex(before)):
                for group in groups:
                    at = (group, *index)
                    plane = torch.from_numpy(np.ascontiguousarray(image[at])).to(device)
                    rng = np.random.default_rng([self.seed, number, group.start or 0])
                    result = self.restore_plane(plane, _noise(rng, plane), tiled).cpu().numpy()
                    if restored.size == 0:  # the size of the results is known only now
                        restored = np.empty((*image.shape[:-ndim], *result.shape[-ndim:]), np.float32)
                    restored[at] = result
        return restored

    def _groups(self, channels: int) -> list[slice]:
        if self.channels in (0, channels):
            return [slice(None)]
        if self.channels == 1:
            return [slice(each, each + 1) for each in range(channels)]
        raise EnsembleError(
            f"{self.name} takes {self.channels} colour channels and the image has {channels}; "
            "set the channel axis, or use a network for such images."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedRestorer(NetworkRestorer):
    """Applies a model that was trained with this package.

    Parameters
    ----------
    model
        The model.
    data_range
        As in :class:`ImageRestorer`; the range that it was trained on.
    trained_steps
        Number of training steps; 0: untrained, as its name then says.
    """

    model_type: ClassVar[type[Model]]
    model: Model
    trained_steps: int = 0

    @property
    def name(self) -> str:
        """Title of the method, with "(untrained)" if it is."""
        return self.title if self.trained_steps else f"{self.title} (untrained)"

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", self.model.channels)
        object.__setattr__(self, "sides", self.model.multiple)

    def to_device(self, device: torch.device) -> None:
        """See :class:`NetworkRestorer`."""
        self.model.to(device).eval()

    def prepare_training(self, device: torch.device) -> None:
        """Move the model to the device on which it is trained.

        Parameters
        ----------
        device : torch.device
        """
        self.model.to(device)

    def header(self) -> dict[str, Any]:
        """Header of a checkpoint."""
        return {
            "kind": self.model.kind,
            "settings": asdict(self.model.settings),
            "data_range": self.data_range and list(self.data_range),
            "step": self.trained_steps,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint."""
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
    """Return a :data:`Draw` for one plane."""
    return lambda: torch.from_numpy(rng.standard_normal(plane.shape, dtype=np.float32)).to(plane.device)
