"""bioimage.io packages with TorchScript or ONNX weights, and packages that are refused."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zipfile
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import yaml
from onnx.external_data_helper import set_external_data
from torch import nn
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.files.yaml_text import parse_yaml
from napari_ensir.restorers import open_restorer, with_channel_axis
from tests.helpers.careamics_files import configuration, network_of, write_package, write_zip
from tests.helpers.onnx_models import mean_model, scaling_model


class Fixed(nn.Module):
    """2 x + 1, for one shape only."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if list(x.shape) != self.shape:
            raise RuntimeError("wrong shape")
        return 2 * x + 1


class Valid(nn.Module):
    """A mean over 5 x 5 pixels that leaves out the border."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(x, 5, stride=1)


class Spoiled(nn.Module):
    """A mean over 5 x 5 pixels whose border is wrong."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(functional.avg_pool2d(x, 5, stride=1), [2, 2, 2, 2], value=1e6)


class Enlarge(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, scale_factor=2.0)


def script_of(network: nn.Module) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(network), stream)
    return stream.getvalue()


KINDS = {"b": "batch", "c": "channel"}


def axes_of(order: str, sizes: dict[str, object], **more: object) -> list[dict[str, object]]:
    """Axes in format 0.5."""
    found = []
    for letter in order:
        axis: dict[str, object] = {"type": KINDS.get(letter, "space")}
        if letter == "c":
            axis["channel_names"] = [f"c{n}" for n in range(int(sizes["c"]))]
        elif letter != "b":
            axis |= {"id": letter, "size": sizes[letter]} | more
        found.append(axis)
    return found


def package(
    tmp_path,
    network: nn.Module | bytes,
    taken: dict,
    given: dict,
    version: str = "0.5.3",
    files: Mapping = {},
):
    """A package with TorchScript weights, or with ONNX weights if the network is given as bytes."""
    kind, content = ("onnx", network) if isinstance(network, bytes) else ("torchscript", script_of(network))
    weights = {kind: {"source": "weights/w", "sha256": hashlib.sha256(content).hexdigest()}}
    rdf = {
        "type": "model",
        "format_version": version,
        "inputs": [taken],
        "outputs": [given],
        "weights": weights,
    }
    files = {"rdf.yaml": yaml.safe_dump(rdf).encode(), "weights/w": content} | dict(files)
    return write_zip(tmp_path / "a.zip", files)


SIZES = {"b": 1, "c": 2, "z": 8, "y": 16, "x": 24}


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
@pytest.mark.parametrize("version", ["0.4.10", "0.5.3"])
@pytest.mark.parametrize("order", ["bcyx", "byxc", "xybc", "cyx", "yx", "bczyx", "bzyxc", "zyx"])
def test_axes_can_have_any_order(tmp_path, order, version, kind):
    shape = [SIZES[letter] for letter in order]
    old = {"axes": order, "shape": shape}
    described = old if version[:3] == "0.4" else {"axes": axes_of(order, SIZES)}
    network = Fixed(shape) if kind == "torchscript" else scaling_model(2, shape)
    path = package(tmp_path, network, described, described, version)
    channels = (2,) if "c" in order else ()
    image = np.random.default_rng(0).normal(500, 100, (*channels, *((12,) if "z" in order else ()), 37, 50))
    restorer = with_channel_axis(open_restorer(path, device="cpu"), 0 if channels else None)
    np.testing.assert_allclose(restorer(image), 2 * image + (kind == "torchscript"), rtol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (20, 50), (100, 75), (5, 3)])
@pytest.mark.parametrize("kind", ["halo", "offset", "offset onnx", "halo 0.4", "offset 0.4"])
def test_halos_and_missing_borders_are_handled(tmp_path, kind, shape):
    refer = {"tensor_id": "in", "axis_id": "x"}
    network: nn.Module | bytes = Spoiled() if "halo" in kind else Valid()
    if "onnx" in kind:
        network = mean_model(("b", 1, "h", "w"), side=5, valid=True).SerializeToString()
    if "0.4" in kind:
        version = "0.4.9"
        taken = {"name": "in", "axes": "bcyx", "shape": {"min": [1, 1, 16, 16], "step": [0, 0, 16, 16]}}
        offset = 0 if "halo" in kind else -2
        size = {"reference_tensor": "in", "scale": [1, 1, 1, 1], "offset": [0, 0, offset, offset]}
        given = {"axes": "bcyx", "shape": size}
        if "halo" in kind:
            given["halo"] = [0, 0, 2, 2]
    else:
        version = "0.5.3"
        free = {"min": 16, "step": 16}
        taken = {"id": "in", "axes": axes_of("bcyx", {"c": 1, "y": free, "x": free})}
        size = refer | {"offset": 0 if "halo" in kind else -4}
        more = {"halo": 2} if "halo" in kind else {}
        given = {"axes": axes_of("bcyx", {"c": 1, "y": size, "x": size}, **more)}
    image = np.random.default_rng(0).normal(500, 100, shape)
    restorer = open_restorer(package(tmp_path, network, taken, given, version), device="cpu")
    restored = restorer(image)
    padded = np.pad(image, 2, mode="symmetric")
    expected = np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).mean(axis=(2, 3))
    np.testing.assert_allclose(restored, expected, rtol=1e-5)


