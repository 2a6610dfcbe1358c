from __future__ import annotations

import io
import json
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
from napari_ensir.restorers import load_network, load_spandrel
from napari_ensir.restorers.networks.external import OwnNetwork
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


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "dim.pt2"
    dim = torch.export.Dim
    shapes = {0: dim("batch", min=1, max=64), 2: dim("rows", min=8), 3: dim("columns", min=8)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            nn.Sequential(nn.Conv2d(1, 1, 1), Dim()), (torch.zeros(2, 1, 16, 16),), dynamic_shapes=(shapes,)
        )
        torch.export.save(program, path)
    return path


def test_exports_of_an_old_torch_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        for name in ("exported_program.json", "state_dict.pt", "constants.pt", "example_inputs.pt"):
            archive.writestr(f"serialized_{name}", b"")
        archive.writestr("version", "5.1")
    with pytest.raises(EnsembleError, match=r"export it again with 2\.8 or later"):
        load_network(tmp_path / "old.pt2")


def rewritten(source: Path, target: Path, member: str, change) -> Path:
    """A copy of an archive with one member changed, or added."""
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


def test_torch_export_is_applied_in_tiles(exported):
    image = np.random.default_rng(0).random((30, 44)).astype(np.float32)
    network = load_network(exported, tiles=Tiles(size=24, overlap=8), data_range=(0.0, 1.0), device="cpu")
    state = network.network.state_dict()
    expected = 0.5 * (image * state["0.weight"].item() + state["0.bias"].item())
    np.testing.assert_allclose(network(image), expected, atol=1e-5)


def test_weights_in_the_form_of_torch_2_8(exported, tmp_path):
    """A pickle of tensors, as every export had until 2.9: read as tensors, and written anew."""
    stream = io.BytesIO()
    weights = {"0.weight": torch.full((1, 1, 1, 1), 3.0), "0.bias": torch.zeros(1)}
    torch.save({name: nn.Parameter(each) for name, each in weights.items()}, stream)
    path = rewritten(exported, tmp_path / "a.pt2", "data/weights/model.pt", lambda _: stream.getvalue())
    image = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    network = load_network(path, data_range=(0.0, 1.0), device="cpu")
    np.testing.assert_allclose(network(image), 1.5 * image, atol=1e-5)


class Halving(nn.Module):
    """As U-Nets do: half the size, and back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = nn.functional.max_pool2d(x, 2)
        back = nn.functional.interpolate(half, scale_factor=2)
        return torch.cat([x, back], 1).mean(1, keepdim=True)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("automatic", [False, True])
def test_an_export_with_guards_on_its_sizes(tmp_path, strict, automatic):
    dim, auto = torch.export.Dim, torch.export.Dim.AUTO
    even = {0: dim("b", max=64), 2: 2 * dim("h", min=4), 3: 2 * dim("w", min=4)}
    shapes = {0: auto, 2: auto, 3: auto} if automatic else even
    example = (torch.zeros(2, 1, 16, 24),)
    program = torch.export.export(Halving(), example, dynamic_shapes=(shapes,), strict=strict)
    torch.export.save(program, tmp_path / "halving.pt2")
    with zipfile.ZipFile(tmp_path / "halving.pt2") as archive:
        (model,) = (name for name in archive.namelist() if name.endswith("models/model.json"))
        assert json.loads(archive.read(model))["guards_code"]
    network = load_network(tmp_path / "halving.pt2", intensities="raw", device="cpu")
    image = np.random.default_rng(0).random((40, 56)).astype(np.float32)
    expected = Halving()(torch.from_numpy(image)[None, None])[0, 0]
    np.testing.assert_allclose(network(image), expected, atol=1e-6)
    # The guards are still there, to refuse what the network was not exported for.
    with pytest.raises(EnsembleError, match="cannot be applied to tiles"):
        replace(network, sides=1, tiles=Tiles(size=33, overlap=0))(image)


def test_a_network_for_raw_intensities_gets_them():
    image = np.random.default_rng(0).integers(300, 3000, (16, 16)).astype(np.uint16)
    network = OwnNetwork(network=lambda x: x - 100, label="background", sides=1, device="cpu")
    np.testing.assert_allclose(replace(network, intensities="raw")(image), image - 100.0, atol=1e-3)
    assert abs(network(image).mean() - image.mean()) > 1e5  # of 0..1, 100 is a great deal
    by_hand = replace(network, data_range=(0.0, 100.0))
    np.testing.assert_allclose(by_hand(image), image - 100 * 100.0, rtol=1e-5)
    with pytest.raises(EnsembleError, match=r"background: intensities is 'words'; use one of"):
        replace(network, intensities="words")(image)


class Bomb:
    """What a hostile pickle does: run something when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("form", ["torch", "pickle", "weights", "nothing"])
