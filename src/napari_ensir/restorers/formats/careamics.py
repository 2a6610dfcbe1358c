"""Restorers from checkpoints and packages of CAREamics (https://careamics.github.io): N2V, N2V2, CARE, N2N.

A checkpoint (``.ckpt``) of CAREamics 0.1 to 0.3 is an archive of torch with weights, settings and the
normalisation. Only tensors and plain values are read from it.

The output is denormalised with the numbers of the *target*, if the training had one. CAREamics used those of
the input until 0.3.3, and its packages still state them, which cost 4 dB on the files tried.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from napari_ensir.errors import EnsembleError, ensemble_errors
from napari_ensir.files.archive import pack_records, read_records
from napari_ensir.files.tensors import brief
from napari_ensir.restorers.networks.checkpoint import load_weights, parse_settings, strip_prefix
from napari_ensir.restorers.networks.external import Normalization, PackagedNetwork, check_channels, identity
from napari_ensir.restorers.networks.tiling import Tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

_RECORDS = re.compile(r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment", re.ASCII)
_ALGORITHMS = {"n2v": "N2V", "care": "CARE", "n2n": "N2N"}
_MARK = b"algorithm_config"
_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_HINT = "open it in CAREamics and save it again"
_MAX_CHANNELS = 64

# Keys of the offset and of the scale or upper limit, and what CAREamics adds to avoid a division by 0.
_STATISTICS = {
    "mean_std": ("means", "stds", 1e-6),
    "min_max": ("mins", "maxes", 1e-8),
    "quantile": ("lower_quantile_values", "upper_quantile_values", 1e-8),
}


def open_checkpoint(path: Path, *, device: str = "auto") -> PackagedNetwork | None:
    """Create a restorer from a checkpoint of CAREamics; return None if it is another checkpoint.

    Parameters
    ----------
    path
        A ``.ckpt`` file. It is read once.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Raises
    ------
    EnsembleError
        If it is a checkpoint of CAREamics that cannot be used.
    """
    records, _ = read_records(path, _RECORDS)
    if _MARK not in records.get("data.pkl", b""):
        return None
    where = str(path)
    content = _unpickled(records, where)
    settings = _mapping(content.get("hyper_parameters"), where, "settings")
    data = settings.get("data_config")  # 0.1 had it in the same mapping
    if data is None:
        others = content.get("datamodule_hyper_parameters")
        data = others.get("data_config") if isinstance(others, dict) else None
    tensors = _tensors(content.get("state_dict"), where)
    return build_restorer(
        _mapping(settings.get("algorithm_config"), where, "algorithm"),
        _mapping(data, where, "normalisation"),
        strip_prefix(tensors, "model."),
        where=where,
        label=path.stem,
        device=device,
    )


def read_weights(content: bytes, where: str) -> dict[str, Tensor]:
    """Read the tensors of a state dict that ``torch.save`` wrote.

    Parameters
    ----------
    content
        The content of the file.
    where
        Used in messages.

    Raises
    ------
    EnsembleError
        If it contains anything but tensors, or cannot be read.
    """
    records, _ = read_records(where, _RECORDS, content)
    return _tensors(_unpickled(records, where), where)


def build_restorer(
    algorithm: Mapping[str, Any],
    data: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    label: str,
    device: str = "auto",
) -> PackagedNetwork:
    """Create a restorer from the parts of a configuration of CAREamics, and weights.

    Parameters
    ----------
    algorithm, data
        ``algorithm_config`` and ``data_config``; they are checked.
    tensors
        Weights with the names of CAREamics.
    where
        Used in messages.
    label
        Added to the name of the restorer.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Raises
    ------
    EnsembleError
        If the network is not supported, or the parts do not match.
    """
    kind = algorithm.get("algorithm")
    if not isinstance(kind, str) or kind not in _ALGORITHMS:
        raise EnsembleError(
            f"{where} was trained with {brief(kind)}; of CAREamics' algorithms, "
            f"{', '.join(_ALGORITHMS.values())} are supported."
        )
    model = dict(_mapping(algorithm.get("model"), where, "network"))
    if model.pop("architecture", "UNet") != "UNet":
        raise EnsembleError(f"{where} contains another network than CAREamics' UNet, which is not supported.")
    settings = parse_settings(UNetSettings, asdict(UNetSettings()) | model, where)
    before, after, learned = _normalizations(data, settings.in_channels, where)
    with torch.device("meta"):
        network = CAREamicsUNet(settings)
    if not settings.use_batch_norm:  # CAREamics saves unused batch normalisations
        tensors = {name: each for name, each in tensors.items() if ".batch_norm" not in name}
    load_weights(network, tensors, where)
    title = "N2V2" if settings.n2v2 else _ALGORITHMS[kind]
    return PackagedNetwork(
        network=network.eval(),
        label=f"{title}, {label}",
        channels=settings.in_channels,
        sides=network.multiple,
        enlarges=1,
        axes=settings.conv_dims,
        before=before,
        after=after,
        learned=learned,
        # Large tiles whose overlap grows with the receptive field of the network.
        tiles=Tiles(size=512, overlap=min(24 * 2**settings.depth, 128), batch=1)
        if settings.conv_dims == 2
        else Tiles(size=(32, 128, 128), overlap=(16, 48, 48), batch=1),
        device=device,
    )


def _normalizations(
    data: Mapping[str, Any], channels: int, where: str
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Normalization | None]:
    """Normalisation of the input, its inverse for the target, and the training intensities."""
    stated = data.get("normalization")
    if stated is None:  # 0.1, which had only one kind
        stated = {"name": "mean_std"}
        for key in ("means", "stds"):
            stated |= {f"input_{key}": data.get(f"image_{key}"), f"target_{key}": data.get(f"target_{key}")}
    stated = _mapping(stated, where, "normalisation")
    kind = stated.get("name")
    if kind == "none":
        return identity, identity, None
    if not isinstance(kind, str) or kind not in _STATISTICS:
        raise EnsembleError(f"{where} normalises by {brief(kind)}, which is not supported; {_HINT}.")
    found = {}
    for side in ("input", "target"):
        low, high, epsilon = _STATISTICS[kind]
        lows, highs = (parse_numbers(stated.get(f"{side}_{key}"), where) for key in (low, high))
        if lows or highs:
            scales = highs if kind == "mean_std" else tuple(b - a for a, b in zip(lows, highs, strict=False))
            found[side] = Normalization(lows, tuple(each + epsilon for each in scales))
            found[side].check(channels, where)
    if "input" not in found:
        raise EnsembleError(
            f"{where} does not state how intensities were normalised in training, which the new interface of "
            "CAREamics 0.1 did not save; train it again with CAREamics 0.2 or later."
        )
    learned = source = found["input"]
    if kind != "mean_std":  # the middle of the range, and half its width
        half = tuple(each / 2 for each in source.scale)
        learned = Normalization(tuple(map(add, source.offset, half)), half)
    if stated.get("skip_target") is True:  # the target was not normalised
        return source.normalize, identity, learned
    return source.normalize, found.get("target", source).denormalize, learned


def parse_numbers(values: Any, where: str) -> tuple[float, ...]:
    """Return one number for each channel, or for all; versions state a list or one, also as text.

    Parameters
    ----------
    values
        None: no numbers.
    where
        Used in the message.

    Raises
    ------
    EnsembleError
        If a value is no number, or there are too many.
    """
    if values is None:
        return ()
    items = values if isinstance(values, list | tuple) else [values]
    with suppress(TypeError, ValueError, OverflowError):
        if len(items) <= _MAX_CHANNELS and not any(isinstance(each, bool) for each in items):
            return tuple(float(each) for each in items)
    raise EnsembleError(f"{where} normalises with {brief(values)}; numbers are needed.")


def _unpickled(records: Mapping[str, bytes], where: str) -> dict[str, Any]:
    """Unpickle plain values and tensors."""
    with ensemble_errors(f"{where} contains more than tensors and plain values, or is damaged", _HINT):
        content = torch.load(pack_records(records), map_location="cpu", weights_only=True)
    return _mapping(content, where, "weights")


def _tensors(content: object, where: str) -> dict[str, Tensor]:
    tensors = _mapping(content, where, "weights")
    for name, each in tensors.items():
        if not isinstance(name, str) or type(each) is not torch.Tensor or each.layout != torch.strided:
            raise EnsembleError(f"{where} contains weights that are not plain tensors.")
        if each.numel() * each.itemsize > each.untyped_storage().nbytes():
            raise EnsembleError(f"{where}: tensor {name[:80]} states more values than it contains.")
        if each.is_floating_point() and not bool(torch.isfinite(each).all()):
            raise EnsembleError(f"{where}: tensor {name[:80]} contains NaN or infinite values.")
    return tensors


def _mapping(value: object, where: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EnsembleError(f"{where} contains no {what} in the form of CAREamics.")
    return value


@dataclass(frozen=True, kw_only=True)
class UNetSettings:
    """Settings of the network, with the names and defaults of CAREamics.

    Parameters
    ----------
    conv_dims
        2 for planes, 3 for volumes.
    num_classes, in_channels
        Number of output and input channels.
    depth, num_channels_init
        Number of poolings; features at the finest level (of each channel, if channels are independent).
    residual
        Whether the input is added to the output.
    final_activation
        Only ``"None"``, as for restoration in CAREamics.
    n2v2
        Whether it is the variant of N2V2.
    independent_channels
        Whether each channel has its own network.
    use_batch_norm
        Whether batch normalisation is used.
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
        channels = (self.in_channels, self.num_classes)
        fits = all(1 <= each <= _MAX_CHANNELS for each in channels) and 1 <= self.num_channels_init <= 1024
        if not (fits and self.conv_dims in (2, 3) and 1 <= self.depth <= 8):
            raise EnsembleError(f"{self} are not valid settings of CAREamics' U-Net.")
        check_channels(self.in_channels, self.num_classes, "it")
        if self.final_activation != "None":
            raise EnsembleError(
                f"its final activation is {self.final_activation[:40]!r}; only 'None' is supported."
            )


