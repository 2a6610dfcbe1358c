"""What was compiled beforehand is all that a fit and its image need."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

import napari_ensir.ensemble
from napari_ensir import fit_lut
from napari_ensir.ensemble.engines import compiled_loops
from napari_ensir.ensemble.precompile import warm_up

from .conftest import make_image, using


def test_nothing_is_left_to_compile(rng):
    pytest.importorskip("numba")
    dtypes = (np.uint8, np.uint16, np.float32)
    assert warm_up(2, dtypes)
    loops = compiled_loops()

    def compiled():
        return {name: len(getattr(loops, name).signatures) for name in loops.__all__}

    before = compiled()
    for dtype in dtypes:
        candidates, truth = make_image(rng, (600, 600), 2, dtype)
        mask = rng.random(truth.shape) < 0.5
        lut = fit_lut([(candidates, truth)], mask=[mask], device="cpu")
        lut.apply(candidates, device="cpu")
        lut.weight_maps([c[::2] for c in candidates], device="cpu")
    assert compiled() == before


def test_without_numba_there_is_nothing_to_do(monkeypatch):
    with using("torch"):
        monkeypatch.setattr("napari_ensir.ensemble.precompile.compiled_loops", lambda: None)
        assert not warm_up(2)


LOOPS = [
    path
    for path in sorted(Path(napari_ensir.ensemble.__file__).parent.glob("*.py"))
    if path.stem == "kernels" or path.stem.endswith("_loop")
]


@pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)
def test_compiled_code_kept_on_disk_is_made_anew_when_what_it_holds_changes(path):
    """A file of loops that imports others must change with them, or numba goes on with what was there."""
    source = path.read_text(encoding="utf-8")
    imported = sorted(set(re.findall(r"from napari_ensir\.ensemble\.(\w+_loop) import", source)))
    if imported:
        files = b"".join(path.with_stem(name).read_bytes().replace(b"\r\n", b"\n") for name in imported)
        assert f'_INLINED = "{hashlib.sha256(files).hexdigest()[:12]}"' in source