@pytest.mark.parametrize("version", ["0.4.10", "0.5.3"])
def test_packages_can_enlarge(tmp_path, version):
    if version[:3] == "0.4":
        size = {"reference_tensor": "in", "scale": [1, 1, 2, 2], "offset": [0, 0, 0, 0]}
        taken, given = (
            {"name": "in", "axes": "bcyx", "shape": [1, 1, 16, 16]},
            {"axes": "bcyx", "shape": size},
        )
    else:
        taken = {"id": "in", "axes": axes_of("bcyx", {"c": 1, "y": 16, "x": 16}, scale=1.0)}
        size = {"tensor_id": "in", "axis_id": "x"}
        given = {"axes": axes_of("bcyx", {"c": 1, "y": size, "x": size}, scale=0.5)}
    restorer = open_restorer(package(tmp_path, Enlarge(), taken, given, version), device="cpu")
    assert restorer.scale == 2
    image = np.random.default_rng(0).normal(500, 100, (20, 30))
    np.testing.assert_allclose(restorer(image), np.kron(image, np.ones((2, 2))), rtol=1e-5)


def test_intensities_are_processed_as_described(tmp_path):
    before = [
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        {"id": "fixed_zero_mean_unit_variance", "kwargs": {"mean": 100.0, "std": 50.0}},
    ]
    after = [
        {"id": "scale_linear", "kwargs": {"gain": 50, "offset": 10}},
        {"id": "clip", "kwargs": {"min": 0, "max": 900}},
    ]
    axes = axes_of("bcyx", {"c": 1, "y": 16, "x": 16})
    taken, given = {"axes": axes, "preprocessing": before}, {"axes": axes, "postprocessing": after}
    image = np.random.default_rng(0).normal(300, 100, (16, 16))
    restored = open_restorer(package(tmp_path, Fixed([1, 1, 16, 16]), taken, given), device="cpu")(image)
    np.testing.assert_allclose(restored, np.clip((2 * (image - 100) / 50 + 1) * 50 + 10, 0, 900), rtol=1e-4)


PLAIN = {"axes": axes_of("bcyx", {"c": 1, "y": 16, "x": 16})}


