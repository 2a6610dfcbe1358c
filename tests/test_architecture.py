"""Libraries that imports of the package load. ``make lint`` checks dependencies between modules."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("dask", "matplotlib", "napari", "numba", "numpy", "qtpy", "scipy", "skimage", "torch", "zarr")


def loaded_by(statement: str, libraries: tuple[str, ...]) -> list[str]:
    """Return which of these libraries a new Python process has loaded after a statement."""
    code = f"import sys; {statement}; print(*(set({libraries!r}) & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return sorted(answer.stdout.split())


@pytest.mark.parametrize("module", ["napari_ensir", "napari_ensir.restorers", "napari_ensir.ensemble"])
def test_importing_a_package_loads_nothing_heavy(module):
    assert loaded_by(f"import {module}", HEAVY) == []


def test_fit_lut_loads_no_viewer_and_no_optional_library():
    optional = ("dask", "matplotlib", "napari", "numba", "qtpy", "zarr", "sklearn")
    assert loaded_by("from napari_ensir import fit_lut", optional) == []


def test_every_public_name_can_be_imported():
    import napari_ensir

    for name in napari_ensir.__all__:
        assert getattr(napari_ensir, name) is not None
    assert napari_ensir.__version__


def test_checking_sound_images_loads_neither_scipy_nor_scikit_image():
    code = """
import numpy as np
from napari_ensir.ensemble.checks.images import diagnose_reference
rng = np.random.default_rng(0)
truth = np.kron(rng.uniform(0, 200, (32, 32, 3)), np.ones((8, 8, 1)))
assert diagnose_reference([([truth + rng.normal(0, sigma, truth.shape) for sigma in (4, 8)], truth)])[0] == []
"""
    assert loaded_by(f"exec({code!r})", ("scipy", "skimage", "numba", "torch")) == []
