"""Paths that cannot exist are EnsembleErrors wherever a path is given."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from napari_ensir import EnsembleError, fit_lut, import_lut, load_lut
from napari_ensir.cli.app import app
from napari_ensir.files import Part, open_set, read_image, write_image
from napari_ensir.files.image import read_record
from napari_ensir.restorers import open_restorer, open_restorers

IMAGE = np.arange(1024, dtype=np.uint8).reshape(32, 32)


@pytest.mark.parametrize("name", ["~nosuchuser/a.tif", "~nosuchuser.tif", "a\0.tif", "x" * 300 + ".tif"])
@pytest.mark.parametrize(
    "use",
    [
        read_image,
        read_record,
        load_lut,
        import_lut,
        open_restorer,
        open_restorers,
        lambda name: write_image(name, IMAGE),
        lambda name: write_image(name.replace(".tif", ".zarr"), IMAGE),
        lambda name: open_set({"a": name}),
        lambda name: open_set({}, {Part.MASK: name}),
        lambda name: fit_lut([((IMAGE // 2, IMAGE // 3), IMAGE)], device="cpu").save(name),
    ],
)
def test_names_that_cannot_be_paths(tmp_path, monkeypatch, name, use):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnsembleError):
        use(name)
    assert not list(tmp_path.iterdir())


def test_the_command_line_reports_an_unknown_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nosuchuser.tif").write_bytes(b"")
    done = CliRunner().invoke(app, ["evaluate", "-c", "a=~nosuchuser.tif", "-t", "~nosuchuser.tif"])
    assert done.exit_code == 1
    assert "unexpected" not in done.stderr
    assert "cannot be used as a path" in done.stderr