@pytest.mark.parametrize(
    ("taken", "given", "message"),
    [
        (
            {"preprocessing": [{"id": "zero_mean_unit_variance", "kwargs": {}}]},
            {},
            "'zero_mean_unit_variance'",
        ),
        ({"preprocessing": [{"id": "mine", "source": "mine.py"}]}, {}, "processes intensities with 'mine'"),
        ({}, {"postprocessing": [{"id": "binarize", "kwargs": {"threshold": 1}}]}, "'binarize'"),
        ({"preprocessing": "none"}, {}, "a list is needed"),
        (
            {"preprocessing": [{"id": "scale_linear", "kwargs": {"gain": [1, 2, 3]}}]},
            {},
            "one finite number is needed",
        ),
        ({"preprocessing": [{"id": "scale_linear", "kwargs": {"gain": "much"}}]}, {}, "numbers are needed"),
        ({"axes": axes_of("bcyx", {"c": 2, "y": 16, "x": 16})}, {}, "2 channels into 1"),
        ({"axes": axes_of("bcyx", {"c": 1, "y": 10**9, "x": 16})}, {}, "pixels"),
        ({"axes": axes_of("bcyx", {"c": 1, "y": -16, "x": 16})}, {}, "whole numbers"),
        ({"axes": axes_of("bcyx", {"c": 1, "y": {"min": 1, "step": "a"}, "x": 16})}, {}, "whole numbers"),
        ({"axes": axes_of("bcx", {"c": 1, "x": 16})}, {}, "rows and columns"),
        ({"axes": [{"type": "time", "size": 3}, *axes_of("yx", {"y": 16, "x": 16})]}, {}, "time"),
        ({"axes": "bcyx" * 9}, {}, "has the axes"),
        ({}, {"axes": axes_of("bcyx", {"c": 1, "y": 16, "x": 24})}, "scales images by"),
        ({}, {"axes": axes_of("bcyx", {"c": 1, "y": 16, "x": 16}, halo=8)}, "leaves nothing"),
        ({}, {"axes": axes_of("bcyx", {"c": 1, "y": 16, "x": 16}, halo=-1)}, "whole numbers"),
        ({}, {"axes": axes_of("bcyx", {"c": 1, "y": 32, "x": 16})}, "equally"),
    ],
)
def test_unsupported_descriptions_are_refused(tmp_path, taken, given, message):
    path = package(tmp_path, Fixed([1, 1, 16, 16]), PLAIN | taken, PLAIN | given)
    with pytest.raises(EnsembleError, match=message) as caught:
        open_restorer(path, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_network_that_differs_from_its_description_is_refused(tmp_path):
    path = package(tmp_path, Fixed([1, 1, 16, 32]), PLAIN, PLAIN)
    with pytest.raises(EnsembleError, match="cannot be applied to tiles"):
        open_restorer(path, device="cpu")(np.zeros((16, 16)))


def onnx_package_with_external_data(folder, location: str):
    network = mean_model((1, 1, 16, 16))
    tensor = network.graph.initializer[0]
    data = {"weights/kernel.data": tensor.raw_data}
    set_external_data(tensor, location, offset=0, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")
    return package(folder, network.SerializeToString(), PLAIN, PLAIN, files=data)


def test_onnx_weights_may_be_in_another_file_of_the_package(tmp_path):
    path = onnx_package_with_external_data(tmp_path, "kernel.data")
    restored = open_restorer(path, device="cpu")(np.full((16, 16), 9.0))
    np.testing.assert_allclose(restored[1:-1, 1:-1], 9, rtol=1e-5)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("absent.data", "contains no 'weights/absent.data'"),
        ("../weights/kernel.data", "only files in its own folder are read"),
        ("/etc/passwd", "only files in its own folder are read"),
    ],
)
def test_onnx_weights_outside_of_the_package_are_refused(tmp_path, location, message):
    with pytest.raises(EnsembleError, match=message):
        open_restorer(onnx_package_with_external_data(tmp_path, location), device="cpu")


def weights(**entries: object):
    return lambda rdf, files: rdf.update(weights=entries)


def architecture(**entries: object):
    return lambda rdf, files: rdf["weights"]["pytorch_state_dict"].update(entries)


CASES = {
    "TensorFlow": (
        weights(tensorflow_saved_model_bundle={"source": "a.zip"}),
        "contains 'tensorflow_saved_model_bundle';",
    ),
    "Keras and TensorFlow": (
        weights(keras_hdf5={}, tensorflow_js={}),
        "contains 'keras_hdf5', 'tensorflow_js';",
    ),
    "nothing": (weights(), "contains no weights"),
    "code": (
        architecture(architecture={"callable": "Net", "source": "net.py"}),
        "code in 'net.py', which is not",
    ),
    "library": (
        architecture(
            architecture={"callable": "Popen", "import_from": "subprocess", "kwargs": {"args": "ls"}}
        ),
        "'Popen' of 'subprocess', which is not run",
    ),
    "careamics' other": (
        architecture(architecture={"callable": "LVAE", "import_from": "careamics.models.unet"}),
        "'LVAE' of 'careamics.models.unet'",
    ),
    "0.4 code": (architecture(architecture="net.py:UNet"), "'net.py:UNet'"),
    "absent weights": (architecture(source="other.pth", sha256=None), "contains no 'other.pth'"),
    "weights elsewhere": (architecture(source="https://example.org/w.pth"), "is not in it"),
    "weights outside": (architecture(source="../../etc/passwd"), "contains no '../../etc/passwd'"),
    "other weights": (architecture(sha256="0" * 64), "not the file that rdf.yaml describes"),
    "a list as source": (architecture(source=["a"]), "a list; text is needed"),
    "no settings": (lambda rdf, files: files.pop("careamics.yaml"), "contains no careamics.yaml"),
    "other settings": (
        architecture(
            architecture={"callable": "UNet", "import_from": "careamics.models.unet", "kwargs": {"depth": 3}}
        ),
        "differ in the network's 'depth'",
    ),
    "other statistics": (
        lambda rdf, files: rdf["inputs"][0].update(
            preprocessing=[{"id": "fixed_zero_mean_unit_variance", "kwargs": {"mean": 0, "std": 20}}]
        ),
        "differ in how intensities",
    ),
    "other type": (lambda rdf, files: rdf.update(type="dataset"), "of type 'dataset', not a model"),
    "old format": (lambda rdf, files: rdf.update(format_version="0.3.2"), "format version '0.3.2'"),
    "settings of text": (lambda rdf, files: files.update({"careamics.yaml": b"text"}), "not a mapping"),
    "settings not UTF-8": (
        lambda rdf, files: files.update({"careamics.yaml": b"\xff\xfe"}),
        "cannot be read",
    ),
    "settings that ask for objects": (
        lambda rdf, files: files.update({"careamics.yaml": b"a: !!python/object/apply:os.system [ls]"}),
        "could not determine a constructor",
    ),
    "path": (lambda rdf, files: files.update({"../a": b""}), "leads out of the package"),
    "absolute path": (lambda rdf, files: files.update({"/a": b""}), "leads out of the package"),
    "drive": (lambda rdf, files: files.update({"C:a": b""}), "leads out of the package"),
    "duplicate names": (lambda rdf, files: files.update({"RDF.yaml": b""}), "two files of one name"),
    "many files": (
        lambda rdf, files: files.update({f"{n}": b"" for n in range(1001)}),
        "more than 1000 files",
    ),
    "bomb": (lambda rdf, files: files.update({"careamics.yaml": bytes(2**26)}), "64 MB uncompressed"),
    "long settings": (lambda rdf, files: files.update({"careamics.yaml": b"a: 1\n#" + bytes(2**21)}), "1 MB"),
    "weights of code": (
        lambda rdf, files: (files.update({"weights.pth": pickled()}), architecture(sha256=None)(rdf, files)),
        "more than tensors",
    ),
    "no weights at all": (
        lambda rdf, files: (files.update({"weights.pth": b"PK"}), architecture(sha256=None)(rdf, files)),
        "is not an archive of torch",
    ),
}


