"""What to do when an accelerator has no memory left: less at once, then the CPU. Knows no pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_ensir.ensemble.arrays import block_size

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from napari_ensir.ensemble.arrays import Slices

__all__ = ["sparing_memory"]

SMALLEST = 2**16
"""Pixels of a block that is not halved any more: without room for these the accelerator is of no use."""


def sparing_memory(
    work: Callable[[Slices, torch.device], object],
    slices: Slices,
    shape: tuple[int, ...],
    device: torch.device,
    say: Callable[[str], object],
) -> None:
    """Work on a block; where the device's memory does not suffice, on its halves, at last on the CPU.

    Parameters
    ----------
    work
        Called with a block and a device. It must leave nothing behind when it raises.
    slices, shape
        The block, and the shape of the field it lies in.
    device : torch.device
    say
        Told, in a few words, when the CPU steps in.
    """
    import torch

    try:
        work(slices, device)
        return
    except torch.OutOfMemoryError:
        if device.type == "cpu":
            raise
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if block_size(shape, slices) <= SMALLEST:
        say(f"{device} is out of memory: the CPU takes over")
        work(slices, torch.device("cpu"))
        return
    for half in _halves(slices, shape):
        sparing_memory(work, half, shape, device, say)


def _halves(slices: Slices, shape: tuple[int, ...]) -> tuple[Slices, Slices]:
    """The block cut in two across its first axis that has a length: each part is contiguous again."""
    for axis, (part, size) in enumerate(zip(slices, shape, strict=True)):
        start, stop, _ = part.indices(size)
        if stop - start > 1:
            middle = (start + stop) // 2
            return (
                (*slices[:axis], slice(start, middle), *slices[axis + 1 :]),
                (*slices[:axis], slice(middle, stop), *slices[axis + 1 :]),
            )
    raise ValueError("a single pixel cannot be halved")
