"""Open network files of any supported format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError, MissingRestorer, ensemble_errors
from napari_ensir.files.paths import expand_path
from napari_ensir.files.tensors import readable_file
from napari_ensir.restorers.formats.file_kinds import check_not_unpacked, detect_kind

if TYPE_CHECKING:
    from pathlib import Path

    from napari_ensir.restorers.base import Restorer

SUFFIXES = (".safetensors", ".pt", ".onnx", ".pth", ".ckpt", ".zip")
"""Suffixes of network files."""

_TABLE = ".lut.safetensors"

_MAX_BYTES = 2**37


def open_restorer(
    path: str | Path, *, ir: Restorer | None = None, denoiser: Restorer | None = None, device: str = "auto"
) -> Restorer:
    """Open a restorer from a file; its format is detected from the content.

    The formats are checkpoints of this package (``.safetensors``), TorchScript (``.pt``), ONNX (``.onnx``),
    checkpoints of CAREamics (``.ckpt``), bioimage.io packages (``.zip``), and published architectures that
    spandrel supports. See :mod:`napari_ensir.restorers.networks.external` on safety.

    Parameters
    ----------
    path
        The file.
    ir
        The restorer that DP-IR was trained around, if its checkpoint does not contain it.
    denoiser
        Replaces the denoiser of DP-IR.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Returns
    -------
    Restorer

    Raises
    ------
    EnsembleError
        If it cannot be used; :class:`~napari_ensir.errors.MissingRestorer` if `ir` is needed.

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
    from napari_ensir.restorers.training.recipes import load_restorer

    check_not_unpacked(path)
    path = readable_file(path, _MAX_BYTES, "network")
    if path.name.endswith(_TABLE):
        raise EnsembleError(f"{path.name} is a lookup table, not a network.")
    kind, suffix = detect_kind(path), path.suffix.lower()
    if kind == "package" or (suffix == ".zip" and kind == "other"):
        from napari_ensir.restorers.formats.bioimageio import open_package

        return open_package(path, device=device)
    if kind == "weights":
        from napari_ensir.restorers.formats.careamics import open_checkpoint

        if (found := open_checkpoint(path, device=device)) is not None:
            return found
    if kind == "program" or suffix in (".pt", ".onnx"):
        return load_network(path, device=device)
    if suffix == ".safetensors":
        try:
            return load_restorer(path, ir=ir, denoiser=denoiser, device=device)
        except MissingRestorer:
            raise
        except EnsembleError as error:
            try:
                return load_spandrel(path, device=device)
            except EnsembleError:
                raise error from None
    return load_spandrel(path, device=device)


def open_restorers(
    folder: str | Path,
    *,
    ir: Restorer | None = None,
    denoiser: Restorer | None = None,
    device: str = "auto",
) -> tuple[dict[str, Restorer], dict[str, EnsembleError]]:
    """Open all networks in a folder.

    Files with other suffixes than :data:`SUFFIXES`, hidden files, lookup tables, folders and the latest
    states of trainings (``.last.safetensors``) are ignored.
    A checkpoint of DP-IR that names a restorer in the same folder gets that restorer.

    Parameters
    ----------
    folder
        Folders in it are not searched.
    ir
        The restorer that DP-IR was trained around, if it is not in the folder.
    denoiser
        The denoiser that replaces that of DP-IR.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Returns
    -------
    opened, failed
        Restorers, and errors of those that cannot be opened, by file name in alphabetical order.

    Raises
    ------
    EnsembleError
        If the folder does not exist or contains no network.

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
    check_not_unpacked(where)
    with ensemble_errors(f"{where} is not a readable folder"):
        paths = sorted(each for each in where.iterdir() if _may_be_network(each))
    if not paths:
        raise EnsembleError(f"{where} contains no network; the suffixes are {', '.join(SUFFIXES)}.")
    found: dict[str, Restorer] = {}
    failed: dict[str, EnsembleError] = {}
    for path in [*paths, *paths]:  # the second time, only DP-IR around another of them
        missing = failed.get(path.name)
        around = None
        if isinstance(missing, MissingRestorer):
            around = next((each for each in found.values() if each.name == missing.name), ir)
        elif missing or path.name in found:
            continue
        try:
            found[path.name] = open_restorer(path, ir=around, denoiser=denoiser, device=device)
            failed.pop(path.name, None)
        except EnsembleError as error:
            failed[path.name] = error
    return {path.name: found[path.name] for path in paths if path.name in found}, failed


def _may_be_network(path: Path) -> bool:
    return (
        path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not path.name.endswith((_TABLE, ".last.safetensors"))
        and path.is_file()
    )