class Runs:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def pickled() -> bytes:
    stream = io.BytesIO()
    torch.save({"final_conv.bias": Runs()}, stream)
    return stream.getvalue()


@pytest.mark.parametrize("case", list(CASES))
def test_packages_that_are_refused(tmp_path, case):
    change, message = CASES[case]
    network = network_of(depth=1)
    path = write_package(tmp_path / "a.zip", network, configuration(network), change)
    with pytest.raises(EnsembleError, match=message) as caught:
        open_restorer(path, device="cpu")
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.zip"]


def test_files_that_are_not_packages_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"nothing")
    with pytest.raises(EnsembleError, match="cannot be read as a ZIP"):
        open_restorer(tmp_path / "a.zip")
    write_zip(tmp_path / "a.zip", {"a.txt": b""})
    with pytest.raises(EnsembleError, match=r"contains no rdf\.yaml"):
        open_restorer(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b"a: &a [1, 1]\nb: &b [*a, *a]\n"
            + b"".join(
                b"%c: &%c [%s]\n" % (n, n, b", ".join([b"*%c" % (n - 1)] * 9)) for n in range(99, 112)
            ),
            "too large",
        ),
        (b"a: &a\n  b: *a", "contains itself"),
        (b"[" * 1000 + b"]" * 1000, "nested too deeply"),
        (b"a: 1\na: 2", "twice"),
        (b"a: &b {c: 1}\nd:\n  <<: *b", "twice"),
        (b"a: [1", "expected"),
        (b"1: 2", "not a mapping of names"),
    ],
)
def test_invalid_yaml_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def test_yaml_of_too_many_values_is_refused(monkeypatch):
    monkeypatch.setattr("napari_ensir.files.yaml_text._MAX_VALUES", 500)
    assert parse_yaml(b"a: [" + b"1," * 490 + b"]")
    with pytest.raises(ValueError, match="too large"):
        parse_yaml(b"a: [" + b"1," * 600 + b"]")


def test_yaml_can_have_aliases():
    assert parse_yaml(b"a: &a [1, 2]\nb: *a") == {"a": [1, 2], "b": [1, 2]}


def test_an_understated_size_in_the_archive_is_refused(tmp_path):
    network = network_of(depth=1)
    path = write_package(tmp_path / "a.zip", network, configuration(network))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("weights.pth")
    at = content.rindex(b"weights.pth") - 46 + 24  # in the central directory
    content[at : at + 4] = struct.pack("<I", info.file_size // 2)
    path.write_bytes(content)
    with pytest.raises(EnsembleError):
        open_restorer(path, device="cpu")
