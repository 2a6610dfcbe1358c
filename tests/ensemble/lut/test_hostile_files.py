"""Ten thousand mutated tables and the worst we could think of: refused at no cost, or a table that holds."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_tensors

from napari_ensir import fit_lut
from tests.helpers.images import make_image
from tests.helpers.mutated_files import packed, parts, records, whole
from tests.helpers.paths import ROOT

MUTATIONS = int(os.environ.get("NAPARI_ENSIR_MUTATIONS", "300"))


class Owned:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, (os.path.join(os.environ["OWNED"], "owned"),))


@pytest.fixture
def tables(tmp_path, rng):
    """A folder with files of every kind, whole."""
    for name, shape, m, dtype, options in [
        ("a", (30, 30, 3), 2, np.uint8, {"method": "em-released", "channel_axis": -1}),
        ("b", (30, 30), 3, np.float32, {"method": "least-squares"}),
        ("c", (30, 30), 1, np.uint16, {"bin_width": 30000}),
    ]:
        images = [make_image(rng, shape, m, dtype)]
        lut = fit_lut(images, device="cpu", **options)
        (lut.calibrated(images, device="cpu") if name == "b" else lut).save(tmp_path / name)
    pairs = {
        (a, b): [torch.tensor(rng.dirichlet([1, 1]), dtype=torch.float32) for _ in range(3)]
        for a in (0, 128)
        for b in (0, 128)
    }
    torch.save(pairs, tmp_path / "d.pth")
    torch.save({a: [torch.tensor(1.0)] * 3 for a in range(0, 256, 64)}, tmp_path / "e.pth")
    (tmp_path / "hostile").mkdir()
    return tmp_path


def programs():
    """Pickles that run code, or that unfold into more than they hold."""
    tuples = (
        b"\x80\x02}" + b"K\x01" + b"\x85" + b"".join(b"q%c%s" % (0, b"h\x00h\x00\x86") for _ in range(60))
    )
    yield "hash", tuples + b"K\x01s."
    yield "nested", b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b"."
    yield "tuples", b"\x80\x02)" + b"\x85" * 900_000 + b"."
    yield "lists", b"\x80\x02" + b"]" * 2_000_000 + b"."
    yield "zeros", b"\x80\x02cbuiltins\nbytearray\n" + b"\x8a\x05\0\0\0\0\x02" + b"\x85R."
    yield "memo", b"\x80\x02]r\xff\xff\xff\x7f."
    yield "bytes", b"\x80\x04\x8e\0\0\0\0\1\0\0\0abc."
    yield "digits", b"\x80\x02L" + b"9" * 1_000_000 + b"L\n."
    yield "long", b"\x80\x02\x8b\0\0\x10\0" + b"\xff" * 2**20 + b"."
    yield "escapes", b"\x80\x02c\\d\n\\q\n."
    shared = b"](" + b"h\x00" * 100_000 + b"eq\x01"
    rows = b"".join(b"J%sh\x01" % struct.pack("<i", n) for n in range(50_000))
    yield "square", b"\x80\x02K\x01q\x000}(K\x00" + shared + rows + b"u."
    for protocol in range(6):
        yield f"code{protocol}", pickle.dumps({(0, 0): [Owned()] * 3}, protocol)
    yield "build", pickle.dumps({(0, 0): np.zeros(2, object)}, 2)


def crowd(count):
    """An archive with a directory of this many records of no name."""
    entry = b"PK\x01\x02" + bytes(42)
    return entry * count + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 46 * count, 0, 0)


def hostile_archives(good):
    members = records(good)
    program = next(name for name in members if name.endswith("data.pkl"))
    for name, code in programs():
        yield f"{name}.pkl", code
        yield f"{name}.pth", packed(members | {program: code})
        yield f"{name}.packed.pth", packed(members | {program: code}, zipfile.ZIP_DEFLATED)
    record = next(name for name in members if name.endswith("data/0"))
    yield "bomb.pth", packed(members | {record: bytes(2**27)}, zipfile.ZIP_DEFLATED)
    yield "bomb.program.pth", packed(members | {program: b"(" * 2**27}, zipfile.ZIP_DEFLATED)
    yield "within.pth", packed({"archive/data.pkl": good})
    yield "crowd.pth", crowd(700_000)
    yield "some.pth", crowd(130_000)
    yield "large.pth", packed(members | {record: bytes(2**26)})
    # Every record is one and the same, as large as the file.
    overlapping = io.BytesIO()
    with zipfile.ZipFile(overlapping, "w") as archive:
        for name, content in (members | {record: bytes(2**20)}).items():
            archive.writestr(name, content)
        first = archive.getinfo(record)
        for info in archive.infolist():
            if "data/" in info.filename:
                info.header_offset, info.file_size = first.header_offset, 2**20
                info.compress_size, info.CRC = 2**20, first.CRC
    yield "overlapping.pth", overlapping.getvalue()
    for name, table in [
        ("expanded", {(0, 0): [torch.zeros(1).expand(10**9)] * 3}),
        ("wide", {(0, 0): [torch.zeros(2, 2)] * 3}),
        ("sparse", {(0, 0): [torch.zeros(2).to_sparse()] * 3}),
        ("twice", {0: [torch.ones(1)], (0,): [torch.ones(1)]}),
        ("huge", {(0, 0): [torch.tensor([1e308, 1e308], dtype=torch.float64)] * 3}),
        ("far", {(2**200, 0): [torch.ones(2)] * 3}),
        ("none", {(0, 0): []}),
        ("empty", {(): [torch.ones(0)] * 3}),
        ("code", {(0, 0): [Owned()] * 3}),
        ("numbers", {(0, 0): [[0.5, 0.5]] * 3}),
        ("module", torch.nn.Linear(1, 1)),
    ]:
        for form in (True, False):
            target = io.BytesIO()
            torch.save(table, target, _use_new_zipfile_serialization=form)
            yield f"{name}.{'zip' if form else 'old'}.pth", target.getvalue()
    for name, arrays in [("objects", {"a": np.array([Owned()], object)}), ("plain", {"a": np.zeros(3)})]:
        target = io.BytesIO()
        np.savez_compressed(target, **arrays)
        yield f"{name}.npz", target.getvalue()
    script = {
        "script/code/a.py": b"",
        "script/constants.pkl": b"\x80\x02).",
        "script/data.pkl": b"\x80\x02).",
    }
    yield "script.pt", packed(script)


def hostile_tables(good):
    header, body = parts(good)
    inner = header["__metadata__"]["napari-ensir"]

    def with_header(text):
        return whole(header | {"__metadata__": {"napari-ensir": text}}, body)

    for size in (0, 1, 2**20, 10**8, 2**31, 2**40, 2**63, 2**64 - 1):
        yield f"size{size}.lut.safetensors", struct.pack("<Q", size) + good[8:]
    yield "spaces.lut.safetensors", whole(" " * 50_000_000, b"")
    yield "lists.lut.safetensors", whole('{"a": [' + "[]," * 2_700_000 + "0]}", b"")
    yield "deep.lut.safetensors", whole("[" * 5_000_000, b"")
    yield "report.lut.safetensors", with_header(inner[:-1] + ', "more": [' + "[]," * 2_000_000 + "0]}")
    yield (
        "reports.lut.safetensors",
        with_header(inner[:-1] + ', "report": {"a": ' + "[" * 900 + "]" * 900 + "}}"),
    )
    yield (
        "twins.lut.safetensors",
        with_header("{" + ", ".join(f'"{n % 700000}": 0' for n in range(700001)) + "}"),
    )
    yield "digits.lut.safetensors", with_header(inner.replace('"n_bins": 8', '"n_bins": ' + "8" * 9000))
    many = {f"t{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(90_000)}
    yield "many.lut.safetensors", whole(header | many, body)
    yield (
        "twice.lut.safetensors",
        whole(json.dumps(header)[:-1] + ', "rows": ' + json.dumps(header["rows"]) + "}", body),
    )
    yield (
        "foreign.safetensors",
        save_tensors({"a": np.zeros((3, 4)), "b": np.zeros(0)}, metadata={"format": "pt"}),
    )
    yield "text.safetensors", whole({"__metadata__": {"napari-ensir": 3}}, b"")
    names = [f"n{n}" for n in range(300_000)]
    few = {"__metadata__": {"napari-ensir": json.dumps(json.loads(inner) | {"names": names})}}
    m, at = len(names), 0
    for name, dtype, shape in (
        ("rows", "U16", [0, m + 1]),
        ("weights", "F64", [0, m]),
        ("counts", "I64", [0]),
        ("fallback", "F64", [1, m]),
    ):
        end = at + (8 * m if name == "fallback" else 0)
        few[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    yield "names.lut.safetensors", whole(few, np.full(m, 2 / m).tobytes())


def hostile_places(folder):
    """What is no file, or not of a table's size, each under its own name."""
    (folder / "folder.lut.safetensors").mkdir()
    (folder / "empty.pth").touch()
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    (folder / "link to a folder").symlink_to(folder)
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "full").symlink_to("/dev/full")
    os.mkfifo(folder / "pipe.lut.safetensors")
    (folder / "link to a pipe").symlink_to("pipe.lut.safetensors")
    with (folder / "vast").open("wb") as file:
        file.truncate(2**34)
    with (folder / "zeros").open("wb") as file:
        file.truncate(2**29)