class CAREamicsUNet(nn.Module):
    """The U-Net of CAREamics, from normalised planes or volumes to normalised ones.

    Parameters
    ----------
    settings
        See :class:`UNetSettings`.

    Attributes
    ----------
    multiple : int
        The sides of an image have to be multiples of this.

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

        # CAREamics numbers poolings and upsamplings, which have no weights, among the blocks.
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
        bottleneck = block(widths[-1], 2 * widths[-1], widths[-1])
        self.decoder = nn.ModuleDict({"bottleneck": bottleneck, "decoder_blocks": nn.ModuleDict(up)})
        self.final_conv = _CONV[ndim](widths[0], settings.num_classes, 1, groups=self.groups)

    def forward(self, image: Tensor) -> Tensor:
        """Apply it to a tensor of shape (batch, channels, [planes,] rows, columns)."""
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
                x = self._concatenate(x, skip)
            x = block(x)
        restored: Tensor = self.final_conv(x)
        return restored + image if self.settings.residual else restored

    def _pool(self, x: Tensor) -> Tensor:
        ndim = self.settings.conv_dims
        pool = functional.max_pool2d if ndim == 2 else functional.max_pool3d
        if not self.settings.n2v2:
            return pool(x, 2)
        line = x.new_tensor([0.25, 0.5, 0.25])
        kernel = reduce(lambda one, other: one[..., None] * other, [line] * ndim)
        kernel = kernel.expand(x.shape[1], 1, *kernel.shape)
        convolve = functional.conv2d if ndim == 2 else functional.conv3d
        return convolve(pool(x, 2, stride=1), kernel, padding=1, stride=2, groups=x.shape[1])

    def _concatenate(self, x: Tensor, skip: Tensor) -> Tensor:
        """Concatenate features and those of the skip connection, group by group."""
        both = [each.reshape(len(each), self.groups, -1, *each.shape[2:]) for each in (x, skip)]
        return torch.cat(both, dim=2).flatten(1, 2)


class _Block(nn.Module):
    """Two convolutions, each with batch normalisation and ReLU."""

    def __init__(
        self, ndim: int, inputs: int, middle: int, outputs: int, *, groups: int, normed: bool
    ) -> None:
        super().__init__()
        norm = (nn.BatchNorm2d if ndim == 2 else nn.BatchNorm3d) if normed else nn.Identity
        self.conv1 = _CONV[ndim](inputs, middle, 3, padding=1, groups=groups)
        self.conv2 = _CONV[ndim](middle, outputs, 3, padding=1, groups=groups)
        self.batch_norm1 = norm(middle)
        self.batch_norm2 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.batch_norm1(self.conv1(x)))
        return functional.relu(self.batch_norm2(self.conv2(x)))
