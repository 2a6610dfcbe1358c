"""Published architectures through the installed spandrel."""

from __future__ import annotations

import importlib
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import load_spandrel

try:
    import spandrel
except Exception as error:  # torchvision fails if it does not match torch
    pytest.skip(f"the extra spandrel is absent or does not start: {error}", allow_module_level=True)

# Warnings of the architectures' own code.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
]

NETWORKS = {
    "DnCNN": (1, {"nc": 16, "nb": 5}),
    "NAFNet": (3, {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}),
    "SwinIR": (
        1,
        {"img_size": 64, "in_chans": 1, "depths": [2], "embed_dim": 12, "num_heads": [2], "window_size": 8}
        | {"mlp_ratio": 2, "upsampler": ""},
    ),
    "Restormer": (3, {"dim": 8, "num_blocks": [1] * 4, "num_refinement_blocks": 1, "heads": [1] * 4}),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_results_equal_those_of_spandrel(tmp_path, name, suffix):
    channels, settings = NETWORKS[name]
    package = "spandrel"
    if name == "Restormer":
        package = pytest.importorskip("spandrel_extra_arches").__name__
    torch.manual_seed(0)
    network = getattr(importlib.import_module(f"{package}.architectures.{name}"), name)(**settings)
    path = tmp_path / f"own{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    image = np.random.default_rng(0).random((40, 52, channels)).astype(np.float32)
    restorer = load_spandrel(path, device="cpu", data_range=(0, 1), channel_axis=-1)
    found = spandrel.ModelLoader(device="cpu").load_from_file(path).eval()
    with torch.no_grad():
        expected = found(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(restorer(image), expected, atol=1e-6)
    assert restorer.name == f"{name}, own"


def test_networks_that_enlarge(tmp_path):
    from spandrel.architectures.ESRGAN import ESRGAN

    network = ESRGAN(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=4)
    torch.save(network.state_dict(), tmp_path / "x4.pth")
    restorer = load_spandrel(tmp_path / "x4.pth", device="cpu", data_range=(0, 1), channel_axis=-1)
    assert restorer.scale == 4
    image = np.random.default_rng(0).random((20, 24, 3)).astype(np.float32)
    with torch.no_grad():
        found = spandrel.ModelLoader(device="cpu").load_from_file(tmp_path / "x4.pth").eval()
        expected = found(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(restorer(image), expected.numpy(), atol=1e-5)


class Owned:
    def __init__(self, trace) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_pickles_are_not_run(tmp_path):
    torch.save({"weight": Owned(tmp_path / "trace")}, tmp_path / "a.pth")
    with pytest.raises(EnsembleError, match="cannot be read by spandrel"):
        load_spandrel(tmp_path / "a.pth")
    assert not (tmp_path / "trace").exists()


def test_an_unknown_architecture_is_refused(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(EnsembleError, match="that spandrel does not support"):
        load_spandrel(tmp_path / "a.safetensors")
