"""Networks of the user's: TorchScript and torch.export files, and, with spandrel, the community's.

**What is safe.** Pickled networks and bare weights are refused, since a pickle can run anything. A
TorchScript or torch.export file is looked through first (:mod:`.export_archive`) and refused where
loading it would run code; torch then opens a new archive of what was checked, never the file. Published
weights are read as tensors, and spandrel gets those.

**What is not.** A network is a program: once it is applied, its operators run with the user's
rights, and a hostile one could exhaust the memory, read or write files through TorchScript's
operators, or use a fault in torch. Open only files of people you trust.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_ensir.devices import device_trouble
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import some_pixels
from napari_ensir.restorers.networks.archive import read_network
from napari_ensir.restorers.networks.learned import Draw, NetworkRestorer, Tiled
from napari_ensir.settings import check_settings, data_range_setting, intensities_setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_ensir.restorers.networks.learned import Draw, Tiled

__all__ = ["Levels", "OwnNetwork", "PackagedNetwork", "load_network", "load_spandrel", "unchanged"]


_AT_A_SHAPE = (RuntimeError, AssertionError, TypeError, NameError, torch.jit.Error)
"""What networks raise at a shape that they do not take."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnNetwork(NetworkRestorer):
    """Applies any network tile by tile; see :class:`NetworkRestorer` for the other parameters.

    Parameters
    ----------
    network
        From tensors of shape (batch, channels, rows, columns), data range 0..1, to the same shape, or to
        a whole number of times as many rows and columns.
    label
        What to call it.
    channels
        How many channels it takes; 0: any number.
    sides
        What the sides of a tile have to be multiples of, along every axis or one for each. A network
        exported for one size needs that size here, and as ``tiles.size``.
    enlarges
        How many times as many rows and columns it makes; None: whatever it makes of the first tile.
    move
        Brings the network to a device, where that is not its method ``to``.
    intensities : "range" or "raw"
        What the network was trained on: the data range as 0..1, or the image's own intensities.
    """

    network: Callable[[Tensor], Tensor]
    label: str
    channels: int = 0
    sides: int | tuple[int, ...] = 8
    enlarges: int | None = None
    move: Callable[[torch.device], object] | None = None
    intensities: str = intensities_setting("range")
    data_range: tuple[float, float] | None = data_range_setting(
        "the dtype's for 8 bit, else the image's own", "Intensities that become 0 and 1 for the network."
    )

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    @property
    def network_channels(self) -> int:
        """See :class:`NetworkRestorer`."""
        return self.channels

    @property
    def multiple(self) -> int | tuple[int, ...]:
        """See :class:`NetworkRestorer`."""
        return self.sides

    @property
    def scale(self) -> int | None:
        """See :class:`ImageRestorer`."""
        return self.enlarges

    def range_of(self, image: NDArray[Any]) -> tuple[float, float]:
        """See :class:`ImageRestorer`."""
        check_settings(self, f"{self.label}: ")
        # From 0 to 1 is what scaling to 0..1 leaves as it is.
        return (0.0, 1.0) if self.intensities == "raw" else super().range_of(image)

    def to_device(self, device: torch.device) -> None:
        """See :class:`NetworkRestorer`."""
        if self.move is not None:
            self.move(device)
        elif isinstance(self.network, torch.nn.Module):
            self.network.to(device)

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`."""
        try:
            restored = tiled(self.network, plane)
        except _AT_A_SHAPE as error:
            if device_trouble(error):
                raise
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise EnsembleError(
                f"{self.label} cannot be applied to tiles of {plane.shape[0]} channel(s): {reason}"
            ) from error
        if len(restored) != len(plane):
            raise EnsembleError(
                f"{self.label} turned {len(plane)} channel(s) into {len(restored)}; "
                "only networks that keep the channels can be used."
            )
        return restored


def load_network(path: str | Path, *, content: bytes | None = None, **settings: Any) -> OwnNetwork:
    """Load a TorchScript or a torch.export file. See this module on what is safe.

    Parameters
    ----------
    path
        The file.
    content
        What it holds, where that was read already; `path` is then only named.
    settings
        Of :class:`OwnNetwork`: ``channel_axis``, ``data_range``, ``tiles``, ``sides``, ...

    Returns
    -------
    OwnNetwork

    Raises
    ------
    EnsembleError
        If the file is something else, or would run code as it is loaded, or torch cannot read it.

    Notes
    -----
    A ``torch.export`` file takes the shapes it was exported for: export it with dynamic batch, rows
    and columns, or set ``tiles=Tiles(size=n, overlap=..., batch=b)`` and ``sides=n`` to them.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> program = torch.export.export(torch.nn.AvgPool2d(3, 1, 1), (torch.ones(1, 1, 16, 16),))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.export.save(program, f"{folder}/mean.pt2")
    ...     restorer = load_network(f"{folder}/mean.pt2", device="cpu")
    >>> restorer(np.ones((16, 16), np.float32)).shape
    (16, 16)
    """
    checked = read_network(path, content)
    try:
        with warnings.catch_warnings():
            # Newer versions of torch call TorchScript deprecated; files of it will be around for long.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            if checked.kind == "torchscript":
                network = torch.jit.load(checked.content, map_location="cpu").eval()  # type: ignore[no-untyped-call]
            else:
                network = torch.export.load(checked.content).module()
    except MemoryError:
        raise
    except Exception as error:  # a program that torch did not write ends in any kind
        raise EnsembleError(f"{path} cannot be read by torch: {_in_short(error)}.") from error
    settings.setdefault("label", Path(path).stem)
    return OwnNetwork(network=network, **settings)


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def load_spandrel(path: str | Path, **settings: Any) -> OwnNetwork:
    """Load a checkpoint of a published architecture (SwinIR, NAFNet, HAT, DRUNet, ...).

    Restormer, MPRNet and a few more, whose licences are not free, are known where the package
    ``spandrel_extra_arches`` is installed too.

    Parameters
    ----------
    path
        A ``.safetensors``, ``.pth`` or ``.ckpt`` file of weights.
    settings
        Of :class:`OwnNetwork`.

    Returns
    -------
    OwnNetwork

    Raises
    ------
    EnsembleError
        If the extra ``spandrel`` is not installed, the architecture is unknown, or the file cannot be
        read.

    Examples
    --------
    With a checkpoint of SwinIR's authors:

        restorer = load_spandrel("005_colorDN_DFWB_s128w8_SwinIR-M_noise25.pth")
        restored = restorer(noisy)
    """
    if Path(path).suffix.lower() not in (".safetensors", ".pth", ".ckpt"):
        raise EnsembleError(
            f"{path} is no network that is known here; spandrel is given .safetensors, .pth and .ckpt files."
        )
    spandrel = _spandrel(path)
    try:
        found = _found_by(spandrel, Path(path))
    except spandrel.UnsupportedModelError as error:
        raise EnsembleError(
            f"{path} is of an architecture that spandrel does not know; Restormer and MPRNet are among "
            "those of the package spandrel_extra_arches, whose licences are not free."
        ) from error
    except EnsembleError:
        raise
    except Exception as error:  # wrong shapes end in many kinds
        raise EnsembleError(f"{path} cannot be read by spandrel: {_in_short(error)}.") from error
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise EnsembleError(f"{path} is no network from one image to one; only such restore here.")
    if found.input_channels != found.output_channels:
        raise EnsembleError(
            f"{path} turns {found.input_channels} channels into {found.output_channels}; "
            "only networks that keep the channels can be used."
        )
    settings.setdefault("enlarges", found.scale)
    settings.setdefault("label", f"{found.architecture.name}, {Path(path).stem}")
    settings.setdefault("sides", 1)  # spandrel pads to what the network needs, as its authors do
    return OwnNetwork(network=found.eval(), channels=found.input_channels, move=found.to, **settings)


def _found_by(spandrel: Any, path: Path) -> Any:
    """What spandrel makes of a file.

    Given a pickle, it would ask torch, which runs what it takes for TorchScript: it gets a new file of the
    tensors alone.
    """
    loader = spandrel.ModelLoader(device="cpu")
    if path.suffix.lower() == ".safetensors":
        return loader.load_from_file(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # many kinds, whose text advises to run what is in the file
        raise EnsembleError(
            f"{path} cannot be read by spandrel: it holds more than tensors, or is damaged. Networks pickled "
            "whole are not opened, for a pickle can run anything; save the weights alone, or TorchScript."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        anew = Path(folder) / "weights.pth"
        torch.save(weights, anew)
        return loader.load_from_file(anew)


def _spandrel(path: str | Path) -> Any:
    """The library, with the architectures of its sister package where that is installed."""
    try:
        import spandrel
    except ImportError as error:
        raise EnsembleError(
            f"{path} is no network that was trained here or by CAREamics; for one of a published "
            'architecture the extra "spandrel" is needed, which is not installed: '
            f'pip install "napari-ensir[spandrel]" ({error}).'
        ) from error
    except Exception as error:  # a torchvision that was built for another torch
        raise EnsembleError(
            f"spandrel is installed and does not start ({error}); most often torchvision is of another kind "
            "than torch, one with and one without CUDA: install both from one place."
        ) from error
    with suppress(ImportError):
        import spandrel_extra_arches

        spandrel_extra_arches.install(ignore_duplicates=True)
    return spandrel


# In what the intensities of the training spread by. Images of one set differ; of another camera or another
# scale (0 to 1 in place of 16 bits) they are beyond these.
_LEAST_SPREAD = 0.05
_MOST_SPREAD = 60
_FARTHEST = 6


def unchanged(x: Tensor) -> Tensor:
    """The tensor itself."""
    return x


@dataclass(frozen=True)
class Levels:
    """Which intensity is 0 and how many are 1, for each channel.

    Parameters
    ----------
    zero, unit
        In intensity units; as many as channels, or one for all.

    Examples
    --------
    >>> levels = Levels((100.0,), (50.0,))
    >>> levels.normalised(torch.tensor([200.0])).item(), levels.intensities(torch.tensor([2.0])).item()
    (2.0, 200.0)
    """

    zero: tuple[float, ...]
    unit: tuple[float, ...]

    def normalised(self, x: Tensor) -> Tensor:
        """(x - zero) / unit, for x of shape (channels, ...)."""
        return (x - self._along(self.zero, x)) / self._along(self.unit, x)

    def intensities(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`normalised`: x unit + zero."""
        return x * self._along(self.unit, x) + self._along(self.zero, x)

    def check(self, channels: int, where: str) -> None:
        """Refuse figures that do not fit a network.

        Raises
        ------
        EnsembleError
            If they are not as many as the channels (or one), not finite, or a unit is 0.
        """
        good = len(self.zero) == len(self.unit) and len(self.unit) in (1, channels)
        if not (good and bool(torch.isfinite(torch.tensor(self.zero + self.unit)).all()) and all(self.unit)):
            raise EnsembleError(
                f"{where} states intensities for {channels} channel(s) as {self.zero[:4]} and "
                f"{self.unit[:4]}; finite numbers are needed, as many of each, and no division by 0."
            )

    @staticmethod
    def _along(values: tuple[float, ...], x: Tensor) -> Tensor:
        return x.new_tensor(values).reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class PackagedNetwork(OwnNetwork):
    """Applies a network to intensities as they are; see :class:`OwnNetwork` for the other parameters.

    A data range changes nothing here: the file says what the intensities mean.

    Parameters
    ----------
    axes
        How many the network takes together, the channels apart: 2 or 3.
    before, after
        What is done with intensities before the network, and with what it gives, to have intensities again;
        tensors of shape (channels, [planes,] rows, columns).
    learned
        The middle of the intensities that it was trained on, and how far they spread; None: not known.
    """

    # No settings here: both follow from the file.
    intensities: str = "raw"
    data_range: tuple[float, float] | None = None
    axes: int = 2
    before: Callable[[Tensor], Tensor] = unchanged
    after: Callable[[Tensor], Tensor] = unchanged
    learned: Levels | None = None

    @property
    def network_ndim(self) -> int:
        """See :class:`NetworkRestorer`."""
        return self.axes

    def range_of(self, image: NDArray[Any]) -> tuple[float, float]:
        """See :class:`ImageRestorer`; intensities stay what they are."""
        return 0.0, 1.0

    def input_warnings(self, image: NDArray[Any]) -> list[str]:
        """See :class:`ImageRestorer`; among them that intensities are not those of the training."""
        said = super().input_warnings(image)
        if self.learned is None or said:
            return said
        axis = self.channel_axis if len(self.learned.zero) > 1 else None
        channels = [image] if axis is None else list(np.moveaxis(image, axis, 0))
        for channel, middle, width in zip(channels, self.learned.zero, self.learned.unit, strict=False):
            few = some_pixels(channel).astype(np.float64)
            least, low, centre, high, most = np.percentile(few, (0, 1, 50, 99, 100))
            if (
                most - least < _LEAST_SPREAD * width
                or high - low > _MOST_SPREAD * width
                or abs(centre - middle) > _FARTHEST * width
            ):
                return [
                    f"{self.name} was trained on intensities around {middle:.4g}, spread by {width:.4g}, "
                    f"and this image's are {least:.4g} to {most:.4g}: give intensities as recorded, "
                    "not rescaled, or a network that was trained on such."
                ]
        return []

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`."""
        return self.after(super().restore_plane(self.before(plane), draw, tiled))
