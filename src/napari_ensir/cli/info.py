"""The command ``info``: describe a lookup table, the origin of an output, or the noise of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.cli import terminal
from napari_ensir.ensemble.checks.planes import middle_plane
from napari_ensir.ensemble.lut.load import load_lut
from napari_ensir.ensemble.lut.record import table_of
from napari_ensir.files.image import IMAGE_SUFFIXES, read_image, read_record
from napari_ensir.files.microscopy import split_scene
from napari_ensir.files.paths import Place, check_output_paths
from napari_ensir.files.sets import Part, open_set

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_ensir.cli.app import InfoOptions
    from napari_ensir.files.sets import ImageSet

_LONG = ("iterations", "outcome", "bin_sets", "inputs", "bias", "diagnostics", "correlations")
"""Entries of a report that are too long to print."""


def info(options: InfoOptions) -> None:
    """Describe a table, the record of an output, the images of a folder, or the noise of another image."""
    path, output = options.path, options.output
    check_output_paths(output.places, [Place("a file", path)])
    output.check()
    if not (path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES or split_scene(path)):
        results, lines = _of_table(path)
    elif (images := open_set({}, {Part.IMAGE: path})).from_folders:
        results, lines = _of_images(images)
    else:
        record = read_record(path)
        results, lines = _of_image(path) if record is None else _of_output(record)
    rows = [(key.replace("_", " "), terminal.plain(value)) for key, value in lines.items()]
    output.finish(results, terminal.table(("", ""), rows))


def _of_table(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    lut = load_lut(path)
    results = table_of(lut)
    lines = _table_lines(results)
    lines["expected_error"] = "no" if lut.errors is None else f"yes, {lut.errors.overall:.4g} overall"
    if lut.errors is not None and lut.error_factor is not None:
        lines["expected_error"] += f", within x {lut.error_factor:.2g} on other fields"
    lines["bias"] = "yes, shown in Inspect and with --json" if lut.report.get("bias") else "no"
    return results, lines


def _of_output(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    table = record.get("table")
    lines = {key: value for key, value in record.items() if key != "table"}
    if isinstance(table, dict):
        lines |= {f"table_{key}": value for key, value in _table_lines(table).items()}
    return record, lines


def _of_images(images: ImageSet) -> tuple[dict[str, Any], dict[str, Any]]:
    """The images of a folder, a plate or a file with several, and the kind of the first."""
    stems, first = [stem for stem, _ in images.fields], images.open(0)[Part.IMAGE].array
    results = {"images": stems, "shape": list(first.shape), "dtype": str(first.dtype)}
    more = f" and {len(stems) - 20} more" if len(stems) > 20 else ""
    lines = {"images": f"{len(stems)}: {', '.join(stems[:20])}{more}", "first_image": str(first.shape)}
    return results, lines | {"dtype": results["dtype"]}


def _of_image(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The noise of an image that this package did not write, estimated from its middle plane."""
    from napari_ensir.restorers.noise_model import estimate_noise_model, find_hot_pixels

    array = read_image(path)
    plane = middle_plane(array)
    image = np.moveaxis(plane, -1, 0)
    model = estimate_noise_model(image, channel_axis=0)
    hot = int(find_hot_pixels(image, model).sum())
    correlation = model.correlation
    results: dict[str, Any] = {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "examined": list(plane.shape[:2]),
        "noise": {**vars(model), "hot_pixels": hot},
    }
    results["noise"]["correlation"] = None if correlation is None else correlation.tolist()
    variance = f"{model.gain:.3g} x intensity {'-' if model.offset < 0 else '+'} {abs(model.offset):.3g}"
    lines = {
        "shape": results["shape"],
        "dtype": results["dtype"],
        "examined": f"{plane.shape[0]} x {plane.shape[1]} pixels in the middle",
        "noise_level": f"{model.level:.3g} (standard deviation, on average)",
        "noise_variance": variance if model.is_signal_dependent else "the same at all intensities",
        "neighbouring_pixels": "independent noise",
        "hot_pixels": f"{hot} found",
    }
    if correlation is not None:
        middle = len(correlation) // 2
        right, down = correlation[middle, middle + 1], correlation[middle + 1, middle]
        lines["neighbouring_pixels"] = f"correlated noise, {right:.2f} along rows, {down:.2f} along columns"
    return results, lines


def _table_lines(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a table and of its report, without long lists."""
    found = {key: value for key, value in table.items() if key != "report"}
    report = table.get("report")
    if not isinstance(report, dict):
        return found
    found |= {key: value for key, value in report.items() if key not in _LONG}
    choice = report.get("method_choice")
    if isinstance(choice, dict):
        found["method_choice"] = choice.get("summary")
    inputs = report.get("inputs")
    inputs = inputs if isinstance(inputs, dict) else {}
    listed = inputs.get("listed")
    if isinstance(listed, list) and all(isinstance(one, dict) for one in listed):
        kinds = {(terminal.plain(one.get("shape")), terminal.plain(one.get("dtypes"))) for one in listed}
        found["learned_from"] = "; ".join(f"({shape}) {dtypes}" for shape, dtypes in sorted(kinds)[:4])
        names = [one["names"] for one in listed if isinstance(one.get("names"), list)]
        if names and names[0]:
            *candidates, truth = names[0]
            more = f", and {len(listed) - 1} more" if len(listed) > 1 else ""
            found["learned_from_images"] = f"{terminal.plain(candidates)}; ground truth {truth}{more}"
        hashed = sum(bool(one.get("sha256")) for one in listed)
        found["hashes"] = f"sha256 of {hashed} of {len(listed)} images, shown with --json"
        if isinstance(reason := inputs.get("not_hashed"), str):
            found["not_hashed"] = reason
    return found
