"""Program that reads mutated files and reports the results; a separate process, to measure its memory.

    python mutated_files.py FOLDER COUNT SEED

``FOLDER`` has valid tables (``*.lut.safetensors``) and files of the authors (``*.pth``), and in ``hostile/``
files that must be refused. An audit hook records events while a file is read; memory is measured over all
files.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np

WEIRD = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 255, 2**31, 2**63, 2**64, 10**30, 1e308, 5e-324, 0.5, "", "a"),
    *("\ud800", "8", [], [[]], {}, [1], {"a": 1}, ["A", "B"], ["A", "A"], ["A", ""], ["A", 1], float("nan")),
    *(float("inf"), -float("inf"), "A" * 5000, list(range(300)), [0, 0], [2**62, 2**62], [-1, 3], "F16"),
)
JUNK = (
    *(
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
        b"\x8c\x02os\x8c\x06system\x93",
        b"R",
        b"b",
        b"i",
        b"o",
        b"\x81",
    ),
    *(b"(", b"t", b"0", b"1", b"2", b"}", b"]", b")", b"Q", b"\x85", b"a", b"s", b"e", b"u", b".", b"h\x00"),
    *(b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"G\x7f\xf0\0\0\0\0\0\0", b"r\xff\xff\xff\x7f", b"\x88"),
    *(
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"X\xff\xff\xff\xff",
    ),
)
QUIET = ("open", "os.scandir", "os.listdir", "object.__getattr__", "marshal.loads", "sys._getframe")


def bent(rng, content, least=0):
    """Change, remove, add or move bytes."""
    content = bytearray(content)
    at = int(rng.integers(least, len(content)))
    match rng.integers(8):
        case 0:
            del content[at:]
        case 1:
            for place in rng.integers(least, len(content), rng.integers(1, 4)):
                content[place] ^= 1 << rng.integers(8)
        case 2:
            for place in rng.integers(least, len(content), rng.integers(1, 20)):
                content[place] = rng.integers(256)
        case 3:
            content[at:at] = rng.integers(32, 127, rng.integers(1, 9), dtype=np.uint8).tobytes()
        case 4:
            del content[at : at + int(rng.integers(1, 40))]
        case 5:
            content[at : at + 8] = struct.pack("<Q", 2 ** int(rng.integers(64)))
        case 6:
            content += content[at:]
        case 7:
            content[at : at + 64] = bytes(64)
    return bytes(content)


def parts(content):
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def whole(header, body):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + body


def pick(rng, things):
    return things[int(rng.integers(len(things)))]


def bent_table(rng, content):
    """Mutate the bytes, the header or the numbers of a table file."""
    header, body = parts(content)
    kind = rng.integers(8)
    inner = json.loads(header["__metadata__"]["napari-ensir"])
    if kind < 2:
        return bent(rng, content)
    if kind == 2:
        return struct.pack("<Q", int(rng.integers(2**63)) >> int(rng.integers(63))) + content[8:]
    if kind == 3:
        for _ in range(rng.integers(1, 3)):
            inner[pick(rng, [*inner, "more"])] = pick(rng, WEIRD)
        if rng.integers(4) == 0:
            del inner[pick(rng, list(inner))]
    if kind == 4:
        entry = header[pick(rng, ["rows", "weights", "counts", "fallback"])]
        entry[pick(rng, ["dtype", "shape", "data_offsets", "more"])] = pick(
            rng,
            [*WEIRD, "F32", "I64", "U8", "BOOL", "F8_E4M3", "BF16", [0, 8], [1, len(body)], [len(body), 1]],
        )
    if kind == 5:
        name = pick(rng, ["weights", "fallback", "counts", "rows"])
        begin, end = header[name]["data_offsets"]
        numbers = np.frombuffer(
            body[begin:end], {"U16": "<u2", "I64": "<i8"}.get(header[name]["dtype"], "<f8")
        )
        numbers = numbers.reshape(header[name]["shape"]).copy()
        place = int(rng.integers(len(numbers)))
        if numbers.dtype.kind == "f":
            numbers[place] = pick(rng, [np.nan, np.inf, -0.5, 1e308, -1e308, 0, 1, 5e-324, 0.5 + 1e-5])
        else:
            other = pick(rng, [numbers[place - 1], numbers[place] + 1, -1, -2, 0])
            numbers[place] = np.asarray(other).astype(numbers.dtype)
        numbers = numbers[:: int(pick(rng, [-1, 1, 1, 1]))]
        body = body[:begin] + numbers.tobytes() + body[end:]
    text = json.dumps(inner)
    if kind == 6:
        key = pick(rng, list(inner))
        text = text[:-1] + f", {json.dumps(key)}: {json.dumps(pick(rng, WEIRD))}}}"
    if kind == 7:
        text = bent(rng, text.encode()).decode("latin1")
    header["__metadata__"]["napari-ensir"] = text
    return whole(header, body)


def records(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members, compression=zipfile.ZIP_STORED):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def bent_archive(rng, content):
    """Mutate the bytes, the pickle or the numbers of a file of the authors."""
    kind = rng.integers(6)
    if kind == 0:
        return bent(rng, content)
    if kind == 1:  # the directory of the archive
        return content[:-400] + bent(rng, content[-400:])
    members = records(content)
    program = next(name for name in members if name.endswith("data.pkl"))
    if kind == 2:
        members[program] = bent(rng, members[program])
    if kind == 3:
        at = int(rng.integers(2, len(members[program])))
        junk = b"".join(pick(rng, JUNK) for _ in range(rng.integers(1, 4)))
        members[program] = members[program][:at] + junk + members[program][at + len(junk) * rng.integers(2) :]
    if kind == 4:
        name = pick(rng, list(members))
        members[name] = bent(rng, members[name]) if members[name] else b"\0"
    if kind == 5:
        del members[pick(rng, list(members))]
    return packed(members, pick(rng, [0, 0, 0, zipfile.ZIP_DEFLATED]))


def check(lut):
    """Check the invariants of a table."""
    for part in (lut.weights, lut.fallback):
        assert part.dtype == np.float64
        assert (part >= 0).all()
        np.testing.assert_allclose(part.sum(axis=1), 1, atol=1e-5)
    if lut.n_candidates > 6 or lut.n_channels > 3:
        return
    axis = None if lut.channel_axis is None else -1
    shape = (2, 5) if axis is None else (2, 5, lut.n_channels)
    plain = np.linspace(0, 250, np.prod(shape)).reshape(shape).astype(np.uint8)
    images = [plain + np.uint8(k) for k in range(lut.n_candidates)]
    image = lut.apply(images, "cpu", channel_axis=axis)
    assert (image >= np.min(images, axis=0) - 1e-3).all()
    assert (image <= np.max(images, axis=0) + 1e-3).all()


def peak():
    """Return peak memory in kilobytes; that of getrusage starts at the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


