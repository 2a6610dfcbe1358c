"""Program that kills processes while they save, and saves to a full disk; it forks.

python interrupted_saves.py FOLDER TIMES
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_ensir import EnsembleError, load_lut
from napari_ensir.ensemble.lut.lut import WeightLUT
from napari_ensir.ensemble.statistics.binning import choose_binning
from napari_ensir.files import atomic


def large_table():
    """Return a table of 65536 bin sets (2 MB), which takes a while to write."""
    rows = np.stack([*np.indices((256, 256)).reshape(2, -1), np.zeros(2**16)], axis=1).astype(np.uint16)
    weights = np.random.default_rng(1).dirichlet([1, 1], 2**16)
    binning = choose_binning(np.uint8, (0, 255), 1)
    counts = np.arange(2**16)
    return WeightLUT(("A", "B"), "em", binning, rows, weights, counts, np.full((1, 2), 0.5))


def killed(luts, target, saves):
    """Save repeatedly in another process, and kill it after about this number of saves.

    The process reports the time of a save, which depends on the load of the machine.
    """
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        began = time.monotonic()
        luts[0].save(target, overwrite=True)
        os.write(told, struct.pack("d", time.monotonic() - began))
        while True:
            for lut in luts:
                lut.save(target, overwrite=True)
    (takes,) = struct.unpack("d", os.read(ready, 8))
    os.close(ready)
    os.close(told)
    time.sleep(saves * takes)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main(folder, times):
    target = folder / "rain.lut.safetensors"
    one = large_table()
    luts = [one, replace(one, names=("C", "D"))]
    contents = [lut.save(target, overwrite=True).read_bytes() for lut in luts]
    whole = written = 0
    for number in range(times):
        before = set(folder.iterdir())
        killed(luts, target, 2 * ((number * 0.618) % 1))
        whole += target.read_bytes() in contents
        written += bool(set(folder.iterdir()) - before - {target})  # the kill interrupted a write
    held = folder / ".part-somebody"
    held.mkdir()
    opened = os.open(held, os.O_RDONLY)
    fcntl.flock(opened, fcntl.LOCK_EX)  # like a running writer
    atomic._cleared.clear()  # like in a new process
    last = load_lut(luts[0].save(target, overwrite=True)).names
    kept = [path.name for path in folder.iterdir() if path != target] == [held.name]
    os.close(opened)
    atomic._cleared.clear()
    luts[0].save(target, overwrite=True)
    cleared = [path.name for path in folder.iterdir()]

    before = target.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        luts[1].save(target, overwrite=True)
        message = "saved"
    except EnsembleError as error:
        message = str(error)
    found = {"whole": whole, "written": written, "last": last, "kept": kept}
    same = target.read_bytes() == before
    print(
        json.dumps(found | {"cleared": cleared, "message": message, "same": same, "end": os.listdir(folder)})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
