"""The format of a file is detected from its content; a folder of networks opens at once."""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING

import pytest

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import open_restorer, open_restorers
from napari_ensir.restorers.training.models import NetworkShape, Regression, RegressionModel
from tests.helpers.careamics_files import configuration, network_of, write_checkpoint, write_package
from tests.helpers.paths import DATA

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_of_networks_opens_at_once(tmp_path, write_network, write_dp_ir):
    network = network_of(depth=1)
    write_checkpoint(tmp_path / "care.ckpt", network, configuration(network))
    write_package(tmp_path / "n2v.zip", network, configuration(network, "n2v"))
    model = RegressionModel(NetworkShape(width=4, depth=1))
    Regression(model=model, trained_steps=1, device="cpu").save(tmp_path / "mine.safetensors")
    write_dp_ir(
        tmp_path / "a.safetensors", write_network(tmp_path / "dim.pt")
    )  # its restorer is opened later
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


def test_dp_ir_names_the_restorer_that_is_missing(tmp_path, write_network, write_dp_ir):
    absent = write_network(tmp_path / "absent.pt")
    write_dp_ir(tmp_path / "a.safetensors", write_network(tmp_path / "dim.pt"))
    write_dp_ir(tmp_path / "b.safetensors", absent)  # it does not get the restorer of another
    absent.unlink()
    opened, failed = open_restorers(tmp_path, device="cpu")
    assert list(opened) == ["a.safetensors", "dim.pt"]
    assert "'absent'" in str(failed["b.safetensors"])


def test_folders_without_networks_are_refused(tmp_path):
    with pytest.raises(EnsembleError, match="contains no network"):
        open_restorers(tmp_path)
    with pytest.raises(EnsembleError, match="is not a readable folder"):
        open_restorers(tmp_path / "absent")


REAL = DATA / "careamics"


@pytest.mark.parametrize("name", ["a.ckpt", "a.pth", "a.pt", "a.safetensors", "A.ZIP", "a.bin", "a"])
def test_a_package_opens_by_any_name(tmp_path, name):
    path = shutil.copy(REAL / "care_small.zip", tmp_path / name)
    assert open_restorer(path, device="cpu").name.startswith("CARE, ")


@pytest.mark.parametrize("name", ["a.zip", "a.pth", "a.pt", "a.onnx", "A.CKPT", "a"])
def test_a_checkpoint_of_careamics_opens_by_any_name(tmp_path, name):
    path = shutil.copy(REAL / "n2v_0.1.ckpt", tmp_path / name)
    assert open_restorer(path, device="cpu").name.startswith("N2V, ")


@pytest.mark.parametrize("name", ["a.pth", "a.ckpt", "a.zip", "A.PT"])
@pytest.mark.parametrize("kind", [".pt", ".onnx"])
def test_a_program_opens_by_any_name(tmp_path, write_network, name, kind):
    write_network(tmp_path / f"a{kind}").rename(tmp_path / name)
    assert open_restorer(tmp_path / name, device="cpu").name == name[0]


def cut(share: float):
    def write(path: Path) -> None:
        whole = (REAL / "care_small.zip").read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])

    return write


def packed_with_its_folder(path: Path) -> None:
    with zipfile.ZipFile(REAL / "care_small.zip") as package, zipfile.ZipFile(path, "w") as archive:
        for name in package.namelist():
            archive.writestr(f"n2v/{name}", package.read(name))
        archive.writestr("__MACOSX/rdf.yaml", b"")


def unpacked(path: Path) -> None:
    with zipfile.ZipFile(REAL / "care_small.zip") as package:
        package.extractall(path)


ODD = {
    "empty": (cut(0), "is empty; download it again"),
    "a few bytes": (cut(0.001), "is truncated or damaged; download it again"),
    "half": (cut(0.5), "is truncated or damaged; download it again"),
    "all but the end": (cut(0.999), "is truncated or damaged; download it again"),
    "a page": (lambda path: path.write_bytes(b"\n<!DOCTYPE html><p>404"), "is a web page, not a network"),
    "a pointer": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git lfs pull",
    ),
    "a folder in it": (packed_with_its_folder, "has its rdf.yaml in the folder 'n2v'; pack the files"),
    "a folder": (unpacked, "is an unpacked bioimage.io package"),
}


@pytest.mark.parametrize("suffix", [".zip", ".ckpt", ".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("odd", list(ODD))
def test_incomplete_files_are_refused_with_advice(tmp_path, odd, suffix):
    write, message = ODD[odd]
    write(tmp_path / f"a{suffix}")
    with pytest.raises(EnsembleError, match=message) as caught:
        open_restorer(tmp_path / f"a{suffix}", device="cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_an_unpacked_package_is_not_a_folder_of_networks(tmp_path):
    unpacked(tmp_path / "n2v")
    with pytest.raises(EnsembleError, match="is an unpacked"):
        open_restorers(tmp_path / "n2v")
    with pytest.raises(EnsembleError, match="is an unpacked"):
        open_restorer(tmp_path / "n2v" / "rdf.yaml")


def test_a_text_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("buy milk")
    with pytest.raises(EnsembleError, match="is not a network in a supported format"):
        open_restorer(tmp_path / "notes.txt")
