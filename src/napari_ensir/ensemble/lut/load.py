"""Lookup tables from files: the package's own format and that of the EnsIR authors' code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_ensir.ensemble.arrays.image_set import check_names
from napari_ensir.ensemble.lut.authors import MAX_BYTES, read_authors_table
from napari_ensir.ensemble.lut.format import SUFFIX as SUFFIX
from napari_ensir.ensemble.lut.format import read_table
from napari_ensir.ensemble.lut.lut import WeightLUT
from napari_ensir.ensemble.lut.report import FitReport
from napari_ensir.ensemble.statistics.binning import choose_binning
from napari_ensir.errors import EnsembleError
from napari_ensir.files.tensors import readable_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def load_lut(path: str | Path) -> WeightLUT:
    """Read a table that was written by :meth:`WeightLUT.save`.

    Parameters
    ----------
    path
        A ``.lut.safetensors`` file.

    Returns
    -------
    WeightLUT

    Raises
    ------
    EnsembleError
        If the file is absent, is not a lookup table, is of a newer version, or is invalid in any part.
        Nothing in the file is executed.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> from napari_ensir import fit_lut
    >>> truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> lut = fit_lut([((truth // 2 * 2, truth // 4 * 4), truth)], names=("A", "B"), device="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_lut(lut.save(pathlib.Path(folder) / "rain")).names
    ('A', 'B')
    """
    return WeightLUT(**read_table(path))


def import_lut(
    path: str | Path, names: Sequence[str] | None = None, bin_width: float | None = None
) -> WeightLUT:
    """Read a table that was written by the EnsIR authors' code.

    Parameters
    ----------
    path
        A ``.pth`` file: a dict from lower bin edges, one per candidate, to the weights for R, G and B. It
        is not unpickled: only its numbers are read, and any other content is refused.
    names
        The candidates in the order of the edges, which the file's name gives.
    bin_width
        Width of the authors' bins on 0..255, which the file's name gives; None: inferred from the edges.

    Returns
    -------
    WeightLUT
        For RGB on 0..255 with the channel on the last axis; its pixel counts are unknown (-1).

    Raises
    ------
    EnsembleError
        If the file is not such a table, or does not fit ``names`` or ``bin_width``.

    Examples
    --------
    >>> import tempfile, torch
    >>> weights = torch.tensor([0.25, 0.75])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/weight_Rain_A_B_b32_rgb.pth"
    ...     torch.save({(32, 64): [weights, weights, weights]}, path)
    ...     import_lut(path, names=("A", "B"), bin_width=32).weights_for((40, 70))
    array([0.25, 0.75])
    """
    source = readable_file(path, MAX_BYTES, ".pth file")
    edges, weights = read_authors_table(source)
    m, n_channels = edges.shape[1], weights.shape[1]
    steps = np.unique(edges)
    width = float(bin_width) if bin_width is not None else float(np.diff(steps).min(initial=256))
    binning = choose_binning(np.uint8, (0, 255), width)
    if (edges % int(width)).any() or (edges < 0).any() or (edges > 255).any():
        raise EnsembleError(
            f"{source} has bin edges {steps[:4].tolist()}..., which are not multiples of {width:g} within "
            "0 to 255; give the bin_width that its name states."
        )
    checked = check_names(names, m)
    bins = edges // int(width)
    order = np.lexsort(bins.T[::-1])
    channels = np.tile(np.arange(n_channels), len(bins))
    flat = weights[order].reshape(-1, m)
    return WeightLUT(
        checked,
        "imported",
        binning,
        np.column_stack([np.repeat(bins[order], n_channels, axis=0), channels]).astype(np.uint16),
        flat / flat.sum(axis=1, keepdims=True),
        np.full(len(flat), -1, np.int64),
        np.full((n_channels, m), 1 / m),
        "previous",
        -1 if n_channels > 1 else None,
        FitReport({"source": source.name}),
    )
