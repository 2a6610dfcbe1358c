"""Functions that several commands use: output paths, errors of single images, and a dask cluster."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.lut.format import SUFFIX
from napari_ensir.errors import EnsembleError
from napari_ensir.files.atomic import check_target
from napari_ensir.files.output_paths import Place
from napari_ensir.files.paths import expand_path
from napari_ensir.files.png import FileImage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_ensir.files.sets import ImageSet
    from napari_ensir.files.zarr import ZarrImage

__all__ = ["keep_message", "lut_target", "make_folder", "noted", "on_cluster", "read_by", "suffix_like"]


@contextmanager
def on_cluster(address: str | None) -> Iterator[None]:
    """Compute with the workers of a dask.distributed scheduler, if its address is given."""
    if address is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise EnsembleError(
            '--scheduler needs dask.distributed; install it with: pip install "napari-ensir[large]".'
        ) from error
    try:
        client = Client(address, timeout="5s")
    except (OSError, ValueError, TimeoutError) as error:
        raise EnsembleError(
            f"there is no dask scheduler at {address} ({type(error).__name__}); start one with "
            '"dask scheduler" and give the address that it prints.'
        ) from error
    with client:
        try:
            yield
        except (EnsembleError, OSError):
            raise
        except Exception as error:  # such as KilledWorker
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else repr(error)
            raise EnsembleError(
                f"the cluster at {address} failed ({reason}). Its scheduler and workers need the same "
                "version of napari-ensir as this machine, and access to the same paths."
            ) from error


def read_by(images: ImageSet, *others: Path | None) -> list[Place]:
    """Return the paths that a command reads: images, their folders, and other files."""
    places = [Place("an image", path) for _, paths in images.fields for path in paths.values()]
    if images.from_folders:
        folders = {path.parent for _, paths in images.fields for path in paths.values()}
        places += [Place("a folder of images", folder, gathers=True) for folder in folders]
    return places + [Place("a file", path) for path in others if path is not None]


def lut_target(out: Path, overwrite: bool) -> Path:
    """Return the path of a table, with its suffix, after checking that it can be written."""
    name = out.name
    if name in ("", ".."):
        raise EnsembleError(f"--out: {out} is a folder; give the name of a file.")
    if not name.endswith(SUFFIX):
        name = name.removesuffix(".safetensors").removesuffix(".lut") + SUFFIX
    target = expand_path(out).with_name(name)
    check_target(target, overwrite)
    return target


def noted(failed: dict[str, str], stem: str, images: ImageSet) -> Any:
    """Return a context manager that records errors if there are several images."""
    return keep_message(failed, stem) if images.from_folders else nullcontext()


@contextmanager
def keep_message(failed: dict[str, str], stem: str) -> Iterator[None]:
    """Record the error of one image, so that the others are still processed."""
    try:
        yield
    except EnsembleError as error:
        failed[stem] = str(error)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises
    ------
    EnsembleError
        If that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnsembleError(
            f"the folder {folder} could not be made: {error.strerror}; choose another output folder."
        ) from error


def suffix_like(source: Path, dtype: np.dtype[Any], spatial: int, like: FileImage | ZarrImage) -> str:
    """Return the suffix of an output: that of the input, if its format can hold the dtype."""
    if not isinstance(like, FileImage):
        return ".ome.zarr" if like.ome is not None else ".zarr"
    if source.suffix.lower() in (".tif", ".tiff"):
        return (".ome" if source.stem.lower().endswith(".ome") else "") + source.suffix
    return ".png" if dtype in (np.uint8, np.uint16) and spatial == 2 else ".tif"
