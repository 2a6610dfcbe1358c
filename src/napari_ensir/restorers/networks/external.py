"""Networks from files: TorchScript, ONNX, and published architectures through spandrel.

Loading a file runs no code: state dicts and pickled networks are refused, TorchScript and ONNX files are
checked before torch and onnxruntime read them, and spandrel gets tensors only. Applying a network runs its
operators with the user's rights, so it can exhaust memory or exploit a fault in torch or onnxruntime.
Open only files of people you trust.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_ensir.devices import device_error_message
from napari_ensir.errors import EnsembleError, ensemble_errors, extra_needed
from napari_ensir.files.archive import check_torchscript
from napari_ensir.files.tensors import readable_file
from napari_ensir.restorers.base import channels_first, sample_block
from napari_ensir.restorers.networks.learned import NetworkRestorer
from napari_ensir.restorers.networks.onnx import OnnxNetwork, is_onnx, read_beside
from napari_ensir.restorers.networks.tiling import Tiles
from napari_ensir.settings import check_settings, data_range_setting, intensities_setting

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from napari_ensir.restorers.base import FloatImage, Progress
    from napari_ensir.restorers.networks.learned import Draw, Tiled

_SHAPE_ERRORS = (RuntimeError, AssertionError, TypeError, NameError, torch.jit.Error)
"""What networks raise at a shape that they cannot process."""

_MAX_BYTES = 2**37
_MAX_ONNX_BYTES = 2**31  # the limit of protobuf
_MAX_TILE = 2**26
_MAX_CHANNELS = 64

# Limits of familiar intensities, in units of the spread of the training intensities: images of one
# experiment are within them, images in other units (0 to 1 instead of 16 bits) are beyond.
_MIN_SPREAD = 0.05
_MAX_SPREAD = 60
_MAX_DISTANCE = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class ExternalNetwork(NetworkRestorer):
    """Applies any network tile by tile; see :class:`NetworkRestorer` for the other parameters.

    A network of a fixed input size needs that size as ``sides`` and as ``tiles.size``.

    Parameters
    ----------
    network
        From tensors of shape (batch, channels, rows, columns), data range 0..1, to the same shape, or to
        an integer multiple of the rows and columns.
    label
        Name of the restorer.
    enlarges
        Factor by which rows and columns grow; None: found from the first tile.
    frame_axis
        Axis of the frames of a burst. The network takes them as channels and returns one; the result has no
        such axis. None: the image is no burst.
    intensities : "range" or "raw"
        What the network was trained on: the data range scaled to 0..1, or the intensities of the image.
    """

    network: Callable[[Tensor], Tensor]
    label: str
    enlarges: int | None = None
    frame_axis: int | None = None
    intensities: str = intensities_setting("range")
    data_range: tuple[float, float] | None = data_range_setting(
        none="the dtype's for 8 bit, else the image's own",
        description="Intensities that become 0 and 1 for the network.",
    )

    def __post_init__(self) -> None:
        if self.frame_axis is not None:
            if self.channel_axis not in (None, self.frame_axis):
                raise EnsembleError(
                    f"{self.label} combines the frames of a burst and takes no channel axis; restore each "
                    "channel by itself."
                )
            object.__setattr__(self, "channel_axis", self.frame_axis)

    def __call__(self, image: ArrayLike, *, progress: Progress | None = None) -> FloatImage:
        """Restore `image`; see :meth:`ImageRestorer.__call__`. The result has no frame axis."""
        restored = super().__call__(image, progress=progress)
        if self.frame_axis is not None:
            restored = channels_first(restored, self.frame_axis)[0]  # all are equal
        return restored

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    @property
    def scale(self) -> int | None:
        """See :class:`ImageRestorer`."""
        return self.enlarges

    def range_of(self, image: NDArray[Any]) -> tuple[float, float]:
        """See :class:`ImageRestorer`."""
        check_settings(self, f"{self.label}: ")
        # Scaling 0..1 to 0..1 changes nothing.
        return (0.0, 1.0) if self.intensities == "raw" else super().range_of(image)

    def to_device(self, device: torch.device) -> None:
        """See :class:`NetworkRestorer`."""
        if (move := getattr(self.network, "to", None)) is not None:
            move(device)

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`."""
        try:
            restored = tiled(self.network, plane)
        except _SHAPE_ERRORS as error:
            if device_error_message(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise EnsembleError(
                f"{self.label} cannot be applied to tiles of {plane.shape[0]} channel(s): {reason}"
            ) from error
        if self.frame_axis is not None and len(restored) != 1:
            raise EnsembleError(
                f"{self.label} turned {len(plane)} frames into {len(restored)} images; a network for bursts "
                "has to return one."
            )
        if self.frame_axis is None and len(restored) != len(plane):
            raise EnsembleError(
                f"{self.label} turned {len(plane)} channel(s) into {len(restored)}; only networks that keep "
                "the channels can be used, or networks for bursts with a frame axis."
            )
        return restored


def identity(x: Tensor) -> Tensor:
    """Return the tensor itself."""
    return x


@dataclass(frozen=True)
class Normalization:
    """Linear scaling of intensities, for each channel.

    Parameters
    ----------
    offset, scale
        In intensity units; one for each channel, or one for all.

    Examples
    --------
    >>> scaling = Normalization((100.0,), (50.0,))
    >>> scaling.normalize(torch.tensor([200.0])).item(), scaling.denormalize(torch.tensor([2.0])).item()
    (2.0, 200.0)
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def normalize(self, x: Tensor) -> Tensor:
        """(x - offset) / scale, for x of shape (channels, ...)."""
        return (x - self._per_channel(self.offset, x)) / self._per_channel(self.scale, x)

    def denormalize(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`normalize`: x scale + offset."""
        return x * self._per_channel(self.scale, x) + self._per_channel(self.offset, x)

    def check(self, channels: int, where: str) -> None:
        """Check that the numbers fit a network.

        Raises
        ------
        EnsembleError
            If there is not one for each channel (or one for all), one is not finite, or a scale is 0.
        """
        fits = len(self.offset) == len(self.scale) and len(self.scale) in (1, channels)
        if not (
            fits and bool(torch.isfinite(torch.tensor(self.offset + self.scale)).all()) and all(self.scale)
        ):
            raise EnsembleError(
                f"{where} normalises {channels} channel(s) with offsets {self.offset[:4]} and scales "
                f"{self.scale[:4]}; one finite number is needed for each channel, and no scale of 0."
            )

    @staticmethod
    def _per_channel(values: tuple[float, ...], x: Tensor) -> Tensor:
        return x.new_tensor(values).reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class PackagedNetwork(ExternalNetwork):
    """Applies a network whose file says how it normalises; see :class:`ExternalNetwork` for other parameters.

    A data range has no effect, because the file defines what the intensities mean.

    Parameters
    ----------
    before, after
        Functions from intensities to what the network takes, and from what it returns to intensities;
        tensors of shape (channels, [planes,] rows, columns).
    learned
        Centre and spread of the intensities that the network was trained on; None: unknown.
    """

    # Not settings here, because the file defines both.
    intensities: str = "raw"
    data_range: tuple[float, float] | None = None
    before: Callable[[Tensor], Tensor] = identity
    after: Callable[[Tensor], Tensor] = identity
    learned: Normalization | None = None

    def input_warnings(self, image: NDArray[Any]) -> list[str]:
        """See :class:`ImageRestorer`; includes a warning if the intensities differ from the training's."""
        found = super().input_warnings(image)
        if self.learned is None or found:
            return found
        axis = self.channel_axis if len(self.learned.offset) > 1 else None
        channels = channels_first(image, axis)
        for channel, centre, spread in zip(channels, self.learned.offset, self.learned.scale, strict=False):
            sample = sample_block(channel).astype(np.float64)
            minimum, low, median, high, maximum = np.percentile(sample, (0, 1, 50, 99, 100))
            if (
                maximum - minimum < _MIN_SPREAD * spread
                or high - low > _MAX_SPREAD * spread
                or abs(median - centre) > _MAX_DISTANCE * spread
            ):
                return [
                    f"{self.name} was trained on intensities around {centre:.4g} with a spread of "
                    f"{spread:.4g}, and this image has {minimum:.4g} to {maximum:.4g}; give intensities as "
                    "recorded, not rescaled, or use a network that was trained on such images."
                ]
        return []

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`."""
        return self.after(super().restore_plane(self.before(plane), draw, tiled))


def load_network(path: str | Path, *, content: bytes | None = None, **settings: Any) -> ExternalNetwork:
    """Load a TorchScript or ONNX file; see this module on safety.

    Parameters
    ----------
    path
        The file.
    content
        The content of a TorchScript file if it was read already; `path` is then used in messages only.
    settings
        Of :class:`ExternalNetwork`: ``channel_axis``, ``data_range``, ``tiles``, ``sides``, ...

    Returns
    -------
    ExternalNetwork

    Raises
    ------
    EnsembleError
        If the file is something else, would run code when it is loaded, or cannot be read; if the extra
        ``onnx`` is needed and missing.

    Notes
    -----
    An ONNX network takes planes, channels first: (batch, channels, rows, columns). A fixed input size
    becomes the size of the tiles. It runs on the CPU, on as many threads as torch.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # torch deprecates TorchScript
    ...     torch.jit.script(torch.nn.AvgPool2d(3, 1, 1)).save(f"{folder}/mean.pt")
    ...     restorer = load_network(f"{folder}/mean.pt", device="cpu")
    >>> restorer(np.ones((16, 16), np.float32)).shape
    (16, 16)
    """
    settings.setdefault("label", Path(path).stem)
    if content is None:
        path = readable_file(path, _MAX_BYTES, "network")
        with path.open("rb") as file:
            start = file.read(16)
        if is_onnx(start) or (path.suffix.lower() == ".onnx" and not start.startswith(b"PK")):
            path = readable_file(path, _MAX_ONNX_BYTES, "ONNX network")
            network = OnnxNetwork(path.read_bytes(), str(path), read_beside(path))
            return ExternalNetwork(network=network, **(_onnx_settings(network.shape, str(path)) | settings))
    archive = check_torchscript(path, content)
    with warnings.catch_warnings(), ensemble_errors(f"{path} cannot be read by torch"):
        # Newer versions of torch deprecate TorchScript, but files of it will exist for long.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        script = torch.jit.load(archive, map_location="cpu").eval()  # type: ignore[no-untyped-call]
    return ExternalNetwork(network=script, **settings)


def check_channels(taken: int, returned: int, where: str) -> None:
    """Raise EnsembleError if a network does not keep the number of channels."""
    if taken != returned:
        raise EnsembleError(
            f"{where} turns {taken} channels into {returned}; only networks that keep the channels can be "
            "used."
        )


def check_tile(size: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Return the input size of a network; EnsembleError if no image of this size can be given to it."""
    if math.prod(size) > _MAX_TILE or min(size) < 8:
        raise EnsembleError(
            f"{where} takes images of {' x '.join(map(str, size))} pixels; at least 8 along each axis and at "
            f"most {_MAX_TILE} in all are possible."
        )
    return size


def _onnx_settings(shape: list[int | None], where: str) -> dict[str, Any]:
    """Channels and tiles that fit the input of an ONNX network of planes."""
    if len(shape) != 4:
        raise EnsembleError(
            f"{where} takes an input of {len(shape)} axes; batch, channels, rows and columns are needed."
        )
    batch, channels, *size = shape
    if (channels or 0) > _MAX_CHANNELS:
        raise EnsembleError(
            f"{where} takes {channels} channels; at most {_MAX_CHANNELS} are possible, and the axes are "
            "batch, channels, rows, columns."
        )
    if (batch or 1) > 1:
        raise EnsembleError(
            f"{where} takes batches of {batch}; export it with a batch size of 1, or a free one."
        )
    tiles: dict[str, Any] = {"batch": 1} if batch else {}
    found: dict[str, Any] = {"channels": channels or 0}
    if any(size):
        rows, columns = check_tile(tuple(each or 256 for each in size), where)
        tiles |= {"size": (rows, columns), "overlap": (rows // 4, columns // 4)}
        found["sides"] = tuple(each or 8 for each in size)
    return found | {"tiles": Tiles(**tiles)}


def load_spandrel(path: str | Path, **settings: Any) -> ExternalNetwork:
    """Load a checkpoint of a published architecture (SwinIR, NAFNet, HAT, DRUNet, ...).

    Restormer, MPRNet and others with non-free licences need the package ``spandrel_extra_arches``.

    Parameters
    ----------
    path
        A ``.safetensors``, ``.pth`` or ``.ckpt`` file of weights.
    settings
        Of :class:`ExternalNetwork`.

    Returns
    -------
    ExternalNetwork

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
            f"{path} is not a network in a supported format; spandrel reads .safetensors, .pth and .ckpt."
        )
    spandrel = _import_spandrel(path)
    with ensemble_errors(f"{path} cannot be read by spandrel"):
        try:
            found = _load_with_spandrel(spandrel, Path(path))
        except spandrel.UnsupportedModelError as error:
            raise EnsembleError(
                f"{path} has an architecture that spandrel does not support; Restormer and MPRNet need the "
                "package spandrel_extra_arches, whose licences are not free."
            ) from error
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise EnsembleError(f"{path} is not a network from one image to one image, as is needed.")
    check_channels(found.input_channels, found.output_channels, str(path))
    settings.setdefault("enlarges", found.scale)
    settings.setdefault("label", f"{found.architecture.name}, {Path(path).stem}")
    settings.setdefault("sides", 1)  # spandrel pads to what the network needs, as its authors do
    return ExternalNetwork(network=found.eval(), channels=found.input_channels, **settings)


def _load_with_spandrel(spandrel: Any, path: Path) -> Any:
    """Load a file with spandrel.

    spandrel passes pickles to torch, which runs files that look like TorchScript. So spandrel gets a new
    file that contains only the tensors.
    """
    loader = spandrel.ModelLoader(device="cpu")
    if path.suffix.lower() == ".safetensors":
        return loader.load_from_file(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch's message would advise to run what the file contains
        raise EnsembleError(
            f"{path} cannot be read by spandrel: it contains more than tensors, or is damaged. Pickled "
            "networks are not opened, because a pickle can run any code; save a state dict or TorchScript."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "weights.pth"
        torch.save(weights, copy)
        return loader.load_from_file(copy)


def _import_spandrel(path: str | Path) -> Any:
    """Import spandrel, and the architectures of ``spandrel_extra_arches`` if that is installed."""
    needs = f"{path} was not trained with this package or CAREamics; a published architecture needs spandrel"
    advice = (
        "usually torch and torchvision do not match, such as one with and one without CUDA: install both "
        "from the same source"
    )
    with ensemble_errors("spandrel cannot be imported", advice), extra_needed("spandrel", needs):
        import spandrel
    with suppress(ImportError):
        import spandrel_extra_arches

        spandrel_extra_arches.install(ignore_duplicates=True)
    return spandrel
