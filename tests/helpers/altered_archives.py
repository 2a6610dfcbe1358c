"""Load TorchScript archives that contain code, altered so that ZIP readers disagree about their content.

It is a program because an audit hook cannot be removed:

    python altered_archives.py FOLDER TIMES

It prints as JSON how many files were opened and refused, other exceptions, and what ran.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import struct
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import torch
from torch import nn

from napari_ensir import EnsembleError
from napari_ensir.restorers import load_network

MARK = "CODE_HAS_RUN"
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn", "subprocess.Popen")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "shutil.")
ELSEWHERE = ("socket.", "webbrowser.", "ctypes.dlopen", "urllib.")


class Watch:
    """Records programs, sockets, code of the files that runs, and files written outside a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen, self.on = str(folder), [], False
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if self.on and self.is_wrong(event, args):
            self.seen.append(f"{event} {str(args)[:200]}")

    def is_wrong(self, event: str, args: tuple) -> bool:
        if event.startswith((*STARTS, *ELSEWHERE)):
            return True
        if event == "open":
            path, mode, flags = args
            writes = (mode and set(mode) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            return bool(writes) and not str(path).startswith(self.folder)
        if event.startswith(CHANGES):
            return not str(args[0]).startswith(self.folder)
        return event == "exec" and MARK in str(every_constant(args[0]))


def every_constant(code) -> list:
    constants = list(getattr(code, "co_consts", ()))
    return constants + [inner for each in constants for inner in every_constant(each)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(x)


SCRIPT = f"""
import torch
class Evil(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1))
    @torch.jit.export
    def __getstate__(self):
        return (self.w, self.training)
    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.w = state[0]
        self.training = state[1]
        torch.save(state[0], "{MARK}")
    def forward(self, x):
        return x
"""


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {MARK}",)


def records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Records of a good network, and of one that runs code when it is loaded."""
    torch.jit.script(Net()).save(str(folder / "good.pt"))
    (folder / "evil_script.py").write_text(SCRIPT)
    sys.path.insert(0, str(folder))
    import evil_script

    torch.jit.script(evil_script.Evil()).save(str(folder / "evil.pt"))
    return {name: records(folder / name) for name in ("good.pt", "evil.pt")}


def entry(name: bytes, content: bytes, at: int, **odd) -> bytes:
    """An entry of a central directory."""
    extra, flags = odd.get("extra", b""), odd.get("flags", 0)
    size = odd.get("size", len(content))
    where = struct.pack("<HHHII", 0, 0, 0, 0, at)
    numbers = struct.pack(
        "<HHHHHHIIIHH", 20, 20, flags, 0, 0, 33, zlib.crc32(content), size, size, len(name), len(extra)
    )
    return b"PK\1\2" + numbers + where + name + extra


def local(name: bytes, content: bytes, flags: int = 0) -> bytes:
    size = len(content)
    numbers = struct.pack("<HHHHHIIIHH", 20, flags, 0, 0, 33, zlib.crc32(content), size, size, len(name), 0)
    return b"PK\3\4" + numbers + name + content


def end(count: int, size: int, at: int, comment: bytes = b"") -> bytes:
    return b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, size, at, len(comment)) + comment


class Layout:
    """Local records in order, with the entries of the central directory."""

    def __init__(self, start: bytes = b"") -> None:
        self.body, self.found = bytearray(start), []

    def add(self, name: bytes, content: bytes, shown: bytes | None = None, **odd) -> None:
        self.found.append((shown or name, content, len(self.body), odd))
        self.body += local(name, content)

    def directory(self, shift: int = 0, replaced: dict[bytes, tuple[bytes, int]] | None = None) -> bytes:
        lines = []
        for name, content, at, odd in self.found:
            other = (replaced or {}).get(name, (content, at))
            lines.append(entry(name, other[0], other[1] + shift, **odd))
        return b"".join(lines)

    def closed(self, comment: bytes = b"", after: bytes = b"") -> bytes:
        lines = self.directory()
        return bytes(self.body) + lines + end(len(self.found), len(lines), len(self.body), comment) + after


def other_case(rng: random.Random, name: str) -> str:
    changed = "".join(each.swapcase() if rng.random() < 0.3 else each for each in name)
    return changed if changed != name else name.swapcase()


def twisted(rng: random.Random, name: str) -> bytes:
    """A name that some reader might treat as this one."""
    return rng.choice(
        [
            lambda: other_case(rng, name),
            lambda: name.replace("/", "\\"),
            lambda: name + "\0" + rng.choice(["", ".txt"]),
            lambda: name + rng.choice([" ", ".", "/"]),
            lambda: name.replace("/", "//", 1),
            lambda: name.replace("/", "/./", 1),
            lambda: "/" + name,
            lambda: "other/" + name.partition("/")[2],
            lambda: name.replace("s", "\u017f"),
            lambda: name,
        ]
    )().encode()


def altered(rng: random.Random, good: dict[str, bytes], evil: dict[str, bytes]) -> bytes:
    """An archive in which one reader could find evil records where another finds good ones."""
    root = "net/"
    put = {(root + name).encode(): content for name, content in good.items()}
    bad = {(root + name): content for name, content in evil.items()}
    way = rng.randrange(8)
    # Displaced offsets need some bytes before them.
    layout = Layout(rng.randbytes({2: 5000, 3: 0}.get(way, rng.choice([0, 0, 7]))))
    evils = {}
    if way in (0, 1):  # before, after or instead of the good ones
        both = [(name, content, False) for name, content in put.items()]
        for name, content in bad.items():
            if way == 1:
                both = [one for one in both if one[0] != name.encode()]
            checked = name.endswith(".py")  # the other records have to be found
            shown = twisted(rng, name) if rng.random() < (0.9 if checked else 0.1) else name.encode()
            both.insert(rng.choice([0, len(both)]), (shown, content, True))
        for name, content, _ in both:
            layout.add(name, content)
        return layout.closed()
    for name, content in bad.items():
        evils[name.encode()] = (content, len(layout.body))
        layout.body += local(name.encode(), content)
    for name, content in put.items():
        if name not in evils or way != 7:
            layout.add(name, content)
    if way == 2:  # two directories, the second apparently displaced
        first = layout.directory(0, evils)
        second = layout.directory(-len(first))
        pair = [first, second] if rng.random() < 0.5 else [second, first]
        place = len(layout.body) + (len(pair[0]) if rng.random() < 0.3 else 0)
        return bytes(layout.body) + b"".join(pair) + end(len(layout.found), len(pair[0]), place)
    if way == 3:  # bytes before the archive, with offsets corrected or not
        front = rng.randbytes(rng.randrange(1, 60))
        return (
            front + layout.closed()
            if rng.random() < 0.5
            else front
            + bytes(layout.body)
            + (
                layout.directory(len(front), evils)
                + end(len(layout.found), len(layout.directory()), len(front) + len(layout.body))
            )
        )
    if way == 4:  # an archive in the comment or after the end
        inner = Layout()
        for name, content in (put | {key: pair[0] for key, pair in evils.items()}).items():
            inner.add(name, content)
        hidden = inner.closed()
        return layout.closed(hidden[:65535]) if rng.random() < 0.5 else layout.closed(after=hidden)
    if way == 5:  # 64-bit sizes and offsets that differ from the others
        bigger = Layout()
        bigger.body = layout.body
        for name, content, at, _ in layout.found:
            there = evils.get(name, (content, at))
            extra = struct.pack("<HHQQQ", 1, 24, len(there[0]), len(there[0]), there[1])
            bigger.found.append(
                (name, there[0], rng.choice([at, 2**32 - 1]), {"extra": extra, "size": 2**32 - 1})
            )
        lines, count = bigger.directory(), len(bigger.found)
        at = len(layout.body)
        record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(lines), at)
        locator = b"PK\6\7" + struct.pack("<IQI", 0, at + len(lines), 1)
        plain = layout.directory()
        tail = record + locator + rng.choice([end(count, len(lines), at), end(0xFFFF, 2**32 - 1, 2**32 - 1)])
        return bytes(layout.body) + rng.choice([lines, plain]) + tail
    if way == 6:  # names in the record differ from those in the directory
        named = Layout()
        for name, content in put.items():
            hidden = evils.get(name, (content,))[0]
            shown = twisted(rng, name.decode()) if name in evils else name
            path = struct.pack("<HHBI", 0x7075, 5 + len(name), 1, zlib.crc32(shown)) + name
            named.add(
                rng.choice([name, shown]), hidden, shown, flags=rng.choice([0, 0x800, 1, 8]), extra=path
            )
        return named.closed()
    whole = bytearray(layout.closed())  # evil records instead of good ones, and flipped bits
    for _ in range(rng.randrange(4)):
        whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    return bytes(whole[: rng.choice([len(whole), len(whole), rng.randrange(len(whole))])])


def main(folder: Path, times: int) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    os.chdir(folder)
    rng = random.Random(1)
    found = samples(folder)
    load_network(folder / "good.pt")  # imports happen now
    watch = Watch(folder)
    counts = {"opened": 0, "refused": 0}
    ran, raised = [], []
    path = folder / "altered.pt"
    for number in range(times):
        content = altered(rng, found["good.pt"], found["evil.pt"])
        path.write_bytes(content)
        watch.seen, watch.on = [], True
        try:
            load_network(path)
            counts["opened"] += 1
        except EnsembleError:
            counts["refused"] += 1
        except Exception as error:
            raised.append(f"{number}: {type(error).__name__} {error}"[:300])
        watch.on = False
        if watch.seen or (folder / MARK).exists():
            ran.append(f"{number}: {watch.seen}")
            (folder / MARK).unlink(missing_ok=True)
    watch.seen, watch.on = [], True
    pickle.loads(pickle.dumps(Evil()))  # the hook is active
    watch.on = False
    print(
        json.dumps(
            counts | {"raised": raised, "ran": ran, "detected": watch.seen, "mark": (folder / MARK).exists()}
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
