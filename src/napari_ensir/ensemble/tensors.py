"""Blocks as torch tensors: intensities, channels, numbers of bin sets. Waits for no device."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.arrays import Channels, read_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from napari_ensir.ensemble.arrays import Slices
    from napari_ensir.ensemble.bins import Binning
    from napari_ensir.ensemble.inputs import Field

__all__ = ["bins_of", "channel_of", "keys_of", "read_values", "real_of", "which_count"]


def real_of(device: torch.device) -> torch.dtype:
    """The floating-point numbers that a device computes bins and images in."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def read_values(
    arrays: Sequence[Any],
    slices: Slices,
    dtype: np.dtype[Any],
    device: torch.device,
    *,
    as_reals: bool = False,
) -> list[torch.Tensor]:
    """One block of each array, flat: int32 where a field holds integers of up to 16 bits, else real.

    ``as_reals``: such integers as float32, which holds them as well.
    """
    import torch

    small = dtype.kind in "iu" and dtype.itemsize <= 2
    wanted = (torch.float32 if as_reals else torch.int32) if small else real_of(device)
    # Move the few bytes of the image first, widen them there.
    return [read_tensor(array, slices, device).to(wanted) for array in arrays]


def channel_of(field: Field, slices: Slices, device: torch.device) -> torch.Tensor:
    """Channel of each pixel of a block, int32; not to be written to."""
    channels = Channels.of_block(field.shape, slices, field.channel_axis)
    size = 1
    for part, length in zip(slices, field.shape, strict=True):
        size *= len(range(*part.indices(length)))
    return _channel_of(channels, size, device)


@lru_cache(maxsize=4)
def _channel_of(channels: Channels, size: int, device: torch.device) -> torch.Tensor:
    import torch

    place = torch.arange(size, dtype=torch.int32, device=device)
    return channels.first + place.div(channels.inner, rounding_mode="floor") % channels.count


def bins_of(values: torch.Tensor, binning: Binning, dtype: np.dtype[Any]) -> torch.Tensor:
    """Bin of each value, int32; what is not a number falls into the first."""
    import torch

    return _places_of(values, binning, dtype).to(torch.int32)


def _places_of(values: torch.Tensor, binning: Binning, dtype: np.dtype[Any]) -> torch.Tensor:
    """Bin of each value and how far into it, in floating-point numbers that nobody else holds."""
    import torch

    grid = binning.grid(dtype)
    low, width, n_bins, inverse = grid.tolist()
    place = values.to(torch.float32 if grid.dtype == np.float32 else real_of(values.device)).sub(low)
    place = (place.mul_(inverse) if inverse else place.div_(width)).clamp_(0, n_bins - 1)
    return place.nan_to_num_(nan=0.0) if dtype.kind == "f" else place


def keys_of(
    values: Sequence[torch.Tensor],
    binning: Binning,
    dtype: np.dtype[Any],
    channel: torch.Tensor,
    n_channels: int,
) -> torch.Tensor:
    """Number of each pixel's bin set, int32, where there are fewer than 2**24 bin sets.

    So many, a single-precision number tells apart, and what is done in place in one kind of number takes a
    third of the time.
    """
    import torch

    key = _places_of(values[0], binning, dtype).floor_()
    for value in values[1:]:
        key = _places_of(value, binning, dtype).floor_().add_(key, alpha=binning.n_bins)
    return key.mul_(n_channels).add_(channel).to(torch.int32)


def which_count(
    field: Field, slices: Slices, values: Sequence[torch.Tensor], binning: Binning
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Where to count in a block (None: everywhere), and how much of it lies outside the range.

    Returns
    -------
    keep : bool tensor or None
        Within the mask, where all values are finite.
    outside : (M + 2,) int64 tensor
        Pixels outside the range in each candidate and the truth, then pixels that are not finite.
    """
    import torch

    device = values[0].device
    mask = field.read_mask(slices)
    keep = None if mask is None else torch.from_numpy(mask.copy()).to(device)
    not_finite = torch.zeros((), dtype=torch.int64, device=device)
    for value in values:
        if value.is_floating_point():
            finite = value.isfinite()
            lost = ~finite if keep is None else keep & ~finite
            not_finite = not_finite + lost.sum()
            keep = finite if keep is None else keep & finite
    if _covers(binning, field.dtype):
        outside = [torch.zeros_like(not_finite)] * len(values)
    else:
        beyond = [(value < binning.low) | (value > binning.high) for value in values]
        outside = [torch.count_nonzero(one if keep is None else one & keep) for one in beyond]
    return keep, torch.stack([*outside, not_finite])


def _covers(binning: Binning, dtype: np.dtype[Any]) -> bool:
    """Whether no value of a dtype lies outside the range."""
    if dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype)
    return bool(binning.low <= limits.min and limits.max <= binning.high)
