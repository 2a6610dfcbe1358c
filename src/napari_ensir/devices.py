"""Choose the torch device to compute on."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Devices to choose from; not every machine has all of them."""

_DEVICE_ERRORS = ("cuda error", "out of memory", "cudnn", "cublas", "hip error", "nvrtc", "acceleratorerror")


class _CPU(str):
    """The CPU as a device that torch accepts, for use without importing torch."""

    type = "cpu"


CPU = cast("torch.device", _CPU("cpu"))


@cache
def _may_have_accelerator() -> bool:
    """Whether torch could find a GPU; importing torch to ask it takes seconds."""
    if sys.platform == "darwin":
        return True
    try:
        if version("torch").endswith("+cpu"):
            return False
    except PackageNotFoundError:
        return False
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "System32" / "nvcuda.dll").exists()
    drivers = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg", "/dev/kfd", "/dev/nvhost-gpu")
    return any(Path(driver).exists() for driver in drivers)


def available_devices() -> list[str]:
    """Return the names of the available torch devices, fastest first; the last is ``"cpu"``."""
    import torch

    names = []
    if torch.cuda.is_available():
        names += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the torch device for a name.

    Parameters
    ----------
    device
        ``"auto"`` (CUDA, else MPS, else CPU), any name of a torch device, or a torch device.

    Raises
    ------
    EnsembleError
        If torch does not know the name or the device is not available.

    Examples
    --------
    >>> resolve_device("cpu").type
    'cpu'
    """
    if device == "cpu" or (device == "auto" and not _may_have_accelerator()):
        return CPU
    import torch

    if isinstance(device, str) and device == "auto":
        return torch.device(available_devices()[0])
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise EnsembleError(
            f'device {device!r} is not known to torch; use "auto" or one of: '
            f"{', '.join(available_devices())}."
        ) from error
    present = {torch.device(name).type for name in available_devices()}
    count = torch.cuda.device_count() if resolved.type == "cuda" else 1
    if resolved.type not in present or (resolved.index or 0) >= count:
        raise EnsembleError(
            f'device "{resolved}" is not available on this machine; use "auto" or one of: '
            f"{', '.join(available_devices())}."
        )
    return resolved


def device_error_message(error: BaseException) -> str:
    """Return the message for an error of an accelerator; empty for other errors.

    Examples
    --------
    >>> device_error_message(RuntimeError("CUDA error: device-side assert triggered"))
    'The device failed (CUDA error: device-side assert triggered); choose "cpu" as device and try again.'
    >>> device_error_message(RuntimeError("out of cheese"))
    ''
    """
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    text = f"{type(error).__name__}: {first}".lower()
    if not isinstance(error, RuntimeError) or not any(part in text for part in _DEVICE_ERRORS):
        return ""
    return f'The device failed ({first}); choose "cpu" as device and try again.'
