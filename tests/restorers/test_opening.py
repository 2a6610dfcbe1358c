"""A folder of networks opens at once."""

from __future__ import annotations

import pytest

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import open_restorers
from napari_ensir.restorers.regression import Regression, RegressionModel, RegressionSettings

from .careamics_files import configuration, network_of, write_checkpoint, write_package


def test_a_folder_of_networks_opens_at_once(tmp_path, write_network, write_dp_ir):
    network = network_of(depth=1)
    write_checkpoint(tmp_path / "care.ckpt", network, configuration(network))
    write_package(tmp_path / "n2v.zip", network, configuration(network, "n2v"))
    model = RegressionModel(RegressionSettings(width=4, depth=1))
    Regression(model=model, trained_steps=1, device="cpu").save(tmp_path / "mine.safetensors")
    write_dp_ir(tmp_path / "a.safetensors", write_network(tmp_path / "dim.pt"))  # it waits for the other
    for name in ("notes.txt", ".hidden.pt", "table.lut.safetensors"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"nothing")
    opened, failed = open_restorers(tmp_path, device="cpu")
    assert list(opened) == ["a.safetensors", "care.ckpt", "dim.pt", "mine.safetensors", "n2v.zip"]
    assert opened["a.safetensors"].name == "DP-IR, dim"
    assert opened["n2v.zip"].name == "N2V, n2v"
    assert list(failed) == ["broken.zip"]
    assert "ZIP" in str(failed["broken.zip"])


def test_dp_ir_whose_restorer_is_absent_says_so(tmp_path, write_network, write_dp_ir):
    network = write_network(tmp_path / "dim.pt")
    write_dp_ir(tmp_path / "a.safetensors", network)
    network.unlink()
    opened, failed = open_restorers(tmp_path, device="cpu")
    assert not opened
    assert "'dim'" in str(failed["a.safetensors"])


def test_folders_without_networks_are_refused(tmp_path):
    with pytest.raises(EnsembleError, match="holds no network"):
        open_restorers(tmp_path)
    with pytest.raises(EnsembleError, match="is no folder"):
        open_restorers(tmp_path / "absent")
