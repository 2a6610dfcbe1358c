"""Reading and writing of Zarr and OME-Zarr arrays, lazily through dask."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_ensir.errors import EnsembleError, ensemble_errors, extra_needed
from napari_ensir.files.atomic import whole_folder
from napari_ensir.files.metadata import KEY, plain
from napari_ensir.files.tensors import MAX_HEADER, parse_object

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from napari_ensir.files.metadata import Record

BLOCK_PIXELS = 2**22
"""Small stored chunks are read together, in dask blocks of about this many pixels."""

_MAX_BLOCKS = 2**17
_MAX_CHUNKS_PER_BLOCK = 2**12
_MAX_CHUNKS_PER_SHARD = 2**17
_MAX_CHUNK_BYTES = 2**34

_FILES = ("zarr.json", ".zarray", ".zgroup")

# Codecs that turn bytes into numbers. Others, such as pickle, can run code that is stored in a chunk.
_CODECS = frozenset(
    {"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"}  # compression
    | {"bitround", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle"}  # filters
    | {"adler32", "crc32", "crc32c", "fletcher32"}  # checksums
    | {"bytes", "sharding_indexed", "transpose"}  # layout
)
_DTYPE = re.compile(r"[<>=|]?([iufb]\d{1,2})|bool|u?int\d{1,2}|float\d{1,2}")


@dataclass(frozen=True, eq=False)
class ZarrImage:
    """A lazy array, and what is needed to write another one like it.

    Attributes
    ----------
    array : dask array
    chunks : tuple of int
        Shape of the stored chunks, or of the shards if there are any.
    ome : dict or None
        Metadata of the multiscale image if it is an OME-Zarr.
    record : dict or None
        Provenance among the attributes.
    """

    array: Any
    chunks: tuple[int, ...]
    ome: dict[str, Any] | None
    record: dict[str, Any] | None = None
    is_colour: ClassVar[bool] = False


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    return any((path / name).is_file() for name in _FILES)


def _reading(path: Path) -> AbstractContextManager[None]:
    return ensemble_errors(f"{path} could not be read as Zarr", "it is damaged or is not an array")


def _import_libraries() -> tuple[Any, Any]:
    with extra_needed("large", "Zarr arrays need zarr and dask"):
        import dask.array as da
        import zarr
    return da, zarr


def open_zarr(path: Path) -> ZarrImage:
    """Open an array, or the full resolution of an OME-Zarr image.

    The metadata are checked before the Zarr library opens anything: only integer, float and boolean pixels in
    compression formats that cannot run code are read.

    Raises
    ------
    EnsembleError
        If zarr or dask is not installed, the store is damaged, its dtype or a codec is not allowed, it states
        a size that cannot be processed, or it is a group without one image.
    """
    _, zarr = _import_libraries()
    ome, where = None, path
    with _reading(path):
        version, metadata, attributes = _read_metadata(path)
        record = attributes.get(KEY)
        if "shape" not in metadata:  # a group
            ome = _multiscale(path, attributes)
            where = _inside(path, ome["datasets"][0]["path"])
            version, metadata, _ = _read_metadata(where)
        _check_metadata(where, metadata)
        identity = _identity(where)
        node = zarr.open_array(str(where), mode="r", zarr_format=version)
        check_zarr_codecs(node, str(where))
        stored = tuple(node.shards or node.chunks)
    array = lazy_array(_Reader(node, where, identity), stored, path)
    return ZarrImage(array, stored, ome, record if isinstance(record, dict) else None)


def lazy_array(source: Any, stored: tuple[int, ...], path: Path) -> Any:
    """Return a dask array of a source that is read when it is sliced.

    Parameters
    ----------
    source
        With the attributes ``shape``, ``dtype`` and ``ndim``.
    stored
        Shape of its chunks; a block is one or several of them.
    path : Path
        Named in messages.

    Raises
    ------
    EnsembleError
        If it is empty or has too many chunks.
    """
    import dask.array as da

    if 0 in source.shape:
        raise EnsembleError(f"{path} is empty (shape {source.shape}); it must hold at least one pixel.")
    blocks = _blocks(source.shape, stored)
    n_blocks = prod(ceil(size / block) for size, block in zip(source.shape, blocks, strict=True))
    if n_blocks > _MAX_BLOCKS:
        raise EnsembleError(
            f"{path} states the shape {source.shape} in chunks of {stored}, more than can be processed; crop "
            "it, or save it with larger chunks."
        )
    # Inlined, so that a dask worker reads the pixels of a task itself.
    meta = np.empty((0,) * source.ndim, source.dtype)
    return da.from_array(source, chunks=blocks, name=False, inline_array=True, meta=meta)


def images_in_group(path: Path) -> dict[str, Path]:
    """Return the images of an OME-Zarr plate or well, by names such as ``"A_1_0"`` (row, column, field).

    Empty for other arrays and groups.

    Raises
    ------
    EnsembleError
        If the metadata are damaged.
    """
    with _reading(path):
        wells = _listed(path, "plate", "wells") or [path]
        images = [image for well in wells for image in _listed(well, "well", "images")]
    return {"_".join(image.relative_to(path).parts): image for image in images}


def _listed(path: Path, kind: str, entries: str) -> list[Path]:
    """Paths of the wells of a plate, or of the images of a well; empty for a group of another kind."""
    _, _, attributes = _read_metadata(path)
    group = attributes.get("ome", attributes).get(kind)
    return [_inside(path, each["path"]) for each in group[entries]] if group else []


class _Reader:
    """An array in a store that reports damaged chunks as EnsembleError. Small, since workers get a copy."""

    def __init__(self, node: Any, path: Path, identity: tuple[int, int]) -> None:
        self.node, self.path, self.identity = node, path, identity
        self.shape, self.dtype, self.ndim = node.shape, node.dtype, node.ndim

    def __getitem__(self, key: Any) -> Any:
        hint = "it is damaged or missing. Write the array again"
        try:
            with ensemble_errors(f"a chunk of {self.path} could not be read", hint):
                return self.node[key]
        finally:
            if _identity(self.path) != self.identity:
                raise EnsembleError(f"{self.path} was replaced while it was being read; open it again.")


def _identity(path: Path) -> tuple[int, int]:
    """Changes when another array takes the place of this one."""
    for name in _FILES:
        try:
            found = (path / name).stat()
        except OSError:
            continue
        return found.st_ino, found.st_mtime_ns
    return 0, 0


def _read_metadata(folder: Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Zarr version, metadata and attributes of an array or a group."""
    if (folder / "zarr.json").is_file():
        metadata = _read_json(folder / "zarr.json")
        return 3, metadata, metadata.get("attributes", {})
    name = ".zarray" if (folder / ".zarray").is_file() else ".zgroup"
    attributes = _read_json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}
    return 2, _read_json(folder / name), attributes


