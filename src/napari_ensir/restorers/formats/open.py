"""One way to open any network file that restores, whatever wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError, MissingRestorer
from napari_ensir.files.paths import expand_path
from napari_ensir.files.tensors import readable_file
from napari_ensir.restorers.formats.file_kinds import kind_of, refuse_unpacked

if TYPE_CHECKING:
    from pathlib import Path

    from napari_ensir.restorers.base import Restorer

__all__ = ["SUFFIXES", "open_restorer", "open_restorers"]

SUFFIXES = (".safetensors", ".pt", ".pt2", ".pth", ".ckpt", ".zip")
"""What the names of files with networks end with."""

_TABLE = ".lut.safetensors"

_MAX_BYTES = 2**37


def open_restorer(path: str | Path, *, ir: Restorer | None = None, device: str = "auto") -> Restorer:
    """Open a restorer by what its file is: its content says, more than its name.

    A checkpoint of this package or of an architecture that spandrel knows (``.safetensors``), TorchScript
    or ``torch.export`` (``.pt``, ``.pt2``), a checkpoint of CAREamics (``.ckpt``), a bioimage.io package
    (``.zip``), else what spandrel reads. See :mod:`napari_ensir.restorers.networks.external` on what is safe.

    Parameters
    ----------
    path
        The file.
    ir
        For DP-IR around a restorer that its checkpoint could only name: that restorer.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Returns
    -------
    Restorer

    Raises
    ------
    EnsembleError
        If it is none that can be used; :class:`~napari_ensir.errors.MissingRestorer` if `ir` is needed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from napari_ensir.restorers import begin_training
    >>> clean = np.random.default_rng(0).random((16, 16))
    >>> trainer = begin_training("denoiser", [(clean, clean)], steps=1, width=8, device="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trainer.save(f"{folder}/mine.safetensors")
    ...     open_restorer(f"{folder}/mine.safetensors", device="cpu")(clean).shape
    (16, 16)
    """
    from napari_ensir.restorers.networks.external import load_network, load_spandrel
    from napari_ensir.restorers.training.load import load_restorer

    refuse_unpacked(path)
    path = readable_file(path, _MAX_BYTES, "network's file")
    if path.name.endswith(_TABLE):
        raise EnsembleError(f"{path.name} is a lookup table, which combines restorations and makes none.")
    kind, suffix = kind_of(path), path.suffix.lower()
    if kind == "package" or (suffix == ".zip" and kind == "other"):
        from napari_ensir.restorers.formats.bioimageio import open_package

        return open_package(path, device=device)
    if kind == "weights":
        from napari_ensir.restorers.formats.careamics import open_checkpoint

        if (found := open_checkpoint(path, device=device)) is not None:
            return found
    if kind == "program" or suffix in (".pt", ".pt2"):
        return load_network(path, device=device)
    if suffix == ".safetensors":
        try:
            return load_restorer(path, ir=ir, device=device)
        except MissingRestorer:
            raise
        except EnsembleError as ours:
            try:
                return load_spandrel(path, device=device)
            except EnsembleError:
                raise ours from None
    return load_spandrel(path, device=device)


def open_restorers(
    folder: str | Path, *, ir: Restorer | None = None, device: str = "auto"
) -> tuple[dict[str, Restorer], dict[str, EnsembleError]]:
    """Open every network in a folder.

    Files with other endings than :data:`SUFFIXES`, hidden ones, lookup tables and folders are passed over.
    Where a checkpoint of DP-IR names a restorer that is in the folder too, it gets that one.

    Parameters
    ----------
    folder
        Its own files are opened, not those of folders in it.
    ir
        For DP-IR around a restorer that is not in the folder.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Returns
    -------
    opened, failed
        By the name of the file, in order: restorers, and why others could not be opened.

    Raises
    ------
    EnsembleError
        If there is no such folder, or no network in it.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from napari_ensir.restorers import begin_training
    >>> clean = np.random.default_rng(0).random((16, 16))
    >>> trainer = begin_training("denoiser", [(clean, clean)], steps=1, width=8, device="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trainer.save(f"{folder}/mine.safetensors")
    ...     opened, failed = open_restorers(folder, device="cpu")
    >>> list(opened), failed
    (['mine.safetensors'], {})
    """
    where = expand_path(folder)
    refuse_unpacked(where)
    try:
        paths = sorted(each for each in where.iterdir() if _may_be_network(each))
    except OSError as error:
        raise EnsembleError(f"{where} is no folder that can be read ({error.strerror}).") from error
    if not paths:
        raise EnsembleError(f"{where} holds no network: no file ends with {', '.join(SUFFIXES)}.")
    found: dict[str, Restorer] = {}
    failed: dict[str, EnsembleError] = {}

    def attempt(path: Path, around: Restorer | None = None) -> None:
        try:
            found[path.name] = open_restorer(path, ir=around, device=device)
        except EnsembleError as error:
            failed[path.name] = error
        else:
            failed.pop(path.name, None)

    for path in paths:
        attempt(path)
    for path in paths:
        missing = failed.get(path.name)
        if isinstance(missing, MissingRestorer):
            attempt(path, next((each for each in found.values() if each.name == missing.name), ir))
    return {path.name: found[path.name] for path in paths if path.name in found}, failed


def _may_be_network(path: Path) -> bool:
    return (
        path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not path.name.endswith(_TABLE)
        and path.is_file()
    )