class Watch:
    """Read files and record their results and audit events."""

    def __init__(self):
        self.is_on, self.valid, self.refused = False, 0, 0
        self.events, self.faults = set(), []
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        if self.is_on and (event not in QUIET or (event == "open" and arguments[1] not in (None, "r", "rb"))):
            self.events.add(f"{event} {str(arguments)[:200]}")

    def read(self, reader, path, label):
        """Return the table, or None if the file was refused."""
        from napari_ensir import EnsembleError

        lut = None
        self.is_on = True
        try:
            lut = reader(path)
        except EnsembleError as error:
            self.refused += 1
            if not 20 < len(str(error)) < 1500 or "\n" in str(error):
                self.faults.append(f"{label}: message {str(error)[:300]}")
        except BaseException as error:
            self.faults.append(f"{label}: {error!r}"[:300])
        else:
            self.valid += 1
        finally:
            self.is_on = False
        return lut


def main(folder, count, seed):
    from napari_ensir import import_lut, load_lut
    from napari_ensir.errors import EnsembleWarning

    warnings.simplefilter("error")
    warnings.simplefilter("ignore", EnsembleWarning)  # random images have another exposure
    for codec in ("cp437", "raw_unicode_escape"):  # load codecs before the audit starts
        codecs.lookup(codec)

    tables = sorted(folder.glob("*.lut.safetensors"))
    archives = sorted(folder.glob("*.pth"))
    for path in (*tables, *archives):  # import and compile before the audit starts
        check((load_lut if path in tables else import_lut)(path))
    tables, archives = ([path.read_bytes() for path in paths] for paths in (tables, archives))
    rng, watch = np.random.default_rng(seed), Watch()
    before, there = peak(), sorted(folder.rglob("*"))
    target = folder / "mutated"
    for number in range(count):
        is_table = number % 2 == 0
        content = bent_table(rng, pick(rng, tables)) if is_table else bent_archive(rng, pick(rng, archives))
        target.write_bytes(content)
        lut = watch.read(load_lut if is_table else import_lut, target, number)
        if lut is not None:
            try:
                check(lut)
            except Exception as error:
                watch.faults.append(f"{number}: not usable: {error!r}"[:300])
    target.unlink(missing_ok=True)
    mutated = {"valid": watch.valid, "refused": watch.refused}
    hostile = sorted(os.listdir(folder / "hostile"))
    for name in hostile:
        for reader in (load_lut, import_lut):
            if watch.read(reader, folder / "hostile" / name, f"{name}, {reader.__name__}") is not None:
                watch.faults.append(f"{name} was taken for a table")
    megabytes = (peak() - before) / 1024
    print(
        json.dumps(
            mutated
            | {"hostile": len(hostile), "megabytes": megabytes}
            | {"events": sorted(watch.events)[:20], "faults": watch.faults[:30]}
            | {"changed": [str(path) for path in set(there) ^ set(folder.rglob("*"))]}
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