def test_pickles_and_other_files_are_refused_and_nothing_of_them_runs(form, tmp_path):
    path, trace = tmp_path / "network.pt", tmp_path / "it ran"
    if form == "torch":
        torch.save({"a": Bomb(trace)}, path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(trace)))
    elif form == "weights":
        torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(EnsembleError, match=r"no TorchScript and no torch\.export|there is no file"):
        load_network(path)
    assert not trace.exists()


def hostile(trace: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"a": Bomb(trace)}, stream)
    return stream.getvalue()


def test_hostile_exports_are_refused_and_nothing_of_them_runs(exported, tmp_path):
    trace = tmp_path / "it ran"

    def graph(key: str, value: object):
        def change(content: bytes) -> bytes:
            return json.dumps(json.loads(content) | {"extra": {key: value}}).encode()

        return change

    def signature(key: str, value: object):
        def change(content: bytes) -> bytes:
            program = json.loads(content)
            program["graph_module"]["module_call_graph"][0]["signature"][key] = value
            return json.dumps(program).encode()

        return change

    def named(word: str):  # the name of an input goes into the text of a function, which is then run
        return signature("forward_arg_names", [word])

    def structured(kind: str, context: str):  # reading it may import a module of any name
        return signature("in_spec", json.dumps([1, {"type": kind, "context": context, "children_spec": []}]))

    evil = f"__import__('pathlib').Path('{trace}').touch()"
    cases = [
        ("data/sample_inputs/model.pt", lambda _: hostile(trace), "more than tensors"),
        (
            "data/weights/model_weights_config.json",  # torch 2.8 writes none, and 2.13 one like this
            lambda _: b'{"config": {"a": {"path_name": "weight_0", "use_pickle": true}}}',
            "refers to a pickle",
        ),
        (
            "data/constants/model_constants_config.json",
            lambda _: b'{"config": {"a": {"path_name": "opaque_obj_0"}}}',
            "refers to a pickle",
        ),
        ("data/weights/model.pt", lambda _: hostile(trace), "more than tensors"),
        ("data/aotinductor/model/a.so", lambda _: b"", "compiled code"),
        ("models/model.json", graph("expr_str", evil), "no plain expression"),
        ("models/model.json", graph("expr_str", "Symbol.__class__"), "no plain expression"),
        ("models/model.json", graph("expr_str", "Add(breakpoint(), 1)"), "no plain expression"),
        ("models/model.json", graph("target", "os.system"), "only operators of ATen"),
        ("models/model.json", graph("guards_code", [evil]), "more than arithmetic on the sizes"),
        ("models/model.json", graph("guards_code", ["L['x'].size()[2] == 9**9**9"]), "more than arithmetic"),
        ("models/model.json", graph("guards_code", ["L['x'].sum() > 0"]), "more than arithmetic"),
        ("models/model.json", graph("guards_code", ["L['a b'].size()[0] > 0"]), "more than arithmetic"),
        ("models/model.json", graph("target", "_operator.methodcaller"), "only operators of ATen"),
        ("models/model.json", graph("target", "torch.ops.aten.from_file.default"), "only operators of ATen"),
        ("models/model.json", graph("expr_str", "Pow(Integer(9), Pow(9, 99))"), "no plain expression"),
        ("models/model.json", graph("expr_str", "'s0'*9"), "no plain expression"),
        ("models/model.json", graph("as_string", "a\\nb"), "no plain network needs"),
        ("models/model.json", named(f'x={evil}):\n    """#'), "where a plain name should stand"),
        ("models/model.json", structured("builtins.tuple", '{"__enum__": 1, "fqn": "this:a"}'), "structure"),
        ("models/model.json", structured("collections.defaultdict", "[]"), "no plain structure"),
        ("models/model.json", structured("builtins.dict", json.dumps([evil])), "no plain structure"),
        ("models/model.json", lambda _: b"not JSON", "is no TorchScript"),
    ]
    for number, (member, change, message) in enumerate(cases):
        path = rewritten(exported, tmp_path / f"{number}.pt2", member, change)
        with pytest.raises(EnsembleError, match=message):
            load_network(path)
    assert not trace.exists()


