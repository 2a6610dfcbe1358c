"""Provenance records of saved layers, which hold the lookup table that computed them."""

from __future__ import annotations

import binascii
import zlib
from base64 import b64decode, b64encode
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import read_record
from napari_ensir.viewer.layers.layers import OUTPUT_KEY, RECORD_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_ensir.ensemble.lut.lut import WeightLUT

_LUT_KEY = "lut_data"
"""Key in a record of the lookup table: a ``.lut.safetensors`` file, compressed, as base64."""

_MAX_BYTES = 2**22
"""Maximum size of a lookup table in a record, before it is compressed."""

_ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")


def record_of_layer(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the provenance of a layer that this package computed; None for other layers.

    Parameters
    ----------
    attributes : mapping
        Attributes of the layer, including ``metadata``.
    """
    metadata = attributes.get("metadata") or {}
    if isinstance(kept := metadata.get(RECORD_KEY), dict):
        return kept
    output = metadata.get(OUTPUT_KEY)
    if not isinstance(output, dict) or output.get("lut") is None:
        return None
    lut, layer = output["lut"], str(attributes.get("name", ""))
    record = record_of(str(output.get("kind")), lut, layer=layer)
    encoded = _encode(lut)
    return record if encoded is None else {**record, _LUT_KEY: encoded}


def open_lut(path: str | Path) -> WeightLUT:
    """Read a lookup table from its file, or from the record of an image that it computed.

    Parameters
    ----------
    path : str or Path
        A ``.lut.safetensors`` file, an OME-TIFF, or an OME-Zarr folder or the metadata file in it. If the
        record only names a file, it is looked for beside the image.

    Raises
    ------
    EnsembleError
        If the file cannot be read, or has no lookup table.
    """
    path = Path(path).expanduser()
    if path.name in _ZARR_METADATA:
        path = path.parent
    if path.suffix == ".safetensors":
        return load_lut(path)
    record = read_record(path) or {}
    if isinstance(encoded := record.get(_LUT_KEY), str):
        return _decode(encoded, path.name)
    if isinstance(name := record.get("lut_file"), str):
        return load_lut(path.with_name(Path(name).name))
    raise EnsembleError(
        f"{path.name} holds no lookup table; open a *.lut.safetensors file, or an ensemble that was saved as "
        "OME-TIFF or OME-Zarr."
    )


def _encode(lut: WeightLUT) -> str | None:
    """The lookup table as text; None if it is too large for a record."""
    with TemporaryDirectory() as folder:
        content = lut.save(Path(folder) / "lut").read_bytes()
    return b64encode(zlib.compress(content)).decode("ascii") if len(content) <= _MAX_BYTES else None


def _decode(encoded: str, source: str) -> WeightLUT:
    try:
        reader = zlib.decompressobj()
        content = reader.decompress(b64decode(encoded, validate=True), _MAX_BYTES)
        if not reader.eof:
            raise ValueError("too long or cut off")
        with TemporaryDirectory() as folder:
            path = Path(folder) / "record.lut.safetensors"
            path.write_bytes(content)
            return load_lut(path)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise EnsembleError(f"the lookup table in the record of {source} is damaged: {error}") from error
