"""Where a table came from: what was learned from, when and with which versions. Judges nothing.

Kept in a table's report as plain values: shapes, dtypes, a hash of the content where that is cheap, and
percentiles of the intensities, by which later images can be told to be from another exposure.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import prod
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from napari_ensir.ensemble.arrays import dtype_of, read_block
from napari_ensir.ensemble.distributed import has_chunks
from napari_ensir.ensemble.fidelity import rescaled_fidelity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_ensir.ensemble.inputs import Field

__all__ = [
    "PERCENTS",
    "Inputs",
    "Samples",
    "made_now",
    "named_report",
    "percentiles_of",
    "rescaled_report",
    "sample_of",
]

HASH = "sha256"
HASHED_BYTES = 2**24
"""Most bytes of a reference set that are hashed unasked: a hundredth of a second."""

LISTED = 64
"""Most images that are listed one by one."""

SAMPLES = 2**14
"""Pixels of an image that percentiles are taken from."""

MOST_SAMPLES = 2**20
"""Pixels of all images that percentiles are taken from: four megabytes."""

PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99)


class Samples:
    """Pixels of however many images in little memory: as they grow too many, every other one is dropped.

    Which remain does not depend on the order that images come in.

    Examples
    --------
    >>> samples = Samples()
    >>> for start in range(3):
    ...     samples.add(np.arange(start, 2**19 + start, dtype=np.float32))
    >>> len(samples.all()) == 3 * 2**18
    True
    """

    def __init__(self) -> None:
        self.parts: list[NDArray[np.float32]] = []
        self.step, self.size = 1, 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Add one image's pixels."""
        self._keep(values[:: self.step])
        while self.size > MOST_SAMPLES and max(map(len, self.parts)) > 1:
            parts, self.parts, self.size = self.parts, [], 0
            self.step *= 2
            for part in parts:
                self._keep(part[::2].copy())

    def _keep(self, part: NDArray[np.float32]) -> None:
        self.parts.append(part)
        self.size += len(part)

    def all(self) -> NDArray[np.float32]:
        """Those that are left."""
        return np.concatenate(self.parts) if self.parts else np.zeros(0, np.float32)


class Inputs:
    """What a reference set consists of, noted image by image as it is read.

    Parameters
    ----------
    hash_all
        Hash images whatever their size; else up to :data:`HASHED_BYTES` in all.
    """

    def __init__(self, hash_all: bool = False) -> None:
        self.hash_all = hash_all
        self.images: dict[int, dict[str, Any]] = {}
        self.samples: Samples = Samples()
        self.bytes_seen = 0

    def add(self, number: int, field: Field) -> None:
        """Note one image, once; where its arrays are lazy, their pixels are not read for it."""
        if number in self.images:
            return
        in_memory = not has_chunks(field)
        if in_memory:
            self.samples.add(sample_of(field))
        self.images[number] = {}
        if number < LISTED:
            self.images[number] = {
                "shape": list(field.shape),
                "dtypes": [str(array.dtype).removeprefix("torch.") for array in field.arrays],
                HASH: self._hashed(field) if in_memory else None,
            }

    def _hashed(self, field: Field) -> list[str] | None:
        self.bytes_seen += prod(field.shape) * sum(dtype_of(array).itemsize for array in field.arrays)
        if not self.hash_all and self.bytes_seen > HASHED_BYTES:
            return None
        return [_hash_of(array) for array in field.arrays]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a report."""
        listed = [self.images[number] for number in sorted(self.images)[:LISTED]]
        found: dict[str, Any] = {"images": len(self.images), "listed": listed}
        if any(one[HASH] is None for one in listed):
            found["not_hashed"] = (
                f"images that are lazy, or that make more than {HASHED_BYTES // 2**20} MB in all; "
                "hash_inputs=True asks for the latter"
            )
        if self.samples.parts:
            found["percentiles"] = percentiles_of(self.samples.all())
        return found


def _hash_of(array: Any) -> str:
    """Of the pixels as little-endian bytes in C order, whatever holds them."""
    plain = _flat(array)
    plain = np.ascontiguousarray(plain, plain.dtype.newbyteorder("<"))
    return hashlib.new(HASH, plain.view(np.uint8).data).hexdigest()


def _flat(array: Any) -> NDArray[Any]:
    """All pixels in C order: a view where that is possible. Read by slicing, as counting them does."""
    return read_block(array, (slice(None),) * len(array.shape), dtype_of(array))


def sample_of(field: Field) -> NDArray[np.float32]:
    """The candidates' mean at some pixels, evenly spaced over the flattened image; none of a lazy one."""
    if has_chunks(field):
        return np.zeros(0, np.float32)
    total = np.zeros((), np.float64)
    for candidate in field.candidates:
        flat = _flat(candidate)
        # Odd, so that it does not keep to one column of an image whose width is a power of two.
        total = total + flat[:: max(1, flat.size // SAMPLES) | 1].astype(np.float64)
    with np.errstate(over="ignore"):  # infinite then, and left out
        mean: NDArray[np.float32] = (total / len(field.candidates)).astype(np.float32)
    return mean[np.isfinite(mean)]


def percentiles_of(values: NDArray[Any]) -> list[float] | None:
    """Intensities below which :data:`PERCENTS` of the values lie; None where there are none.

    Examples
    --------
    >>> percentiles_of(np.arange(101.0))[4]
    50.0
    """
    finite = values[np.isfinite(values)]
    return [float(value) for value in np.percentile(finite, PERCENTS)] if finite.size else None


def rescaled_report(report: dict[str, Any], gain: float, offset: float) -> dict[str, Any]:
    """A table's report where intensities are now ``gain * x + offset``."""
    before = report.get("rescaled")
    first = before if _are_numbers(before, 2) else [1.0, 0.0]
    kept = {**report, "rescaled": [gain * first[0], gain * first[1] + offset]}
    if "fidelity" in report:
        kept["fidelity"] = rescaled_fidelity(report["fidelity"], gain, offset)
    inputs = report.get("inputs")
    percentiles = inputs.get("percentiles") if isinstance(inputs, dict) else None
    if isinstance(inputs, dict) and _are_numbers(percentiles, len(PERCENTS)):
        kept["inputs"] = {**inputs, "percentiles": [gain * value + offset for value in percentiles]}
    return kept


def named_report(report: dict[str, Any], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A table's report with the names of what was learned from, such as of files or layers.

    Parameters
    ----------
    report
        Of a table just fitted.
    names
        For every image those of the candidates and, last, of the truth.
    """
    inputs = report["inputs"]
    listed = [{"names": list(some), **one} for some, one in zip(names, inputs["listed"], strict=False)]
    return {**report, "inputs": {**inputs, "listed": listed}}


def _are_numbers(value: Any, n: int) -> TypeGuard[list[float]]:
    """Whether this, maybe of a file that somebody else wrote, is so many numbers."""
    return isinstance(value, list) and len(value) == n and all(type(one) in (int, float) for one in value)


def made_now() -> dict[str, Any]:
    """The day and the versions that a result is made with.

    The day alone, in UTC, so that one day's results are the same byte for byte; ``SOURCE_DATE_EPOCH`` in the
    environment sets it.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC)
    return {"date": now.date().isoformat(), "versions": {name: _version_of(name) for name in _PACKAGES}}


_PACKAGES: Sequence[str] = ("napari-ensir", "numpy", "torch")


@cache
def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a source tree that was never installed
        return "unknown"
