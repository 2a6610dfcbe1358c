"""Zarr and OME-Zarr arrays, in and out, lazily through dask. Knows no other format."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import whole_folder
from napari_ensir.files.metadata import KEY, plain

if TYPE_CHECKING:
    from pathlib import Path

    from napari_ensir.files.metadata import Record

__all__ = ["ZarrImage", "is_zarr", "open_zarr", "read_zarr_record", "write_zarr"]

BLOCK_PIXELS = 2**22
"""Stored chunks are read this many pixels together, where they are smaller."""

_MARKS = ("zarr.json", ".zarray", ".zgroup")


@dataclass(frozen=True, eq=False)
class ZarrImage:
    """A lazy array with what is needed to write another one like it.

    Attributes
    ----------
    array : dask array
    chunks : tuple of int
        As stored.
    ome : dict or None
        The one multiscale image's metadata, where it is an OME-Zarr.
    """

    array: Any
    chunks: tuple[int, ...]
    ome: dict[str, Any] | None


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    return any((path / mark).is_file() for mark in _MARKS)


def _libraries() -> tuple[Any, Any]:
    try:
        import dask.array as da
        import zarr
    except ImportError as error:
        raise EnsembleError(
            'Zarr arrays need zarr and dask; install them with: pip install "napari-ensir[large]".'
        ) from error
    return da, zarr


def open_zarr(path: Path) -> ZarrImage:
    """Open an array, or the full resolution of an OME-Zarr image.

    Raises
    ------
    EnsembleError
        If zarr or dask is not installed, the store is damaged, or it is a group without one image.
    """
    da, zarr = _libraries()
    try:
        node = zarr.open(str(path), mode="r")
        ome = None
        if not hasattr(node, "shape"):
            ome = _multiscale(path, dict(node.attrs))
            node = node[ome["datasets"][0]["path"]]
        stored = tuple(node.shards or node.chunks)
    except EnsembleError:
        raise
    except Exception as error:  # stores raise every kind there is
        raise _unreadable(path, error) from error
    if 0 in node.shape:
        raise EnsembleError(f"{path} is empty (shape {node.shape}); it must hold at least one pixel.")
    # Inlined, so that a task reads its own pixels and these need not travel between workers.
    array = da.from_array(
        _Stored(node, path), chunks=_blocks(node.shape, stored), name=False, inline_array=True
    )
    return ZarrImage(array, stored, ome)


class _Stored:
    """An array in a store, whose damaged chunks are one sentence; small, for it travels to workers."""

    def __init__(self, node: Any, path: Path) -> None:
        self.node, self.path = node, path
        self.shape, self.dtype, self.ndim = node.shape, node.dtype, node.ndim

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.node[key]
        except MemoryError:
            raise
        except Exception as error:  # codecs and stores raise every kind there is
            reason = " ".join((str(error) or type(error).__name__).split())[:200]
            raise EnsembleError(
                f"a chunk of {self.path} could not be read ({reason}); it is damaged or gone. Write it anew."
            ) from error


def _multiscale(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    images = attributes.get("ome", attributes).get("multiscales")
    if not images or not images[0].get("datasets"):
        raise EnsembleError(
            f"{path} is a Zarr group without an OME-Zarr image; give the path of an array in it."
        )
    if len(images) > 1:
        raise EnsembleError(f"{path} holds {len(images)} OME-Zarr images; give the path of one array.")
    image: dict[str, Any] = images[0]
    return image


def _blocks(shape: tuple[int, ...], stored: tuple[int, ...]) -> tuple[int, ...]:
    """Multiples of the stored chunks, of about ``BLOCK_PIXELS``: fewer tasks, nothing read twice."""
    sizes = [min(chunk, size) for chunk, size in zip(stored, shape, strict=True)]
    for axis in reversed(range(len(sizes))):
        times = max(1, BLOCK_PIXELS // prod(sizes))
        sizes[axis] = min(shape[axis], sizes[axis] * times)
    return tuple(sizes)


def write_zarr(
    path: Path,
    array: Any,
    like: ZarrImage | None = None,
    *,
    overwrite: bool = False,
    record: Record | None = None,
) -> Path:
    """Compute and write an array block by block, whole or not at all; an OME-Zarr after an OME-Zarr.

    Parameters
    ----------
    array : dask array
    like
        Whose stored chunks and axes to take; None: the array's own chunks.
    record
        Where it came from: an attribute of ours, beside those of OME.

    Raises
    ------
    EnsembleError
        If the target may not or cannot be written.
    """
    da, zarr = _libraries()
    chunks = array.chunksize if like is None else like.chunks
    chunks = tuple(min(chunk, size) for chunk, size in zip(chunks, array.shape, strict=True))
    # Two tasks must never write one stored chunk.
    whole = tuple(-(-size // chunk) * chunk for size, chunk in zip(array.chunksize, chunks, strict=True))
    if any(size % chunk for sizes, chunk in zip(array.chunks, chunks, strict=True) for size in sizes[:-1]):
        array = array.rechunk(whole)
    with whole_folder(path, overwrite) as part:
        if like is not None and like.ome is not None:
            group = zarr.open_group(str(part), mode="w", zarr_format=3)
            image = {key: like.ome[key] for key in ("axes", "datasets") if key in like.ome}
            image["datasets"] = [{**image["datasets"][0], "path": "0"}]
            group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
            target = group.create_array("0", shape=array.shape, chunks=chunks, dtype=array.dtype)
        else:
            group = target = zarr.create_array(str(part), shape=array.shape, chunks=chunks, dtype=array.dtype)
        if record is not None:
            group.attrs[KEY] = plain(record)
        _store(da, array, target)
    return path


def read_zarr_record(path: Path) -> dict[str, Any] | None:
    """The record among the attributes of an array or of an OME-Zarr; None where there is none.

    Raises
    ------
    EnsembleError
        If it is damaged.
    """
    _, zarr = _libraries()
    try:
        found = zarr.open(str(path), mode="r").attrs.get(KEY)
    except Exception as error:  # stores raise every kind there is
        raise _unreadable(path, error) from error
    return dict(found) if isinstance(found, dict) else None


def _unreadable(path: Path, error: Exception) -> EnsembleError:
    reason = " ".join((str(error) or type(error).__name__).split())[:200]
    return EnsembleError(f"{path} could not be read as Zarr ({reason}); it is damaged or no array.")


def _store(da: Any, array: Any, target: Any) -> None:
    """Compute and write; when this returns or raises, no thread is writing any more."""
    import dask

    if dask.config.get("scheduler", None) not in (None, "threads", "threading"):
        da.store(array, target, lock=False)
        return
    pool = ThreadPoolExecutor(dask.config.get("num_workers", None) or dask.system.CPU_COUNT)
    try:
        with dask.config.set(pool=pool):
            da.store(array, target, lock=False)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
