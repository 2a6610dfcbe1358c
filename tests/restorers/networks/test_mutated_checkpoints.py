"""Mutated checkpoints are loaded with finite weights or refused with an EnsembleError."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import CLASSICAL, load_restorer
from napari_ensir.restorers.formats.open import open_restorer
from napari_ensir.restorers.networks.checkpoint import read_checkpoint, write_checkpoint
from napari_ensir.restorers.training.dp_ir import DPIR, FusionModel, FusionSettings
from napari_ensir.restorers.training.models import NetworkShape, Regression, RegressionModel
from napari_ensir.restorers.training.trainer import Trainer

MUTATIONS = int(os.environ.get("NAPARI_ENSIR_MUTATIONS", "200"))
WEIRD = (
    *(
        None,
        True,
        -1,
        0,
        1,
        3,
        8,
        10**6,
        2**64,
        1e308,
        0.5,
        "",
        "dp-ir",
        "regression",
        "ir-cm",
        "\ud800",
        [],
        {},
    ),
    *(
        [0, 1],
        [1, 0],
        [0, 10**400],
        {"kind": "other"},
        {"kind": "classical", "method": "median", "settings": {}},
    ),
    *(float("nan"), "A" * 5000, "F16", "F64", "I64", "F8_E4M3", "BOOL", [2**62, 2**62], [10**9]),
)


@pytest.fixture
def checkpoints(pairs, brief, tmp_path):
    """A checkpoint of a plain network, and one of a restorer that contains another."""
    model = RegressionModel(NetworkShape(channels=3, width=4, depth=1))
    Trainer(Regression(model=model), pairs, brief, device="cpu").save(tmp_path / "a.safetensors")
    fusion = FusionModel.for_denoiser(None, FusionSettings(channels=3, width=4, latest=20))
    dp_ir = DPIR(model=fusion, ir=CLASSICAL["median"]())
    Trainer(dp_ir, pairs, brief, device="cpu").save(tmp_path / "b.safetensors")
    return [(tmp_path / f"{name}.safetensors").read_bytes() for name in "ab"]


def parts(content):
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def whole(header, body):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + body


def mutated(rng, content):
    pick = lambda things: things[int(rng.integers(len(things)))]  # noqa: E731
    header, body = parts(content)
    kind = rng.integers(6)
    changed = bytearray(content)
    if kind == 0:
        return content[: rng.integers(len(content))]
    if kind == 1:
        for place in rng.integers(0, len(content) - len(body), 3):
            changed[place] ^= 1 << rng.integers(8)
        return bytes(changed)
    if kind == 2:
        changed[-int(rng.integers(4, len(body))) :][:4] = b"\0\0\xc0\x7f"
        at = len(content) - 4 * int(rng.integers(1, len(body) // 4))
        changed[at : at + 4] = b"\0\0\xc0\x7f"
        return bytes(changed)
    if kind == 3:
        header[pick([*header])][pick(["dtype", "shape", "data_offsets", "kind"])] = pick(WEIRD)
        return whole(header, body)
    inner = json.loads(header["__metadata__"]["napari_ensir"])
    target = inner
    while kind == 5 and (deeper := [each for each in target.values() if isinstance(each, dict) and each]):
        target = pick(deeper)
    target[pick([*target, "more"])] = pick(WEIRD)
    header["__metadata__"]["napari_ensir"] = json.dumps(inner)
    return whole(header, body)


def test_mutated_checkpoints(checkpoints, tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "mutated.safetensors"
    loaded = refused = 0
    messages = []
    for number in range(MUTATIONS):
        path.write_bytes(mutated(rng, checkpoints[number % 2]))
        try:
            restorer = load_restorer(path, device="cpu")
        except EnsembleError as error:
            refused += 1
            messages.append(str(error))
        else:
            loaded += 1
            for each in restorer.model.state_dict().values():
                assert torch.isfinite(each).all()
    assert [text for text in messages if "mutated" not in text or len(text) > 1500] == []
    assert loaded > MUTATIONS / 40
    assert refused > MUTATIONS / 2


def test_oversized_headers_are_refused(checkpoints, tmp_path):
    header, body = parts(checkpoints[0])
    inner = header["__metadata__"]["napari_ensir"]
    path = tmp_path / "bomb.safetensors"
    for content in (
        struct.pack("<Q", 2**62) + checkpoints[0][8:],
        whole(" " * 20_000_000, b""),
        whole('{"a": [' + "[]," * 2_000_000 + "0]}", b""),
        whole(header | {"__metadata__": {"napari_ensir": "[" * 50_000}}, body),
        whole(header | {"__metadata__": {"napari_ensir": inner[:-1] + ', "step": 0}'}}, body),
        whole(
            header | {"__metadata__": {"napari_ensir": inner.replace('"step": 0', '"step": ' + "9" * 9000)}},
            body,
        ),
        b"",
    ):
        path.write_bytes(content)
        for opener in (load_restorer, open_restorer):
            with pytest.raises(EnsembleError):
                opener(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_special_files_are_refused(tmp_path):
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    (tmp_path / "dangling.pt").symlink_to("nowhere")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in [*tmp_path.iterdir(), tmp_path / ("n" * 300 + ".pt"), "~nobody-of-this-name/a.pt"]:
        for opener in (load_restorer, open_restorer):
            with pytest.raises(EnsembleError):
                opener(path)


def test_decompression_bombs_are_refused(tmp_path):
    for name, members in {
        "code.pt": {"a/constants.pkl": b"", "a/code/x.py": b"#" * 2**26},
        "many.pt": {"a/constants.pkl": b""} | {f"a/code/{n}.py": b"#" * 2**25 for n in range(5)},
    }.items():
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        with pytest.raises(EnsembleError):
            open_restorer(tmp_path / name)


def test_header_and_tensors_belong_to_the_same_file(tmp_path, monkeypatch):
    """Also if the file is replaced while it is read."""
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"model.a": torch.zeros(3)}, {"kind": "regression", "step": 1})

    def replaced(self, read=Path.read_bytes):
        content = read(self)
        write_checkpoint(path, {"model.a": torch.ones(3)}, {"kind": "regression", "step": 2})
        return content

    monkeypatch.setattr(Path, "read_bytes", replaced)
    tensors, header = read_checkpoint(path)
    assert (header["step"], tensors["model.a"].tolist()) == (1, [0, 0, 0])
    monkeypatch.undo()
    tensors, header = read_checkpoint(path)
    assert (header["step"], tensors["model.a"].tolist()) == (2, [1, 1, 1])


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"model.a": torch.zeros(3)}, {"kind": "regression"})
    before = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(EnsembleError, match="No space left on device"):
        write_checkpoint(path, {"model.a": torch.ones(3)}, {"kind": "regression"})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
