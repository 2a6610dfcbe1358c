"""One way to open any network file that restores, whatever wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.errors import EnsembleError, MissingRestorer
from napari_ensir.files.headers import readable_file

if TYPE_CHECKING:
    from pathlib import Path

    from napari_ensir.restorers.base import Restorer

__all__ = ["open_restorer"]

_MAX_BYTES = 2**37


def open_restorer(path: str | Path, *, ir: Restorer | None = None, device: str = "auto") -> Restorer:
    """Open a restorer by what its file is.

    A checkpoint of this package or of an architecture that spandrel knows (``.safetensors``), TorchScript
    or ``torch.export`` (``.pt``, ``.pt2``), a checkpoint of CAREamics (``.ckpt``), a bioimage.io package
    (``.zip``), else what spandrel reads. See :mod:`napari_ensir.restorers.own_network` on what is safe.

    Parameters
    ----------
    path
        The file.
    ir
        For DP-IR around a restorer that its checkpoint could only name: that restorer.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Raises
    ------
    EnsembleError
        If it is none that can be used; :class:`~napari_ensir.errors.MissingRestorer` if `ir` is needed.
    """
    from napari_ensir.restorers.own_network import load_network, load_spandrel
    from napari_ensir.restorers.trained import load_restorer

    path = readable_file(path, _MAX_BYTES, "network's file")
    if path.name.endswith(".lut.safetensors"):
        raise EnsembleError(f"{path.name} is a lookup table, which combines restorations and makes none.")
    if path.suffix in (".pt", ".pt2"):
        return load_network(path, device=device)
    if path.suffix == ".zip":
        from napari_ensir.restorers.bioimageio import open_package

        return open_package(path, device=device)
    if path.suffix == ".ckpt":
        from napari_ensir.restorers.careamics import open_checkpoint

        if (found := open_checkpoint(path, device=device)) is not None:
            return found
    if path.suffix == ".safetensors":
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