def test_torchscript_that_runs_as_it_loads_is_refused(scripted, tmp_path):
    path = rewritten(scripted, tmp_path / "a.pt", "code/__torch__/b.py", lambda _: b"def __setstate__(self):")
    with pytest.raises(EnsembleError, match="__setstate__"):
        load_network(path)


def test_networks_that_do_not_fit_are_refused_in_a_sentence():
    image = np.zeros((16, 16))
    for network, message in (
        (lambda x: x.repeat(1, 3, 1, 1), "turned 1 channel"),
        (lambda x: x[..., ::2, ::2], "keep the size"),
        (nn.Conv2d(3, 3, 1), "cannot be applied"),
        (lambda x: x * torch.nan, "not finite"),
    ):
        with pytest.raises(EnsembleError, match=message):
            OwnNetwork(network=network, label="own", device="cpu")(image)


def fake_spandrel(monkeypatch, **settings: object) -> None:
    """Stands in for the extra: the parts of its interface that are used."""
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
            weights = torch.load(
                path, weights_only=False
            )  # as spandrel's own unpickler, which asks torch too
            if "unknown" in weights:
                raise UnsupportedModelError
            if "broken" in weights:
                raise ValueError("bad shape")
            return ImageModelDescriptor()

    module.ImageModelDescriptor, module.ModelLoader = ImageModelDescriptor, ModelLoader
    module.UnsupportedModelError = UnsupportedModelError
    monkeypatch.setitem(sys.modules, "spandrel", module)


def published(path: Path) -> Path:
    """A file of weights; the stand-in for spandrel goes by the one name in it."""
    torch.save({path.stem: torch.zeros(1)}, path)
    return path


def test_spandrels_networks_restore(monkeypatch, tmp_path):
    fake_spandrel(monkeypatch)
    network = load_spandrel(published(tmp_path / "gopro.pth"), device="cpu")
    assert network.name == "NAFNet, gopro"
    image = np.random.default_rng(0).random((20, 30))
    np.testing.assert_allclose(network(image), 0.5 * (image + image.min()), atol=1e-6)


def test_spandrels_networks_that_enlarge_say_how_much(monkeypatch, tmp_path):
    fake_spandrel(monkeypatch, scale=4)
    assert load_spandrel(published(tmp_path / "a.pth")).scale == 4


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("unknown.pth", {}, "does not know"),
        ("broken.pth", {}, "bad shape"),
        ("a.pt", {}, "spandrel is given"),
        ("a.pth", {"output_channels": 3}, "1 channels into 3"),
    ],
)
def test_what_spandrel_cannot_do_is_said(monkeypatch, tmp_path, path, settings, message):
    fake_spandrel(monkeypatch, **settings)
    with pytest.raises(EnsembleError, match=message):
        load_spandrel(published(tmp_path / path))


class Writes(nn.Module):
    """Runs as it is loaded."""

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


def test_torchscript_named_as_weights_does_not_run(monkeypatch, tmp_path):
    """Asked to load a pickle, torch runs what looks like TorchScript."""
    fake_spandrel(monkeypatch)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Writes()).save(str(tmp_path / "a.pth"))
        with pytest.raises(EnsembleError, match="cannot be read by spandrel"):
            load_spandrel(tmp_path / "a.pth")
    assert not (tmp_path / "it_ran").exists()


def test_names_in_other_letters_are_refused(scripted, exported, tmp_path):
    """Torch looks names up without regard to case; what is checked is exact."""
    for source, member in ((scripted, "code/__torch__/b.PY"), (exported, "data/sample_inputs/model.PT")):
        path = rewritten(source, tmp_path / f"a{source.suffix}", member, lambda _: b"__setstate__")
        with pytest.raises(EnsembleError, match=r"two files of one name|in other letters"):
            load_network(path)


def test_spandrel_beside_another_torchvision_is_said(monkeypatch, tmp_path):
    (tmp_path / "spandrel.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnsembleError, match=r"nms does not exist.*install both from one place"):
        load_spandrel("a.safetensors")


def test_without_spandrel_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(EnsembleError, match=r'pip install "napari-ensir\[spandrel\]"'):
        load_spandrel("a.safetensors")
