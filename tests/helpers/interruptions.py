"""Program that interrupts fit, apply and restore at random moments and checks what is left.

    python interruptions.py FOLDER TIMES

It prints JSON with the counts of exit statuses and a list of faults.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from importlib import import_module
from itertools import cycle, product
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process with threads cannot be forked safely

import numpy as np

from napari_ensir import EnsembleError, cli, fit_lut, load_lut
from napari_ensir.files import read_image, write_image

SIZE = 500
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START = "import os; os.write(3, b'!'); from napari_ensir.cli import main; main()"
LATER = ("cli.app", "cli.fit", "cli.restore", "ensemble.fit", "restorers.classical", "files.image")
LATER += ("ensemble.estimators.em",)
LIBRARIES = ("dask.array", "zarr", "skimage.filters")


def prepare(folder: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (SIZE, SIZE), np.uint8)
    images = {"A": truth // 2 + 3, "B": truth // 3 + 9, "truth": truth}
    for (name, image), suffix in product(images.items(), ("png", "tif")):
        write_image(folder / f"{name}.{suffix}", image)
    try:
        import dask.array as da
    except ImportError:
        pass
    else:
        for name, image in images.items():
            write_image(folder / f"{name}.zarr", da.from_array(image, chunks=100))
    fit_lut([((images["A"], images["B"]), truth)], names=("A", "B"), device="cpu").save(folder / "known")


def arguments(command: str, kind: str, out: str) -> list[str]:
    candidates = ["-c", f"A=A.{kind}", "-c", f"B=B.{kind}"]
    return {
        "fit": ["fit", *candidates, "-t", f"truth.{kind}", "-o", f"{out}.lut.safetensors"],
        "apply": ["apply", "--lut", "known.lut.safetensors", *candidates, "-o", f"{out}.{kind}"],
        "restore": ["restore", f"A.{kind}", "-m", "median", "-o", f"{out}.{kind}"],
    }[command]


def is_whole(path: Path) -> bool:
    """Whether the file can be read; a child process reads it, so that this one stays without threads."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if path.suffix == ".safetensors":
                status = not load_lut(path).names
            else:
                status = np.asarray(read_image(path)).shape != (SIZE, SIZE)
        except EnsembleError:
            pass
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def interrupted(folder: Path, options: list[str], number: int | None, pauses: list[float], fresh: bool):
    """Return exit status, seconds and output of an interrupted command.

    A new process is mostly interrupted during imports, a forked one during its work.
    """
    ready, told = os.pipe()
    said = folder.parent / f"{folder.name}.said"
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.dup2(told, 3)
        if fresh:
            os.execv(sys.executable, [sys.executable, "-c", START, *options])
        run_here(options)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    started = time.monotonic()
    for pause in pauses if number is not None else []:
        time.sleep(pause)
        os.kill(child, number)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - started, said.read_text()


def run_here(options: list[str]) -> None:
    """Run the console script and exit."""
    status = 99
    try:
        faulthandler.enable()  # to the new standard error
        sys.argv[1:] = options
        os.write(3, b"!")
        cli.main()
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main(folder: Path, times: int) -> None:
    rng = random.Random(int(os.environ.get("SEED", "2")))
    for name in [*(f"napari_ensir.{one}" for one in LATER), *LIBRARIES]:
        with suppress(ImportError):
            import_module(name)
    if (child := os.fork()) == 0:  # this process must have no threads
        prepare(folder)
        os._exit(0)
    os.waitpid(child, 0)
    before = {path.name for path in folder.iterdir()}
    kinds = [kind for kind in ("tif", "png", "zarr") if (folder / f"A.{kind}").exists()]
    wrong, statuses, takes = [], Counter(), {}
    work = list(product(("fit", "apply", "restore"), kinds, ("relative", "absolute")))
    rng.shuffle(work)
    (folder / "results").mkdir()
    for turn, (command, kind, way) in zip(range(times), cycle(work), strict=False):
        out = "results/out" if way == "relative" else str(folder / "results" / "out")
        options = arguments(command, kind, out)
        fresh = turn % 50 > 47  # few, because they are slow
        if (command, kind, fresh) not in takes:
            status, takes[command, kind, fresh], said = interrupted(folder, options, None, [], fresh)
            wrong += [f"uninterrupted {command} {kind}: {status} {said}"] if status else []
            shutil.rmtree(folder / "results")
            (folder / "results").mkdir()
        number = SIGNALS[turn % len(SIGNALS)]
        start = 0.05 if rng.random() < 0.3 else 0.6  # most interruptions while files are written
        pauses = [takes[command, kind, fresh] * rng.uniform(start, 1.0)]
        pauses += [rng.uniform(0, 0.1)] if rng.random() < 0.1 else []
        status, _, said = interrupted(folder, options, number, pauses, fresh)
        statuses[status] += 1
        shown = f"{turn}: {command} {kind} {way}, signal {number} after {pauses}, {fresh}: status {status}"
        made = list((folder / "results").iterdir())
        if status not in (0, 128 + number) or (status == 0 and not made):
            wrong.append(f"{shown} {said[-3000:]}")
        if "Traceback" in said or "unexpected" in said:
            wrong.append(f"{shown} {said[-3000:]}")
        wrong += [f"{shown}: {path.name} left" for path in made if path.name.startswith(".")]
        wrong += [
            f"{shown}: {path.name} not whole" for path in made if path.name[0] != "." and not is_whole(path)
        ]
        strange = {path.name for path in folder.iterdir()} - before - {"results"}
        wrong += [f"{shown}: {strange} beside"] if strange else []
        shutil.rmtree(folder / "results")
        (folder / "results").mkdir()
        if os.environ.get("SHOW"):
            print(*wrong, sep="\n", file=sys.stderr)
            print(shown, [path.name for path in made], file=sys.stderr, flush=True)
    print(json.dumps({"statuses": statuses, "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
