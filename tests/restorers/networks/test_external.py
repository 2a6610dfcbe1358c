"""TorchScript networks, networks given as functions, and spandrel replaced by a stub."""

from __future__ import annotations

import pickle
import sys
import types
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import load_network, load_spandrel, open_restorer, with_channel_axis
from napari_ensir.restorers.networks.external import ExternalNetwork
from napari_ensir.restorers.networks.tiling import Tiles


class Dim(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x


@pytest.fixture(scope="module")
def scripted(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("torchscript") / "dim.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(nn.Sequential(Dim()), torch.zeros(1, 1, 8, 8)).save(str(path))
    return path


@pytest.mark.parametrize("member", ["models/model.json", "serialized_exported_program.json"])
def test_torch_export_files_are_refused_with_advice(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr(f"a/{member}", b"{}")
    with pytest.raises(
        EnsembleError, match=r"is a torch\.export file, which is not supported; export .* to ONNX"
    ):
        open_restorer(tmp_path / "a.pt2")


def rewritten(source: Path, target: Path, member: str, change) -> Path:
    """Copy an archive with one record changed or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        contents = {name: old.read(name) for name in old.namelist()}
        contents[f"{root}/{member}"] = change(contents.get(f"{root}/{member}", b""))
        for name, content in contents.items():
            new.writestr(name, content)
    return target


@pytest.mark.parametrize("batch", [1, 3])
def test_torchscript_is_applied_in_tiles(scripted, batch):
    image = np.random.default_rng(0).integers(0, 255, (3, 40, 30)).astype(np.uint8)
    network = load_network(scripted, tiles=Tiles(size=24, overlap=8, batch=batch), device="cpu")
    assert network.name == "dim"
    np.testing.assert_allclose(network(image), 0.5 * image, atol=1e-3)


def test_raw_intensities_are_not_scaled():
    image = np.random.default_rng(0).integers(300, 3000, (16, 16)).astype(np.uint16)
    network = ExternalNetwork(network=lambda x: x - 100, label="background", sides=1, device="cpu")
    np.testing.assert_allclose(replace(network, intensities="raw")(image), image - 100.0, atol=1e-3)
    assert abs(network(image).mean() - image.mean()) > 1e5  # for a range of 0..1, 100 is large
    with_range = replace(network, data_range=(0.0, 100.0))
    np.testing.assert_allclose(with_range(image), image - 100 * 100.0, rtol=1e-5)
    with pytest.raises(EnsembleError, match=r"background: intensities is 'words'; use one of"):
        replace(network, intensities="words")(image)


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("form", ["torch", "pickle", "weights", "nothing"])
def test_pickles_are_refused_and_not_run(form, tmp_path):
    path, trace = tmp_path / "network.pt", tmp_path / "it ran"
    if form == "torch":
        torch.save({"a": Bomb(trace)}, path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(trace)))
    elif form == "weights":
        torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(
        EnsembleError, match=r"is not a TorchScript file|is not an archive of torch|there is no file"
    ):
        load_network(path)
    assert not trace.exists()


def test_torchscript_that_runs_code_when_it_is_loaded_is_refused(scripted, tmp_path):
    path = rewritten(scripted, tmp_path / "a.pt", "code/__torch__/b.py", lambda _: b"def __setstate__(self):")
    with pytest.raises(EnsembleError, match="__setstate__"):
        load_network(path)


def test_unsuitable_networks_are_refused_in_one_sentence():
    image = np.zeros((16, 16))
    for network, message in (
        (lambda x: x.repeat(1, 3, 1, 1), "turned 1 channel"),
        (lambda x: x[..., ::2, ::2], "keep the size"),
        (lambda x: x.mean(), r"turned 1 tiles into \(\) values"),
        (lambda x: torch.cat([x, x]), r"turned 1 tiles into \(2, 1, 16, 16\) values"),
        (nn.Conv2d(3, 3, 1), "cannot be applied"),
        (lambda x: x * torch.nan, "not finite"),
    ):
        with pytest.raises(EnsembleError, match=message):
            ExternalNetwork(network=network, label="own", device="cpu")(image)


def fake_spandrel(monkeypatch, **settings: object) -> None:
    """Replace spandrel by a module with the parts of its interface that are used."""
    module = types.ModuleType("spandrel")

    class ImageModelDescriptor:
        input_channels = output_channels = 1
        scale = 1
        architecture = types.SimpleNamespace(name="NAFNet")

        def __init__(self) -> None:
            vars(self).update(settings)

        def eval(self):
            return self

        def to(self, device):
            self.device = device

        def __call__(self, x):
            return 0.5 * x

    class UnsupportedModelError(Exception):
        pass

    class ModelLoader:
        def __init__(self, device: str) -> None:
            pass

        def load_from_file(self, path):
            weights = torch.load(path, weights_only=False)  # as spandrel does
            if "unknown" in weights:
                raise UnsupportedModelError
            if "broken" in weights:
                raise ValueError("bad shape")
            return ImageModelDescriptor()

    module.ImageModelDescriptor, module.ModelLoader = ImageModelDescriptor, ModelLoader
    module.UnsupportedModelError = UnsupportedModelError
    monkeypatch.setitem(sys.modules, "spandrel", module)


def published(path: Path) -> Path:
    """A file of weights; the replacement of spandrel uses the name of the tensor."""
    torch.save({path.stem: torch.zeros(1)}, path)
    return path


def test_networks_of_spandrel_restore(monkeypatch, tmp_path):
    fake_spandrel(monkeypatch)
    network = load_spandrel(published(tmp_path / "gopro.pth"), device="cpu")
    assert network.name == "NAFNet, gopro"
    image = np.random.default_rng(0).random((20, 30))
    np.testing.assert_allclose(network(image), 0.5 * (image + image.min()), atol=1e-6)


def test_networks_of_spandrel_state_their_scale(monkeypatch, tmp_path):
    fake_spandrel(monkeypatch, scale=4)
    assert load_spandrel(published(tmp_path / "a.pth")).scale == 4


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("unknown.pth", {}, "does not support"),
        ("broken.pth", {}, "bad shape"),
        ("a.pt", {}, "spandrel reads"),
        ("a.pth", {"output_channels": 3}, "1 channels into 3"),
    ],
)
def test_unsupported_files_for_spandrel_are_refused(monkeypatch, tmp_path, path, settings, message):
    fake_spandrel(monkeypatch, **settings)
    with pytest.raises(EnsembleError, match=message):
        load_spandrel(published(tmp_path / path))


class Writes(nn.Module):
    """Writes a file when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    @torch.jit.export
    def __getstate__(self):
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.w = state[0]
        self.training = state[1]
        torch.save(state[0], "it_ran")

    def forward(self, x):
        return x


def test_torchscript_named_as_weights_is_not_run(monkeypatch, tmp_path):
    """torch.load runs pickles that look like TorchScript."""
    fake_spandrel(monkeypatch)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Writes()).save(str(tmp_path / "a.pth"))
        with pytest.raises(EnsembleError, match="cannot be read by spandrel"):
            load_spandrel(tmp_path / "a.pth")
    assert not (tmp_path / "it_ran").exists()


def test_known_names_in_the_wrong_case_are_refused(scripted, tmp_path):
    """Torch ignores the case of names, and the check does not."""
    path = rewritten(scripted, tmp_path / "a.pt", "code/__torch__/b.PY", lambda _: b"__setstate__")
    with pytest.raises(EnsembleError, match="a known name in the wrong case"):
        load_network(path)


def test_a_mismatch_of_torch_and_torchvision_is_reported(monkeypatch, tmp_path):
    (tmp_path / "spandrel.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnsembleError, match=r"nms does not exist.*install both from the same source"):
        load_spandrel("a.safetensors")


def test_without_spandrel_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(EnsembleError, match=r'pip install "napari-ensir\[spandrel\]"'):
        load_spandrel("a.safetensors")


class MeanOfFrames(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def mean(tmp_path_factory) -> ExternalNetwork:
    path = tmp_path_factory.mktemp("bursts") / "mean.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(MeanOfFrames()).save(str(path))
    return load_network(path, frame_axis=0, tiles=Tiles(size=24, overlap=8), device="cpu")


class TestBursts:
    @pytest.mark.parametrize(
        ("axis", "shape", "merged"),
        [(0, (5, 30, 40), (30, 40)), (-1, (30, 40, 5), (30, 40)), (1, (2, 5, 30, 40), (2, 30, 40))],
    )
    def test_frames_become_one_image(self, mean, axis, shape, merged):
        burst = np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16)
        restored = replace(mean, frame_axis=axis, channel_axis=None)(burst)
        assert restored.shape == merged
        np.testing.assert_allclose(restored, burst.mean(axis=axis), rtol=1e-5)

    def test_frames_may_become_one_larger_image(self, mean):
        burst = np.random.default_rng(0).random((4, 16, 20))
        twice = replace(mean, network=lambda x: nn.functional.interpolate(mean.network(x), scale_factor=2.0))
        np.testing.assert_allclose(twice(burst), burst.mean(axis=0).repeat(2, 0).repeat(2, 1), rtol=1e-5)

    def test_a_channel_axis_is_refused(self, mean):
        with pytest.raises(EnsembleError, match="takes no channel axis"):
            with_channel_axis(mean, -1)
        assert with_channel_axis(mean, None).frame_axis == 0

    def test_networks_that_keep_the_frames_are_refused(self, mean):
        with pytest.raises(EnsembleError, match="turned 3 frames into 3 images"):
            replace(mean, network=torch.abs)(np.ones((3, 16, 16)))

    def test_without_a_frame_axis_channels_have_to_be_kept(self, mean):
        with pytest.raises(EnsembleError, match=r"turned 3 channel\(s\) into 1; .* bursts with a frame axis"):
            replace(mean, frame_axis=None, channel_axis=0)(np.ones((3, 16, 16)))
