"""Tables of real networks against those that the EnsIR authors published."""

from __future__ import annotations

import numpy as np
import pytest

from napari_ensir import fit_lut, import_lut
from tests.helpers.reference_em import solve_released, start_weights_released

MODELS = ("MPRNet", "MAXIM", "Restormer")


def test_torch_and_compiled_tables_of_real_images_are_equal(deraining, both_engines, without_checks):
    tables = []
    for engine in ("compiled", "torch"):
        with both_engines(engine):
            tables.append(fit_lut(deraining[:1], bin_width=32, channel_axis=-1, device="cpu"))
    np.testing.assert_array_equal(tables[0].counts, tables[1].counts)
    np.testing.assert_allclose(tables[0].weights, tables[1].weights, atol=1e-9)


def pixels_of(images, key, channel):
    """Candidates (3, N) and truth (N,) of one bin set over all images."""
    x, y = [], []
    for candidates, truth in images:
        stack = np.stack([c[..., channel] for c in candidates])
        here = (stack // 32 == np.array(key)[:, None, None]).all(axis=0)
        x.append(stack[:, here])
        y.append(truth[..., channel][here])
    return np.concatenate(x, axis=1).astype(np.float64), np.concatenate(y).astype(np.float64)


@pytest.mark.parametrize(("name", "prior"), [("Rain100H", None), ("Rain100L", (0.1, 0.3, 0.6))])
def test_tables_equal_the_published_ones(deraining, reference_folder, without_checks, name, prior):
    lut = fit_lut(
        deraining, MODELS, method="em-released", bin_width=32, channel_axis=-1, prior=prior, device="cpu"
    )
    published = import_lut(
        reference_folder / "published_luts" / f"weight_{name}_MPRNet_MAXIM_Restormer_b32_rgb.pth", MODELS, 32
    )
    assert len(published.rows) == 8**3 * 3
    theirs = {
        tuple(row): weights for row, weights in zip(published.rows.tolist(), published.weights, strict=True)
    }
    enough = lut.counts >= 100
    rows, counts, ours = lut.rows[enough], lut.counts[enough], lut.weights[enough]
    off = np.array([np.abs(theirs[tuple(row)] - w).max() for row, w in zip(rows.tolist(), ours, strict=True)])
    assert np.median(off) < 1e-5
    assert (off < 1e-3).mean() >= 0.88
    assert counts[off < 1e-3].sum() >= 0.99 * counts.sum()
    # Bin sets with fewer pixels take the start weights, not those of EM.
    few = [
        np.abs(theirs[tuple(r)] - w).max()
        for r, w in zip(lut.rows[~enough].tolist(), lut.weights[~enough], strict=True)
    ]
    assert np.median(few) < 1e-5
    left = [
        row
        for row in rows[off >= 1e-3].tolist()
        if not explained_by_float32(deraining, row, theirs[tuple(row)], prior)
    ]
    assert not left


def explained_by_float32(images, row, theirs, prior):
    """Whether the authors' weights differ only because their code computes in float32.

    Either it found no solution and used the start weights, or it stopped a few iterations earlier or later:
    the increase of the likelihood is compared with 1e-5, and float32 resolves 2e-7.
    """
    x, y = pixels_of(images, row[:-1], row[-1])
    start = start_weights_released(x) if prior is None else np.array(prior)
    if solve_released(x, y, start, real=np.float32).broke_down:
        return np.abs(theirs - start).max() < 1e-4
    # Their weights are among those of the iterations near our last one.
    path = solve_released(x, y, start, tolerance=-np.inf, limit=200).path
    end = solve_released(x, y, start).iterations
    near = path[max(0, end - 4) : end + 3]
    return min(np.abs(theirs - weights).max() for weights in near) < 1e-4


def test_a_published_table_in_other_bins_can_be_read(reference_folder):
    table = import_lut(
        reference_folder / "published_luts" / "weight_Test1200_MPRNet_MAXIM_Restormer_b64_rgb.pth", MODELS
    )
    assert table.bin_width == 64
    assert len(table.rows) == 4**3 * 3
    np.testing.assert_allclose(table.weights.sum(axis=1), 1, atol=1e-12)
