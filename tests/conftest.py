from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# Nobody's own preferences sway the tests, and no test changes them. Before anything imports napari.
_PREFERENCES = tempfile.TemporaryDirectory(prefix="napari-ensir-tests-")
os.environ["NAPARI_CONFIG"] = str(Path(_PREFERENCES.name) / "settings.yaml")


@pytest.fixture(scope="session")
def reference_folder():
    """The deraining set and the published tables, where somebody has put them."""
    named = os.environ.get("NAPARI_ENSIR_REFERENCE")
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "reference"
    for folder in ([Path(named)] if named else []) + [beside]:
        if (folder / "deraining" / "gt").is_dir():
            return folder
    pytest.skip(
        "the reference data is absent: put it in ../shared/reference or name it in NAPARI_ENSIR_REFERENCE"
    )


@pytest.fixture
def one_thread():
    """Keep OpenMP from waiting for processors that others are using: small problems only lose by it."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    pytest.importorskip("sklearn.ensemble")  # what is loaded later is not limited
    with threadpoolctl.threadpool_limits(1):
        yield
