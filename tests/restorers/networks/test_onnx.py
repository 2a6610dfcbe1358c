"""ONNX networks restore in tiles, and hostile files are refused."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import load_network, open_restorer, with_channel_axis
from napari_ensir.restorers.networks.tiling import Tiles
from tests.helpers.onnx_models import FREE, mean_model, model, scaling_model

IMAGE = np.random.default_rng(0).random((50, 70)).astype(np.float32)


def mean(image):
    """What `mean_model` gives for a plane, whose border is padded with zeros by the convolution."""
    return functional.avg_pool2d(torch.from_numpy(image)[None, None], 3, 1, 1)[0, 0].numpy()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def load(folder: Path, content: bytes, **settings: object):
    return load_network(write(folder / "a.onnx", content), device="cpu", **settings)


def test_tiles_give_the_same_as_the_whole_image(tmp_path):
    restorer = load(tmp_path, mean_model().SerializeToString(), intensities="raw")
    assert restorer.name == "a"
    np.testing.assert_allclose(restorer(IMAGE)[:48, :68], mean(IMAGE)[:48, :68], atol=1e-6)
    tiled = replace(restorer, tiles=Tiles(size=24, overlap=8, batch=3))
    np.testing.assert_allclose(tiled(IMAGE), restorer(IMAGE), atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_export_of_torch_gives_the_same_as_torchscript(tmp_path):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1)]
    network = nn.Sequential(*layers, nn.PixelShuffle(2)).eval()
    example = torch.rand(1, 1, 16, 16)
    free = {"x": {0: "batch", 2: "rows", 3: "columns"}}
    path = tmp_path / "a.onnx"
    torch.onnx.export(network, (example,), path, dynamo=False, input_names=["x"], dynamic_axes=free)
    torch.jit.trace(network, example).save(tmp_path / "a.pt")
    restored, expected = (load_network(tmp_path / name, device="cpu")(IMAGE) for name in ("a.onnx", "a.pt"))
    assert restored.shape == (100, 140)
    np.testing.assert_allclose(restored, expected, atol=1e-6)


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("shape", [(50, 70), (9, 20), (16, 24)])
def test_a_fixed_input_size_is_the_size_of_the_tiles(tmp_path, batch, shape):
    restorer = load(tmp_path, mean_model((batch, 1, 16, 24)).SerializeToString(), intensities="raw")
    image = IMAGE[: shape[0], : shape[1]]
    inner = (slice(1, shape[0] - 1), slice(1, shape[1] - 1))
    np.testing.assert_allclose(restorer(image)[inner], mean(image)[inner], atol=1e-6)


def test_intensities_are_scaled_to_the_data_range_or_raw(tmp_path):
    add = helper.make_node("Add", ["x", "one"], ["y"])
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    restorer = load(tmp_path, model([add], weights=[one]).SerializeToString())
    image = np.random.default_rng(0).integers(0, 255, (16, 16)).astype(np.uint8)
    np.testing.assert_allclose(restorer(image), image + 255.0, rtol=1e-5)
    np.testing.assert_allclose(replace(restorer, intensities="raw")(image), image + 1.0, rtol=1e-5)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floating_point_types_are_converted(tmp_path, dtype):
    node = helper.make_node("Neg", ["x"], ["y"])
    restorer = load(tmp_path, model([node], dtype=dtype).SerializeToString(), intensities="raw")
    np.testing.assert_allclose(restorer(IMAGE), -IMAGE, atol=1e-3)


def test_networks_may_enlarge(tmp_path):
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    content = model([node], output=["batch", 1, None, None], weights=[scales]).SerializeToString()
    restored = load(tmp_path, content, intensities="raw")(IMAGE)
    assert restored.shape == (100, 140)


def test_channels_have_to_match(tmp_path):
    restorer = load(tmp_path, scaling_model(2, ("b", 3, None, None)))
    colour = np.stack([IMAGE] * 3)
    np.testing.assert_allclose(with_channel_axis(restorer, 0)(colour).shape, colour.shape)
    with pytest.raises(EnsembleError, match="a takes 3 colour channels and the image has 1"):
        restorer(IMAGE)
    grey = load(tmp_path, scaling_model(0.5), intensities="raw")  # goes through the channels one by one
    np.testing.assert_allclose(with_channel_axis(grey, 0)(colour), 0.5 * colour)


def test_an_onnx_file_is_detected_from_its_content(tmp_path):
    for name in ("a.onnx", "a.pth", "A.ONNX", "a"):
        path = write(tmp_path / name, scaling_model(0.5))
        np.testing.assert_allclose(open_restorer(path, device="cpu")(IMAGE).shape, IMAGE.shape)


def test_the_number_of_threads_is_that_of_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    options = load(tmp_path, scaling_model(1)).network._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


def test_without_onnxruntime_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EnsembleError, match=r'pip install "napari-ensir\[onnx\]"'):
        load(tmp_path, scaling_model(1))


# External data


def with_external_data(folder: Path, location: str, edit=lambda tensor: None) -> Path:
    """A model whose weights are in another file, which is written to `folder` as ``w.data``."""
    network = mean_model()
    tensor = network.graph.initializer[0]
    write(folder / "w.data", tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location, offset=0, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")
    edit(tensor)
    return write(folder / "a.onnx", network.SerializeToString())


@pytest.mark.parametrize("name", ["w.data", "./w.data", "sub/w.data"])
def test_weights_in_a_file_beside_the_model_are_read(tmp_path, monkeypatch, name):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")  # names are relative to the file, not to the current folder
    path = with_external_data(tmp_path, name)
    if name == "sub/w.data":
        (tmp_path / "w.data").rename(tmp_path / name)
    restorer = load_network(path, device="cpu", intensities="raw")
    np.testing.assert_allclose(restorer(IMAGE)[:48, :68], mean(IMAGE)[:48, :68], atol=1e-6)


@pytest.mark.parametrize(
    "location",
    [
        *("../w.data", "sub/../../w.data", "..", "", "/etc/passwd", "C:\\w.data", "..\\w.data", "C:w.data"),
        *("*/_ORT_MEM_ADDR_/*", "file:///etc/passwd", "w.data\0"),
    ],
)
def test_weights_outside_of_the_folder_are_refused(tmp_path, location):
    (tmp_path / "models").mkdir()
    path = with_external_data(tmp_path / "models", location)
    write(tmp_path / "w.data", bytes(36))
    with pytest.raises(EnsembleError, match="only files in its own folder are read"):
        load_network(path)


def test_links_to_weights_outside_of_the_folder_are_refused(tmp_path):
    (tmp_path / "models").mkdir()
    path = with_external_data(tmp_path / "models", "link")
    (tmp_path / "models" / "link").symlink_to(write(tmp_path / "secret", bytes(36)))
    with pytest.raises(EnsembleError, match="which is not in its folder"):
        load_network(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_weights_that_cannot_be_read_are_one_sentence(tmp_path):
    with pytest.raises(EnsembleError, match="put that file beside it"):
        load_network(with_external_data(tmp_path, "absent.data"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EnsembleError, match="which is not in its folder"):
        load_network(with_external_data(tmp_path, "pipe"))
    path = with_external_data(tmp_path, "w.data")
    write(tmp_path / "w.data", bytes(10))
    with pytest.raises(EnsembleError, match="cannot be read by onnxruntime"):
        load_network(path)


def test_a_last_location_that_is_hidden_by_another_is_found(tmp_path):
    """The protobuf format allows an entry to be repeated; every location is checked."""

    def edit(tensor):
        tensor.external_data.add(key="location", value="../w.data")

    with pytest.raises(EnsembleError, match="only files in its own folder"):
        load_network(with_external_data(tmp_path, "w.data", edit))


# Other files that are refused


def nested(node) -> bytes:
    """A model with a node in a branch of a conditional."""
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    branch = helper.make_graph([node], "branch", [], outputs)
    true = helper.make_node(
        "Constant", [], ["true"], value=helper.make_tensor("t", TensorProto.BOOL, [], [1])
    )
    choice = helper.make_node("If", ["true"], ["y"], then_branch=branch, else_branch=branch)
    return model([true, choice]).SerializeToString()


def in_function(domain: str) -> bytes:
    """A model whose own function calls an operator of a domain."""
    network = model([helper.make_node("Own", ["x"], ["y"], domain="own")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    call = helper.make_node("Relu", ["a"], ["b"], domain=domain)
    network.functions.append(
        helper.make_function("own", "Own", ["a"], ["b"], [call], opsets[: 1 + bool(domain)])
    )
    network.opset_import.append(helper.make_opsetid("own", 1))
    return network.SerializeToString()


def test_functions_of_the_model_itself_are_run(tmp_path):
    np.testing.assert_allclose(
        load(tmp_path, in_function(""), intensities="raw")(IMAGE - 0.5), (IMAGE - 0.5).clip(0)
    )


FOREIGN = helper.make_node("Relu", ["x"], ["z"], domain="evil.lib")
REFUSED = {
    "foreign operator": (
        model([helper.make_node("Relu", ["x"], ["y"], domain="evil.lib")]).SerializeToString(),
        "uses operators of 'evil.lib'; only those of the ONNX standard",
    ),
    "foreign operator in a branch": (nested(FOREIGN), "uses operators of 'evil.lib'"),
    "foreign operator in a function": (in_function("evil.lib"), "uses operators of 'evil.lib'"),
    "unknown operator": (model([helper.make_node("Evil", ["x"], ["y"])]).SerializeToString(), "for Evil"),
    "opset": (scaling_model(1, opset=99), "its opset is not supported; export it with an older opset"),
    "truncated": (scaling_model(1)[:-9], "is not an ONNX model, or it is damaged"),
    "text": (b"not a network at all", "is not an ONNX model, or it is damaged"),
    "deep": (b"\x3a\xff\xff\xff\xff\x7f", "is not an ONNX model, or it is damaged"),
    "no graph": (scaling_model(1)[:2], "cannot be read by onnxruntime: No graph was found"),
    "volumes": (
        scaling_model(1, ("b", 1, 8, 8, 8)),
        "takes an input of 5 axes; batch, channels, rows and col",
    ),
    "batch": (scaling_model(1, (3, 1, 16, 16)), "takes batches of 3; export it with a batch size of 1"),
    "channels last": (scaling_model(1, (1, 256, 256, 3)), "takes 256 channels; at most 64"),
    "small": (scaling_model(1, (1, 1, 4, 4)), "takes images of 4 x 4 pixels; at least 8 along"),
    "large": (scaling_model(1, (1, 1, 10**5, 10**5)), "takes images of 100000 x 100000 pixels"),
    "integers": (
        model([helper.make_node("Identity", ["x"], ["y"])], dtype=TensorProto.INT32).SerializeToString(),
        r"takes or returns tensor\(int32\); floating-point images are needed",
    ),
    "a constant": (
        model([helper.make_node("Constant", [], ["y"], value_floats=[1.0])], output=[1]).SerializeToString(),
        None,
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_files_that_are_refused_are_one_sentence(tmp_path, case):
    content, message = REFUSED[case]
    with pytest.raises(EnsembleError, match=message) as caught:
        load(tmp_path, content)(IMAGE)
    assert len(str(caught.value).splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


def test_two_inputs_are_refused(tmp_path):
    network = model([helper.make_node("Add", ["x", "z"], ["y"])])
    network.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, FREE))
    with pytest.raises(EnsembleError, match="has 2 inputs and 1 outputs; one of each is needed"):
        load(tmp_path, network.SerializeToString())


def test_a_network_that_fails_at_a_shape_is_one_sentence(tmp_path):
    grey = replace(load(tmp_path, scaling_model(1)), channels=0, channel_axis=0)
    with pytest.raises(
        EnsembleError, match=r"a cannot be applied to tiles of 2 channel\(s\): Got invalid dim"
    ):
        grey(np.stack([IMAGE] * 2))


def test_mutated_files_are_loaded_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    whole = np.frombuffer(mean_model().SerializeToString(), np.uint8)
    loaded = 0
    for _ in range(int(os.environ.get("NAPARI_ENSIR_MUTATIONS", "60"))):
        changed = whole.copy()
        changed[rng.integers(len(whole), size=rng.integers(1, 5))] = rng.integers(256)
        try:
            load(tmp_path, changed.tobytes())
            loaded += 1
        except EnsembleError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
    assert loaded
