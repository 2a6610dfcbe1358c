"""LUT files: whole or not at all, read strictly, nothing executed."""

from __future__ import annotations

import json
import os
import pickle
import struct
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from napari_ensir import EnsembleError, WeightLUT, fit_lut, import_lut, load_lut
from napari_ensir.ensemble.lut import format as lut_format
from napari_ensir.ensemble.statistics.binning import choose_binning
from tests.helpers.images import make_image


@pytest.fixture
def lut(rng):
    return fit_lut(
        [make_image(rng, (30, 30, 3), 2)],
        ("CARE", "N2V \u00b5"),
        method="em-released",
        channel_axis=-1,
        device="cpu",
    )


@pytest.fixture
def calibrated(rng):
    """The same with errors to expect."""
    images = [make_image(rng, (30, 30, 3), 2)]
    return fit_lut(images, ("CARE", "N2V"), channel_axis=-1, device="cpu").calibrated(images, device="cpu")


def parts_of(path):
    """Header and tensors of a file."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    outer = json.loads(content[8 : 8 + size])
    return json.loads(outer["__metadata__"]["napari-ensir"]), load_tensors(content)


def write(path, header, tensors):
    path.write_bytes(save_tensors(tensors, metadata={"napari-ensir": json.dumps(header)}))
    return path


@pytest.mark.parametrize("method", ["em", "em-released", "least-squares"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_round_trip(rng, tmp_path, method, dtype):
    candidates, truth = make_image(rng, (30, 30, 3), 3, dtype)
    lut = fit_lut([(candidates, truth)], method=method, channel_axis=-1, device="cpu")
    path = lut.save(tmp_path / "rain.lut.safetensors")
    back = load_lut(path)
    assert isinstance(back, WeightLUT)
    for name in ("rows", "weights", "counts", "fallback"):
        one, other = getattr(lut, name), getattr(back, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    for name in ("names", "method", "binning", "unseen", "channel_axis", "report", "bin_width", "data_range"):
        assert getattr(lut, name) == getattr(back, name), name
    np.testing.assert_array_equal(back.apply(candidates, device="cpu"), lut.apply(candidates, device="cpu"))
    # Saved again, the same bytes.
    assert back.save(tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["rain", "rain.lut", "rain.safetensors", "rain.lut.safetensors", "rain.v2"])
def test_suffix_is_added(lut, tmp_path, name):
    stem = "rain.v2" if name == "rain.v2" else "rain"
    assert lut.save(tmp_path / name) == tmp_path / f"{stem}.lut.safetensors"
    assert lut.save(str(tmp_path / name), overwrite=True).exists()


@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
def test_failing_write_leaves_the_old_file_whole(lut, tmp_path, monkeypatch, step):
    path = lut.save(tmp_path / "rain")
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif step == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(Path, "write_bytes", fail)
    other = replace(lut, names=("x", "y"))
    with pytest.raises(EnsembleError, match=r"could not be written: No space left.*choose a folder"):
        other.save(path, overwrite=True)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert load_lut(path).names == lut.names


def test_interrupt_while_writing_leaves_nothing(lut, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lut.save(tmp_path / "rain")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_there(lut, tmp_path):
    with pytest.raises(EnsembleError, match=r"cannot be written: there is no folder .*absent; make it"):
        lut.save(tmp_path / "absent" / "rain")
    (tmp_path / "folder.lut.safetensors").mkdir()
    with pytest.raises(EnsembleError, match="is a folder; a file cannot replace it"):
        lut.save(tmp_path / "folder.lut.safetensors", overwrite=True)


def test_an_existing_file_is_replaced_only_on_request(lut, tmp_path):
    path = lut.save(tmp_path / "rain")
    other = replace(lut, names=("x", "y"))
    with pytest.raises(EnsembleError, match="exists already"):
        other.save(path)
    assert load_lut(path).names == lut.names
    other.save(path, overwrite=True)
    assert load_lut(path).names == ("x", "y")


def test_permissions_follow_the_umask(lut, tmp_path):
    old = os.umask(0o027)
    try:
        path = lut.save(tmp_path / "rain")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_files_that_are_no_lut(lut, tmp_path):
    for words, path in [
        (r"there is no file .*absent; choose a \.(lut\.safetensors|pth) file", tmp_path / "absent"),
        (r"is not a file; choose", tmp_path),
    ]:
        for read in (load_lut, import_lut):
            with pytest.raises(EnsembleError, match=words):
                read(path)
    for content in (b"", b"\x89PNG\r\n", b"x" * 5000, struct.pack("<Q", 2**60) + b"{}"):
        (tmp_path / "no").write_bytes(content)
        with pytest.raises(EnsembleError, match=r"is no LUT file .*choose a \.lut\.safetensors file"):
            load_lut(tmp_path / "no")
    (tmp_path / "other").write_bytes(save_tensors({"a": np.zeros(3)}))
    with pytest.raises(EnsembleError, match="a safetensors file without a lookup table"):
        load_lut(tmp_path / "other")


def test_too_large_a_file(lut, tmp_path, monkeypatch):
    path = lut.save(tmp_path / "rain")
    monkeypatch.setattr(lut_format, "_MAX_BYTES", 100)
    with pytest.raises(EnsembleError, match=r"no \.lut\.safetensors file is that large"):
        load_lut(path)


def test_what_is_listed_for_bin_sets_is_no_part_of_the_header(lut, tmp_path):
    header, tensors = parts_of(lut.save(tmp_path / "rain"))
    assert not {"iterations", "outcome"} & header["report"].keys()
    assert tensors["outcome"].tolist() == lut.report["outcome"]
    assert load_lut(tmp_path / "rain.lut.safetensors").report == lut.report


def test_more_bin_sets_than_a_header_has_room_for(tmp_path):
    """Two million and more, as a million pixels of 16 bit can have: two lists of that length."""
    n = 1600
    places = np.stack([*np.indices((n, n)).reshape(2, -1), np.zeros(n * n, np.int64)], axis=1)
    report = {"iterations": [17] * n * n, "outcome": [2, 0] * (n * n // 2), "warnings": ["none"]}
    lut = WeightLUT(
        ("A", "B"),
        "em",
        choose_binning(np.uint16, (0, 65535), 40),
        places.astype(np.uint16),
        np.full((n * n, 2), 0.5),
        np.full(n * n, 7),
        np.full((1, 2), 0.5),
        report=report,
    )
    back = load_lut(lut.save(tmp_path / "large"))
    assert back.report == report
    np.testing.assert_array_equal(back.rows, lut.rows)


def test_a_table_is_read_from_one_file(lut, tmp_path, monkeypatch):
    """While it is read, another process saves a table of other weights under its name."""
    path = lut.save(tmp_path / "rain")
    other = replace(lut, names=("N2V", "CARE"), weights=lut.weights[:, ::-1].copy())
    real = lut_format._read_header

    def saved_meanwhile(*arguments):
        other.save(path, overwrite=True)
        return real(*arguments)

    monkeypatch.setattr(lut_format, "_read_header", saved_meanwhile)
    back = load_lut(path)
    monkeypatch.undo()
    assert back.names == lut.names
    np.testing.assert_array_equal(back.weights, lut.weights)
    np.testing.assert_array_equal(load_lut(path).weights, other.weights)


@pytest.mark.parametrize("axis", [np.int64(0), np.int64(-3), np.uint8(0)])
def test_channel_axis_of_any_whole_type(rng, tmp_path, axis):
    candidates, truth = make_image(rng, (3, 20, 20), 2)
    lut = fit_lut([(candidates, truth)], channel_axis=axis, device="cpu")
    for one in (lut, replace(lut, channel_axis=axis)):
        assert load_lut(one.save(tmp_path / "rain", overwrite=True)).channel_axis == one.channel_axis


def test_names_that_no_file_can_hold(rng):
    with pytest.raises(EnsembleError, match=r"the name 'a\\udc80' is not valid Unicode"):
        fit_lut([make_image(rng, (20, 20), 2)], ("a\udc80", "b"), device="cpu")


def test_newer_layout(lut, tmp_path):
    header, tensors = parts_of(lut.save(tmp_path / "rain"))
    # A later layout may have anything else; the message must come first.
    path = write(tmp_path / "new", {"schema": 99, "version": "9.1"}, {"whatever": np.zeros(3)})
    with pytest.raises(
        EnsembleError, match=r"newer napari-ensir \('9.1'; layout 99, .* up to 2\); update with"
    ):
        load_lut(path)
    path = write(tmp_path / "old", {**header, "schema": 0}, tensors)
    with pytest.raises(EnsembleError, match="unknown number 0"):
        load_lut(path)


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("names = ", lambda h, t: h.update(names="AB")),
        ("names = None", lambda h, t: h.pop("names")),
        ("names are not all text", lambda h, t: h.update(names=["A", 2])),
        ("is used for two", lambda h, t: h.update(names=["A", "A"])),
        ("a candidate's name is empty", lambda h, t: h.update(names=["A", ""])),
        ("do not fit 3 candidates", lambda h, t: h.update(names=["A", "B", "C"])),
        ("do not fit 0 candidates", lambda h, t: h.update(names=[])),
        ("method = ", lambda h, t: h.update(method=3)),
        ("low = ", lambda h, t: h.update(low="0")),
        ("integer = ", lambda h, t: h.update(integer=1)),
        ("schema = ", lambda h, t: h.update(schema=True)),
        ("channel_axis = ", lambda h, t: h.update(channel_axis=0.5)),
        ("channel axis", lambda h, t: h.update(channel_axis=None)),
        ("range is", lambda h, t: h.update(low=300)),
        ("range is", lambda h, t: h.update(bin_width=-1)),
        ("range is", lambda h, t: h.update(high=float("nan"))),
        ("range is", lambda h, t: h.update(high=10**400)),
        ("do not cover", lambda h, t: h.update(n_bins=7)),
        ("do not cover", lambda h, t: h.update(n_bins=10**9)),
        ("do not cover", lambda h, t: h.update(sublevels=0)),
        ("rule for unseen", lambda h, t: h.update(unseen="guess")),
        ("report = ", lambda h, t: h.update(report=[1])),
        ("weights are F32", lambda h, t: t.update(weights=t["weights"].astype(np.float32))),
        ("it holds", lambda h, t: t.update(extra=t["weights"])),
        ("it holds", lambda h, t: t.pop("counts")),
        ("do not fit", lambda h, t: t.update(counts=t["counts"][1:].copy())),
        ("do not fit", lambda h, t: t.update(fallback=t["fallback"][:0].copy())),
        ("its weights are not all", lambda h, t: t.update(weights=changed(t["weights"], (0, 0), np.nan))),
        ("its weights are not all", lambda h, t: t.update(weights=changed(t["weights"], 0, [-0.5, 1.5]))),
        ("its weights are not all", lambda h, t: t.update(weights=changed(t["weights"], (0, 0), 3))),
        ("fallback weights are not all", lambda h, t: t.update(fallback=changed(t["fallback"], (0, 0), 3))),
        ("outside its bins", lambda h, t: t.update(rows=changed(t["rows"], (-1, 0), 9))),
        ("outside its bins", lambda h, t: t.update(rows=changed(t["rows"], (-1, 2), 3))),
        ("outcome are I64", lambda h, t: t.update(outcome=t["outcome"].astype(np.int64))),
        ("do not fit", lambda h, t: t.update(iterations=t["iterations"][1:].copy())),
        ("count is negative", lambda h, t: t.update(counts=changed(t["counts"], 0, -2))),
        ("not in order", lambda h, t: t.update(rows=t["rows"][::-1].copy())),
        ("stands there twice", lambda h, t: t.update(rows=changed(t["rows"], 1, t["rows"][0]))),
    ],
)
def test_parts_that_are_off(lut, tmp_path, words, change):
    header, tensors = parts_of(lut.save(tmp_path / "rain"))
    change(header, tensors)
    path = write(tmp_path / "off.lut.safetensors", header, tensors)
    with pytest.raises(EnsembleError, match=words) as caught:
        load_lut(path)
    assert "off.lut.safetensors" in str(caught.value)


def test_errors_to_expect_come_back(calibrated, tmp_path, rng):
    back = load_lut(calibrated.save(tmp_path / "rain"))
    candidates, _ = make_image(rng, (20, 20, 3), 2)
    np.testing.assert_array_equal(back.errors.squares, calibrated.errors.squares)
    np.testing.assert_array_equal(
        back.expected_error(candidates, "cpu"), calibrated.expected_error(candidates, "cpu")
    )


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("errors = 'a'", lambda h, t: h.update(errors="a")),
        ("errors = None", lambda h, t: h.pop("errors")),
        ("it holds", lambda h, t: h.update(errors=None)),
        ("range and noise", lambda h, t: h.update(errors={})),
        ("range and noise", lambda h, t: h["errors"].update(low="0")),
        ("range and noise", lambda h, t: h["errors"].update(more=1)),
        ("of the range", lambda h, t: h["errors"].update(high=-1)),
        ("of the range", lambda h, t: h["errors"].update(high=10**400)),
        ("it holds", lambda h, t: t.pop("error_counts")),
        ("error_squares are F64", lambda h, t: t.update(error_squares=t["error_squares"] * 1.0)),
        ("errors are not of shape", lambda h, t: t.update(error_counts=t["error_counts"][:1].copy())),
        ("of the range", lambda h, t: h["errors"].update(noise=-1)),
        ("of the range", lambda h, t: h["errors"].update(trust=0)),
        ("of the range", lambda h, t: h["errors"].update(noise=float("nan"))),
        ("negative", lambda h, t: t.update(error_counts=changed(t["error_counts"], (0, 0, 0), -1))),
        ("beyond all bounds", lambda h, t: t.update(error_squares=changed(t["error_squares"], 0, 2**62))),
    ],
)
def test_errors_that_are_off(calibrated, tmp_path, words, change):
    header, tensors = parts_of(calibrated.save(tmp_path / "rain"))
    change(header, tensors)
    with pytest.raises(EnsembleError, match=words):
        load_lut(write(tmp_path / "off.lut.safetensors", header, tensors))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 90000, '{"schema": NaN}'])
def test_headers_that_are_no_object(tmp_path, text):
    (tmp_path / "off").write_bytes(save_tensors({"a": np.zeros(1)}, metadata={"napari-ensir": text}))
    with pytest.raises(EnsembleError, match=r"cannot be used as a LUT"):
        load_lut(tmp_path / "off")


def test_hundreds_of_mutated_files(lut, tmp_path, rng):
    """Whatever a broken disk makes of a file: a table that keeps its promises, or an EnsembleError."""
    content = lut.save(tmp_path / "rain").read_bytes()
    header_size = 8 + struct.unpack("<Q", content[:8])[0]
    path = tmp_path / "mutated"
    loaded = refused = 0
    for number in range(600):
        mutated = bytearray(content)
        kind = number % 4
        if kind == 0:
            mutated = mutated[: rng.integers(0, len(mutated))]
        elif kind == 1:
            mutated[rng.integers(0, header_size)] ^= 1 << rng.integers(0, 8)
        elif kind == 2:
            for _ in range(rng.integers(1, 20)):
                mutated[rng.integers(header_size, len(mutated))] = rng.integers(0, 256)
        else:
            at = rng.integers(8, len(mutated))
            mutated[at:at] = rng.integers(32, 127, rng.integers(1, 9), dtype=np.uint8).tobytes()
        path.write_bytes(mutated)
        try:
            table = load_lut(path)
        except EnsembleError:
            refused += 1
            continue
        loaded += 1
        image = table.apply(
            [np.arange(9, dtype=np.uint8).reshape(1, 3, 3)] * table.n_candidates, device="cpu"
        )
        assert np.isfinite(image).all()
    assert refused > 300
    assert loaded + refused == 600


def test_two_threads_save_the_same_file(lut, tmp_path):
    path = tmp_path / "rain.lut.safetensors"
    threads = [threading.Thread(target=lut.save, args=(path,), kwargs={"overwrite": True}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_lut(path).names == lut.names
    assert len(list(tmp_path.iterdir())) == 1


# -- the authors' tables ----------------------------------------------------------------------------


def authors_table(m=2, width=128, weights=None):
    edges = range(0, 256, width)
    keys = [(a, b) for a in edges for b in edges] if m == 2 else list(edges)
    vector = torch.tensor([0.25, 0.75]) if m == 2 else torch.tensor(1.0)
    return {key: [vector if weights is None else weights] * 3 for key in keys}


def saved(tmp_path, table):
    torch.save(table, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_authors_table_is_read(tmp_path, rng):
    table = {
        (a, b): [torch.tensor(rng.dirichlet([1, 1]), dtype=torch.float32) for _ in range(3)]
        for a in (0, 128)
        for b in (0, 128)
    }
    lut = import_lut(saved(tmp_path, table), names=("A", "B"), bin_width=128)
    for (a, b), weights in table.items():
        for channel in range(3):
            got = lut.weights_for((a + 127, b), channel)
            np.testing.assert_allclose(got, weights[channel].numpy(), rtol=1e-6)
    assert lut.count_for((0, 0)) == -1
    assert (lut.method, lut.channel_axis, lut.names) == ("imported", -1, ("A", "B"))
    assert import_lut(tmp_path / "w.pth").bin_width == 128
    assert load_lut(lut.save(tmp_path / "own")).weights_for((0, 0)) == pytest.approx(lut.weights_for((0, 0)))
    single = import_lut(saved(tmp_path, authors_table(1)))
    np.testing.assert_array_equal(single.weights_for((200,)), [1.0])


class Boom:
    def __reduce__(self):
        return (os.mkdir, (os.path.join(os.environ["BOOM"], "owned"),))


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_pickles_that_run_code_are_refused(tmp_path, monkeypatch, protocol):
    monkeypatch.setenv("BOOM", str(tmp_path))
    path = tmp_path / "w.pth"
    bad = {(0, 0): [Boom()] * 3}
    if protocol == "torch":
        torch.save(bad, path)
    else:
        path.write_bytes(pickle.dumps(bad))
    with pytest.raises(EnsembleError, match=r"could not be read as the EnsIR authors' weights"):
        import_lut(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("words", "table"),
    [
        ("holds no dict of bin sets", [1, 2]),
        ("holds no dict of bin sets", {}),
        ("format", {"a": 1}),
        ("format", {(0, 0): 3}),
        ("format", {(0, 0): [torch.tensor([0.5, 0.5])] * 3, (0,): [torch.tensor([1.0])] * 3}),
        ("keys are not tuples of whole bin edges", {(0.5, 0.0): [torch.tensor([0.5, 0.5])] * 3}),
        ("weights have shape", authors_table(weights=torch.tensor([0.2, 0.3, 0.5]))),
        ("negative or not finite", authors_table(weights=torch.tensor([-1.0, 2.0]))),
        ("negative or not finite", authors_table(weights=torch.tensor([float("nan"), 2.0]))),
        ("not multiples of 128 within", {(300, 0): [torch.tensor([0.5, 0.5])] * 3, **authors_table()}),
        ("not multiples of 128 within", {(-128, 0): [torch.tensor([0.5, 0.5])] * 3, **authors_table()}),
    ],
)
def test_authors_tables_that_are_off(tmp_path, words, table):
    with pytest.raises(EnsembleError, match=words):
        import_lut(saved(tmp_path, table), bin_width=128)


def test_authors_table_with_wrong_words(tmp_path):
    path = saved(tmp_path, authors_table())
    with pytest.raises(EnsembleError, match=r"2 candidates but 3 names"):
        import_lut(path, names="abc")
    with pytest.raises(
        EnsembleError, match=r"not multiples of 100 .*give the bin_width that its name states"
    ):
        import_lut(path, bin_width=100)
    with pytest.raises(EnsembleError, match=r"bin_width is 0.5"):
        import_lut(path, bin_width=0.5)
    with pytest.raises(EnsembleError, match="bin_width is 0"):
        import_lut(path, bin_width=0)


def test_published_tables_load(reference_folder):
    paths = sorted((reference_folder / "published_luts").glob("*.pth"))
    assert len(paths) == 3
    for path in paths:
        width = int(path.stem.split("_b")[1].split("_")[0])
        names = path.stem.split("_")[2:5]
        table = import_lut(path, names=names, bin_width=width)
        assert import_lut(path).binning == table.binning
        raw = torch.load(path, weights_only=True)
        assert len(raw) * 3 == len(table.rows)
        for key, weights in list(raw.items())[::37]:
            for channel in range(3):
                np.testing.assert_allclose(
                    table.weights_for(key, channel), weights[channel].numpy(), atol=1e-6
                )