def sparse_table(path, good):
    """Thirteen million bin sets that take no room on disk, weights 0."""
    header, _ = parts(good)
    names = json.loads(header["__metadata__"]["napari-ensir"])["names"]
    n, m, at = 13_000_000, len(names), 0
    header["__metadata__"]["napari-ensir"] = header["__metadata__"]["napari-ensir"]
    for name, shape, size in (
        ("fallback", [1, m], 8),
        ("weights", [n, m], 8),
        ("counts", [n], 8),
        ("rows", [n, m + 1], 2),
    ):
        end = at + int(np.prod(shape)) * size
        header[name] = header[name] | {"shape": shape, "data_offsets": [at, end]}
        at = end
    content = whole(header, np.full(m, 1 / m).tobytes())
    path.write_bytes(content)
    os.truncate(path, len(content) - 8 * m + at)


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory and makes pipes as Linux does")
def test_mutated_and_hostile_files(tables, tmp_path):
    good = (tmp_path / "b.lut.safetensors").read_bytes()
    hostile = tmp_path / "hostile"
    (tmp_path / "owned").mkdir()
    os.environ["OWNED"] = str(tmp_path / "owned")
    try:
        made = dict(hostile_archives((tmp_path / "d.pth").read_bytes())) | dict(hostile_tables(good))
        for name, content in made.items():
            (hostile / name).write_bytes(content)
        hostile_places(hostile)
        sparse_table(hostile / "sparse.lut.safetensors", good)
        program = ROOT / "tests" / "helpers" / "mutated_files.py"
        answer = subprocess.run(
            [sys.executable, str(program), str(tmp_path), str(MUTATIONS), "20241022"],
            capture_output=True,
            text=True,
        )
    finally:
        del os.environ["OWNED"]
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout)
    print(result)
    assert result["faults"] == []
    assert result["events"] == []
    assert result["changed"] == []
    assert not list((tmp_path / "owned").iterdir())
    assert result["valid"] + result["refused"] >= MUTATIONS
    assert result["valid"] > MUTATIONS / 20
    assert result["hostile"] > 100
    assert result["megabytes"] < 200
