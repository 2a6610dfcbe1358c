"""Restorers from what CAREamics wrote: its checkpoints, and the parts of its packages.

CAREamics (https://careamics.github.io) trains N2V, N2V2, CARE and N2N. A checkpoint (``.ckpt``) is an archive
of torch with the weights, the settings of the network, and the figures that intensities were normalised with;
the layouts of versions 0.1 to 0.3 are read. Only tensors and plain values are taken from it: nothing runs.

Intensities come back by the figures of the *target*, where training had one. (CAREamics itself
took those of the input until 0.3.3, and its packages state these to this day: 4 dB on the files tried.)
"""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.files.tensors import brief
from napari_ensir.restorers.networks.archive import pack, read_records
from napari_ensir.restorers.networks.checkpoint import fill, settings_from, under
from napari_ensir.restorers.networks.external import Levels, PackagedNetwork, unchanged
from napari_ensir.restorers.networks.tiling import Tiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = ["CAREamicsUNet", "UNetSettings", "open_checkpoint", "read_weights", "restorer_from"]


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


_RECORDS = re.compile(r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment", re.ASCII)
_ALGORITHMS = {"n2v": "N2V", "care": "CARE", "n2n": "N2N"}
_MARK = b"algorithm_config"
_AGAIN = "open it in CAREamics and save it anew"

# Key of the lower figure, of the upper or the spread, and what keeps CAREamics from dividing by 0.
_FIGURES = {
    "mean_std": ("means", "stds", 1e-6),
    "min_max": ("mins", "maxes", 1e-8),
    "quantile": ("lower_quantile_values", "upper_quantile_values", 1e-8),
}


def open_checkpoint(path: Path, *, device: str = "auto") -> PackagedNetwork | None:
    """A checkpoint of CAREamics; None if it is one of something else.

    Parameters
    ----------
    path
        A ``.ckpt`` file. It is read once, and torch gets what was read.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Raises
    ------
    EnsembleError
        If it is CAREamics' and cannot be used.
    """
    try:
        records, _ = read_records(path, _RECORDS)
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None  # no archive, so none that CAREamics wrote
    if _MARK not in records.get("data.pkl", b""):
        return None
    where = str(path)
    content = _unpickled(records, where)
    settings = _mapping(content.get("hyper_parameters"), where, "settings")
    data = settings.get("data_config")  # 0.1 had all of them together
    if data is None:
        beside = content.get("datamodule_hyper_parameters")
        data = beside.get("data_config") if isinstance(beside, dict) else None
    tensors = _tensors(content.get("state_dict"), where)
    return restorer_from(
        _mapping(settings.get("algorithm_config"), where, "algorithm"),
        _mapping(data, where, "normalisation"),
        under(tensors, "model."),
        where=where,
        label=path.stem,
        device=device,
    )


def read_weights(content: bytes, where: str) -> dict[str, Tensor]:
    """The tensors of a ``torch.save`` of a network's weights.

    Parameters
    ----------
    content
        What the file holds.
    where
        Named in messages.

    Raises
    ------
    EnsembleError
        If it holds anything but tensors, or cannot be read.
    """
    try:
        records, _ = read_records(where, _RECORDS, content)
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, EnsembleError):
            raise
        raise EnsembleError(f"{where} cannot be read as weights of torch: {str(error)[:200]}.") from error
    return _tensors(_unpickled(records, where), where)


def restorer_from(
    algorithm: Mapping[str, Any],
    data: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    label: str,
    device: str = "auto",
) -> PackagedNetwork:
    """A restorer from the parts of a configuration of CAREamics, and weights.

    Parameters
    ----------
    algorithm, data
        ``algorithm_config`` and ``data_config``: plain values, checked here.
    tensors
        Under the names that the network has in CAREamics.
    where
        Named in messages.
    label
        What the restorer's name ends with.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Raises
    ------
    EnsembleError
        If it is another network, or anything does not fit.
    """
    kind = algorithm.get("algorithm")
    if not isinstance(kind, str) or kind not in _ALGORITHMS:
        raise EnsembleError(
            f"{where} was trained by {brief(kind)}; of CAREamics' networks those of "
            f"{', '.join(_ALGORITHMS.values())} restore here."
        )
    model = dict(_mapping(algorithm.get("model"), where, "network"))
    if model.pop("architecture", "UNet") != "UNet":
        raise EnsembleError(f"{where} holds another network than CAREamics' UNet, which restores here.")
    settings = settings_from(UNetSettings, asdict(UNetSettings()) | model, where)
    before, after = _levels(data, settings.in_channels, where)
    with torch.device("meta"):
        network = CAREamicsUNet(settings)
    if not settings.use_batch_norm:  # CAREamics makes and saves normalisations that it does not use
        tensors = {name: each for name, each in tensors.items() if ".batch_norm" not in name}
    fill(network, tensors, where)
    title = "N2V2" if settings.n2v2 else _ALGORITHMS[kind]
    return PackagedNetwork(
        network=network.eval(),
        label=f"{title}, {label}",
        channels=settings.in_channels,
        sides=network.multiple,
        enlarges=1,
        axes=settings.conv_dims,
        before=before.normalised if before else unchanged,
        after=after.intensities if after else unchanged,
        learned=_about(before, data),
        tiles=_tiles(settings),
        device=device,
    )


