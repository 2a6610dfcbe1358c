"""Read arrays of any kind (numpy, torch, dask, Zarr, memory maps) in blocks, as flat contiguous arrays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

Slices = tuple[slice, ...]

_EXACT = {np.dtype(kind) for kind in ("u1", "u2", "i2", "f4", "f8")}
"""Dtypes that blocks are read in without conversion."""


def is_torch(array: Any) -> bool:
    """Whether this is a torch tensor; does not import torch."""
    return type(array).__module__.split(".")[0] == "torch" and hasattr(array, "detach")


def is_dask(array: Any) -> bool:
    """Whether this is a dask array; does not import dask."""
    return type(array).__module__.split(".")[0] == "dask" and hasattr(array, "chunks")


def as_array(array: Any) -> Any:
    """Convert to a numpy array, unless the object has a shape and a dtype and can be sliced.

    Labelled arrays, such as xarray's, are replaced by the array that they hold, which may be lazy.

    Raises
    ------
    EnsembleError
        If it is a dask collection other than an array.
    """
    while hasattr(array, "dims") and hasattr(array, "data"):
        array = array.data
    if hasattr(array, "__dask_graph__") and not is_dask(array):
        raise EnsembleError(f"a {type(array).__name__} of dask is not an array; give its dask array.")
    if hasattr(array, "shape") and hasattr(array, "dtype") and hasattr(array, "__getitem__"):
        return array
    return np.asarray(array)


def dtype_of(array: Any) -> np.dtype[Any]:
    """Return the numpy dtype of any array, in native byte order.

    Raises
    ------
    EnsembleError
        If it is neither an integer nor a real floating-point dtype of at most 64 bits.
    """
    if is_torch(array):
        import torch

        if array.layout != torch.strided or array.device.type == "meta":
            kind = "without values" if array.device.type == "meta" else "that is sparse"
            raise EnsembleError(f"a tensor {kind} cannot be combined; give one that holds all its pixels.")
        if array.dtype == torch.bfloat16:
            return np.dtype(np.float32)
        try:
            dtype = torch.empty(0, dtype=array.dtype).numpy().dtype
        except (TypeError, RuntimeError):
            raise _unusable(array.dtype) from None
    else:
        dtype = np.dtype(array.dtype)
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise _unusable(dtype)
    return dtype.newbyteorder("=")


def _unusable(dtype: object) -> EnsembleError:
    return EnsembleError(
        f"pixels of dtype {dtype} cannot be combined; convert them to an integer or float dtype of at most "
        "64 bits."
    )


def working_dtype(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """Return the common dtype that blocks of these dtypes are read in, without loss up to 53 bits."""
    common = np.result_type(*dtypes)
    if common in _EXACT:
        return common
    if common.kind in "iu" and common.itemsize == 1:
        return np.dtype(np.int16)
    if common == np.float16:
        return np.dtype(np.float32)
    return np.dtype(np.float64)


@dataclass(frozen=True)
class Channels:
    """Channels of a block: pixel ``i``, in C order, has channel ``first + (i // inner) % count``."""

    first: int
    count: int
    inner: int

    @classmethod
    def of_block(cls, shape: Sequence[int], slices: Slices, axis: int | None) -> Channels:
        """Channels of the block ``slices`` of a field of this shape; one channel if ``axis`` is None."""
        sizes = _block_shape(shape, slices)
        if axis is None:
            return cls(0, 1, max(1, prod(sizes)))
        first, _, _ = slices[axis].indices(shape[axis])
        return cls(first, sizes[axis], prod(sizes[axis + 1 :]))


def block_size(shape: Sequence[int], slices: Slices) -> int:
    """Return the number of pixels of a block."""
    return prod(_block_shape(shape, slices))


def block_start(shape: Sequence[int], slices: Slices) -> int:
    """Return the index of a block's first pixel in the flattened field.

    Examples
    --------
    >>> block_start((4, 5), (slice(2, 3), slice(1, 5)))
    11
    """
    start = 0
    for part, size in zip(slices, shape, strict=True):
        start = start * size + part.indices(size)[0]
    return start


def _block_shape(shape: Sequence[int], slices: Slices) -> list[int]:
    return [len(range(*part.indices(size))) for part, size in zip(slices, shape, strict=True)]


def block_slices(shape: Sequence[int], limit: int, workers: int = 1) -> Iterator[Slices]:
    """Cut a field into blocks of at most ``limit`` pixels that are contiguous in C order.

    Parameters
    ----------
    shape
        Shape of the field.
    limit
        Maximum number of pixels of a block.
    workers
        Number of workers that share the blocks; the number of blocks is a multiple of it where possible.

    Examples
    --------
    >>> [tuple((s.start, s.stop) for s in block) for block in block_slices((3, 4), 8)]
    [((0, 2), (0, 4)), ((2, 3), (0, 4))]
    >>> [block[0].stop for block in block_slices((720, 400), 100_000, workers=2)]
    [180, 360, 540, 720]
    """
    if prod(shape) <= limit:
        if 0 not in shape:
            yield tuple(slice(0, size) for size in shape)
        return
    # Single positions along the first axes, a run along one, whole trailing axes.
    axis = next(axis for axis in range(len(shape)) if prod(shape[axis + 1 :]) <= limit)
    run = max(1, limit // prod(shape[axis + 1 :]))
    n = -(-shape[axis] // (run * workers)) * workers
    steps = [*[1] * axis, -(-shape[axis] // n), *shape[axis + 1 :]]
    for corner in product(*(range(0, size, step) for size, step in zip(shape, steps, strict=True))):
        yield tuple(
            slice(place, min(place + step, size))
            for place, step, size in zip(corner, steps, shape, strict=True)
        )


def read_block(array: Any, slices: Slices, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read a block as a flat, contiguous, read-only numpy array of the given dtype."""
    part = array[slices] if slices else array
    if is_torch(part):
        part = _as_numpy(part)
    flat = np.ascontiguousarray(np.asarray(part), dtype=dtype).reshape(-1).view()
    flat.flags.writeable = False  # kernels are compiled for read-only arrays; inputs are never changed
    return flat


def as_dask(array: Any, chunks: tuple[tuple[int, ...], ...]) -> Any:
    """Convert any array to a dask array in these chunks, without reading it."""
    import dask.array as da

    if is_dask(array):
        return array if array.chunks == chunks else array.rechunk(chunks)
    if is_torch(array):
        array = _as_numpy(array)
    return da.from_array(array, chunks=chunks)  # type: ignore[no-untyped-call]


def _as_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    # numpy has no bfloat16
    values: NDArray[Any] = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return values


def read_tensor(array: Any, slices: Slices, device: torch.device) -> torch.Tensor:
    """Read a block as a flat tensor on the device, of the array's own dtype."""
    import torch

    if is_torch(array):
        tensor: torch.Tensor = (array[slices] if slices else array).detach()
    else:
        part = np.asarray(array[slices] if slices else array)
        part = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("="))
        if not part.flags.writeable:  # torch warns about read-only memory
            part = part.copy()
        tensor = torch.from_numpy(part)
    return tensor.to(device).reshape(-1)
