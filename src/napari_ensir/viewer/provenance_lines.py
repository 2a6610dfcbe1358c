"""Where a table came from, in a few lines: what its report says of it. Reads no pixel, trusts no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ensir.ensemble.summary import figures
from napari_ensir.viewer.outputs import method_title

if TYPE_CHECKING:
    from napari_ensir.ensemble.lut import WeightLUT

__all__ = ["provenance_lines"]


def provenance_lines(lut: WeightLUT) -> list[str]:
    """Date and versions, method and settings, what was learned from, hashes, what was held out: those known.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> lines = provenance_lines(fit_lut([((truth // 2 * 2, truth // 4 * 4), truth)]))
    >>> lines[2], lines[3]
    ('Learned from 1 image: 16 x 16, uint8.', 'Content hashes (sha256) of 1 of 1 images in the file.')
    """
    report = lut.report
    lines = []
    if isinstance(date := report.get("date"), str):
        versions = _dict(report.get("versions"))
        with_what = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines.append(f"Made {date}" + (f" with {with_what}." if with_what else "."))
    settings = [
        f"{name} {value}" for name, value in _dict(report.get("settings")).items() if value is not None
    ]
    if settings:
        lines.append(f"By {method_title(lut)}: bin_width {figures(lut.bin_width)}, {', '.join(settings)}.")
    inputs = _dict(report.get("inputs"))
    lines += filter(None, [_learned_from(inputs), _hashes(inputs)])
    held_out = _dict(report.get("held_out"))
    if isinstance(rmse := held_out.get("rmse"), (int, float)):
        lines.append(f"Held out: RMSE {rmse:.4g}, on {held_out.get('kind', 'parts of the images')}.")
    return lines


def _learned_from(inputs: dict[str, Any]) -> str:
    listed = inputs.get("listed")
    images = inputs.get("images")
    if not isinstance(images, int) or not isinstance(listed, list) or not listed:
        return ""
    first = _dict(listed[0])
    shape, dtypes = first.get("shape"), first.get("dtypes")
    if not isinstance(shape, list) or not isinstance(dtypes, list):
        return ""
    kinds = ", ".join(dict.fromkeys(map(str, dtypes)))
    more = "" if images == 1 else ", the first"
    many = f"{images} image{'s' if images != 1 else ''}{more}"
    names = first.get("names")
    truth = f'; its ground truth is "{names[-1]}"' if isinstance(names, list) and names else ""
    return f"Learned from {many}: {' x '.join(map(str, shape))}, {kinds}{truth}."


def _hashes(inputs: dict[str, Any]) -> str:
    listed = inputs.get("listed")
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        return ""
    hashed = sum(bool(one.get("sha256")) for one in listed)
    said = inputs.get("not_hashed")
    more = f" Not hashed: {said}." if isinstance(said, str) else ""
    return f"Content hashes (sha256) of {hashed} of {len(listed)} images in the file.{more}"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