def _tiles(settings: UNetSettings) -> Tiles:
    """As large as memory easily holds; the overlap grows with how far the network reaches."""
    if settings.conv_dims == 3:
        return Tiles(size=(32, 128, 128), overlap=(16, 48, 48), batch=1)
    return Tiles(size=512, overlap=min(24 * 2**settings.depth, 128), batch=1)


def _levels(data: Mapping[str, Any], channels: int, where: str) -> tuple[Levels | None, Levels | None]:
    """What intensities are normalised with, and what the network's values come back with."""
    figures = data.get("normalization")
    if figures is None:  # 0.1, which had but one kind
        figures = {"name": "mean_std"} | {
            f"{new}_{key}": data.get(f"{old}_{key}")
            for new, old in (("input", "image"), ("target", "target"))
            for key in ("means", "stds")
        }
    figures = _mapping(figures, where, "normalisation")
    kind = figures.get("name")
    if kind == "none":
        return None, None
    if not isinstance(kind, str) or kind not in _FIGURES:
        raise EnsembleError(f"{where} normalises by {brief(kind)}, which is not known here; {_AGAIN}.")
    found = {}
    for side in ("input", "target"):
        low, high, least = _FIGURES[kind]
        lows, highs = (_numbers(figures.get(f"{side}_{key}"), where) for key in (low, high))
        if lows or highs:
            spread = highs if kind == "mean_std" else tuple(h - z for z, h in zip(lows, highs, strict=False))
            found[side] = Levels(lows, tuple(each + least for each in spread))
            found[side].check(channels, where)
    if "input" not in found:
        raise EnsembleError(
            f"{where} does not say how intensities were normalised in training (the new interface of "
            "CAREamics 0.1 did not save that); train it again with CAREamics 0.2 or later."
        )
    if figures.get("skip_target") is True:  # the network learned intensities as they are
        return found["input"], None
    return found["input"], found.get("target", found["input"])


def _about(levels: Levels | None, data: Mapping[str, Any]) -> Levels | None:
    """The middle and the spread of what was learned from, also where the figures are the ends of a range."""
    figures = data.get("normalization")
    if levels is None or not isinstance(figures, dict) or figures.get("name") == "mean_std":
        return levels
    half = tuple(each / 2 for each in levels.unit)
    return Levels(tuple(z + h for z, h in zip(levels.zero, half, strict=True)), half)


def _numbers(values: Any, where: str) -> tuple[float, ...]:
    """Figures as the layouts have them: a list, or one, of numbers or of text."""
    if values is None:
        return ()
    listed = values if isinstance(values, list | tuple) else [values]
    try:
        if len(listed) <= 64 and not any(isinstance(each, bool) for each in listed):
            return tuple(float(each) for each in listed)
    except (TypeError, ValueError, OverflowError):
        pass
    raise EnsembleError(f"{where} normalises with {brief(values)}, where numbers are needed.")


def _unpickled(records: Mapping[str, bytes], where: str) -> dict[str, Any]:
    """Plain values and tensors, which live in memory of their own."""
    try:
        content = torch.load(pack(records), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # many kinds for many faults
        raise EnsembleError(
            f"{where} holds more than tensors and plain values, or is damaged; {_AGAIN}."
        ) from error
    return _mapping(content, where, "weights")


def _tensors(content: object, where: str) -> dict[str, Tensor]:
    tensors = _mapping(content, where, "weights")
    for name, each in tensors.items():
        if not isinstance(name, str) or type(each) is not torch.Tensor or each.layout != torch.strided:
            raise EnsembleError(f"{where} holds more than plain tensors among its weights.")
        if each.numel() * each.itemsize > each.untyped_storage().nbytes():
            raise EnsembleError(f"{where}: tensor {name[:80]} states more values than there are.")
        if each.is_floating_point() and not bool(torch.isfinite(each).all()):
            raise EnsembleError(f"{where}: tensor {name[:80]} holds NaN or infinite values.")
    return tensors


def _mapping(value: object, where: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EnsembleError(f"{where} holds no {what} as CAREamics writes it.")
    return value