def _read_json(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return parse_object(file.read(MAX_HEADER + 1).decode("utf-8"))


def _inside(path: Path, name: str) -> Path:
    """The array that an OME-Zarr names by a relative path."""
    parts = name.strip("/").split("/")
    if {"", ".", ".."} & set(parts) or "\\" in name:
        raise EnsembleError(f"{path} names its image {name[:80]!r}, which is not a path within it.")
    return path.joinpath(*parts)


def _check_metadata(path: Path, metadata: dict[str, Any]) -> None:
    """Refuse arrays that could run code or take unreasonable memory."""
    _check_dtype_and_codecs(str(path), metadata)
    shape, grid = metadata["shape"], metadata.get("chunk_grid")
    chunks = metadata["chunks"] if grid is None else grid["configuration"]["chunk_shape"]
    if not all(type(size) is int and 0 <= size < 2**62 for size in [*shape, *chunks]) or 0 in chunks:
        raise ValueError("its shape or its chunks are not sizes")
    chunk = [min(sizes) for sizes in zip(shape, chunks, strict=True)]
    if prod(chunk) * 8 > _MAX_CHUNK_BYTES:
        raise EnsembleError(
            f"{path} is stored in chunks of {tuple(chunk)}, which are too large to be read; save it with "
            "smaller chunks."
        )
    for outer, inner in _shards(metadata.get("codecs") or [], chunks):
        if prod(ceil(a / max(1, b)) for a, b in zip(outer, inner, strict=True)) > _MAX_CHUNKS_PER_SHARD:
            raise EnsembleError(
                f"{path} has too many chunks in each shard ({outer} in {inner}); save it with larger chunks."
            )


def _shards(codecs: Any, outer: Any) -> Iterator[tuple[Any, Any]]:
    """Shape of shards, and of the chunks in them."""
    for codec in codecs:
        if isinstance(codec, dict) and codec.get("name") == "sharding_indexed":
            inner = codec["configuration"]["chunk_shape"]
            yield outer, inner
            yield from _shards(codec["configuration"].get("codecs", []), inner)


def check_zarr_codecs(array: Any, where: str) -> None:
    """Refuse an open Zarr array whose pixels another program's code would produce.

    Parameters
    ----------
    array
        Objects other than arrays of the Zarr library are not examined.
    where
        Names the array in the message.

    Raises
    ------
    EnsembleError
        If its dtype is not integer, float or boolean, or it uses a codec that is not known to be safe.
    """
    if type(array).__module__.split(".")[0] == "zarr":
        _check_dtype_and_codecs(where, array.metadata.to_dict())


def _check_dtype_and_codecs(where: str, metadata: dict[str, Any]) -> None:
    dtypes = [metadata.get("data_type", metadata.get("dtype"))]
    names: list[Any] = []
    codecs = [*(metadata.get("filters") or ()), metadata.get("compressor"), *(metadata.get("codecs") or ())]
    while codecs:
        codec = codecs.pop()
        if not isinstance(codec, dict):
            names += [] if codec is None else [codec]
            continue
        names.append(codec.get("id", codec.get("name")))
        settings = codec.get("configuration", codec)
        if isinstance(settings, dict):
            codecs += [*(settings.get("codecs") or ()), *(settings.get("index_codecs") or ())]
            dtypes += [settings[key] for key in ("dtype", "astype") if settings.get(key) is not None]
    for each in dtypes:
        if not _DTYPE.fullmatch(str(each)):
            raise EnsembleError(
                f"{where} has pixels of dtype {str(each)[:40]!r}; integer or float pixels are needed."
            )
    for name in names:
        if not isinstance(name, str) or name.removeprefix("numcodecs.") not in _CODECS:
            raise EnsembleError(
                f"{where} uses the codec {str(name)[:40]!r}, which is not known to be safe; save it with "
                "zstd, zlib or blosc."
            )
    if metadata.get("storage_transformers"):
        raise EnsembleError(f"{where} uses storage transformers, which are not supported.")


def _multiscale(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    if inner := images_in_group(path):
        first = next(iter(inner.values()))
        raise EnsembleError(f"{path} holds {len(inner)} images; give the path of one, such as {first}.")
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
    """Multiples of the stored chunks of about ``BLOCK_PIXELS``: few tasks, and no chunk is read twice."""
    sizes = [min(chunk, size) for chunk, size in zip(stored, shape, strict=True)]
    chunks_left = _MAX_CHUNKS_PER_BLOCK
    for axis in reversed(range(len(sizes))):
        times = min(chunks_left, max(1, BLOCK_PIXELS // max(1, prod(sizes))))
        times = min(times, ceil(shape[axis] / max(1, sizes[axis])))
        sizes[axis] = min(shape[axis], sizes[axis] * times)
        chunks_left //= max(1, times)
    return tuple(sizes)


def check_replaceable(path: Path) -> None:
    """Check that an output does not remove anything but an earlier Zarr.

    Raises
    ------
    EnsembleError
        If something that is not a Zarr array or group has this name.
    """
    if path.exists() and not (path.is_dir() and is_zarr(path)):
        raise EnsembleError(f"{path} exists and is not a Zarr, so it is not replaced; choose another name.")


def write_zarr(
    path: Path,
    array: Any,
    like: ZarrImage | None = None,
    *,
    overwrite: bool = False,
    record: Record | None = None,
) -> Path:
    """Compute an array block by block and write it as Zarr, atomically.

    Parameters
    ----------
    path : Path
    array : dask array
    like : ZarrImage, optional
        An image whose stored chunks and axes are taken; the output of an OME-Zarr is an OME-Zarr. By default,
        the chunks of the array.
    overwrite : bool
        Replace a Zarr that has this name.
    record : mapping, optional
        Provenance, stored as one attribute beside those of OME.

    Returns
    -------
    Path

    Raises
    ------
    EnsembleError
        If the target exists and is not to be replaced, is not a Zarr, or cannot be written.
    """
    da, zarr = _import_libraries()
    check_replaceable(path)
    chunks = array.chunksize if like is None else like.chunks
    chunks = tuple(min(chunk, size) for chunk, size in zip(chunks, array.shape, strict=True))
    # Two tasks must never write to the same stored chunk.
    whole = tuple(-(-size // chunk) * chunk for size, chunk in zip(array.chunksize, chunks, strict=True))
    if any(size % chunk for sizes, chunk in zip(array.chunks, chunks, strict=True) for size in sizes[:-1]):
        array = array.rechunk(whole)
    layout = {"shape": array.shape, "chunks": chunks, "dtype": array.dtype}
    with whole_folder(path, overwrite) as part:
        if like is not None and like.ome is not None:
            group = zarr.open_group(str(part), mode="w", zarr_format=3)
            image = {key: like.ome[key] for key in ("axes", "datasets") if key in like.ome}
            image["datasets"] = [{**image["datasets"][0], "path": "0"}]
            group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
            target = group.create_array("0", **layout)
        else:
            group = target = zarr.create_array(str(part), **layout)
        if record is not None:
            group.attrs[KEY] = plain(record)
        _store(da, array, target)
    return path


def _store(da: Any, array: Any, target: Any) -> None:
    """Compute and write; no thread is writing any more when this returns or raises."""
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
