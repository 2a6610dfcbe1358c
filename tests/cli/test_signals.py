"""Interrupted commands leave nothing half-written and exit with 128 plus the number of the signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from napari_ensir.files import read_image, write_image
from napari_ensir.files.atomic import clear_parts, whole_file, whole_folder
from tests.helpers.paths import ROOT

TIMES = int(os.environ.get("NAPARI_ENSIR_INTERRUPTIONS", "3"))

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


def test_interrupted_commands_leave_nothing_half_written(tmp_path):
    program = ROOT / "tests" / "helpers" / "interruptions.py"
    done = subprocess.run(
        [sys.executable, program, tmp_path, str(TIMES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found["statuses"], *found["wrong"], sep="\n")
    assert found["wrong"] == []
    assert sum(found["statuses"].values()) == TIMES
    if TIMES >= 100:  # some runs finish before they are interrupted
        assert found["statuses"].get("0", 0) < TIMES / 2


KILLED = """
import os, signal, sys
from pathlib import Path
from napari_ensir.files.atomic import whole_file, whole_folder
whole = {"file": whole_file, "folder": whole_folder}[sys.argv[1]]
with whole(Path(sys.argv[2]), overwrite=True) as part:
    (part if sys.argv[1] == "file" else part / "x").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("kind", "name"), [("file", "a.tif"), ("folder", "a.zarr")])
@pytest.mark.parametrize("relative", [True, False])
def test_parts_of_a_killed_process_are_removed_by_the_next_write(tmp_path, monkeypatch, kind, name, relative):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    target = Path("sub", name) if relative else tmp_path / "sub" / name
    subprocess.run([sys.executable, "-c", KILLED, kind, target], check=False)
    left = list((tmp_path / "sub").iterdir())
    assert [one.name[:6] for one in left] == [".part-"]
    write_image(target, np.ones((8, 8), np.uint8))
    assert [one.name for one in (tmp_path / "sub").iterdir()] == [name]


def test_a_folder_is_searched_for_leftovers_once(tmp_path, monkeypatch):
    searches = []
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: searches.append(folder) or listed(folder))
    for name in "abc":
        write_image(tmp_path / f"{name}.tif", np.ones((8, 8), np.uint8))
    assert searches == [tmp_path]
    assert sorted(listed(tmp_path)) == ["a.tif", "b.tif", "c.tif"]


def test_a_replaced_folder_without_a_successor_gets_its_name_back(tmp_path):
    """A process that is killed between the two renames of a replacement leaves the only copy."""
    for number, name in enumerate(("kept.zarr", "removed.zarr")):
        (tmp_path / f".part-{number}" / f"replaced-{name}" / "old").mkdir(parents=True)
    (tmp_path / "removed.zarr").mkdir()
    write_image(tmp_path / "a.tif", np.ones((8, 8), np.uint8))
    found = [str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*")]
    assert sorted(found) == ["a.tif", "kept.zarr", "kept.zarr/old", "removed.zarr"]


@pytest.mark.parametrize(("whole", "name"), [(whole_file, "a.tif"), (whole_folder, "a.zarr")])
def test_a_part_that_another_writer_holds_is_kept(tmp_path, whole, name):
    with suppress(KeyboardInterrupt), whole(tmp_path / name) as part:
        write_image(tmp_path / name, np.ones((8, 8), np.uint8))
        assert part.exists()
        raise KeyboardInterrupt
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_second_signal_during_cleanup_leaves_the_rest_to_the_exit(tmp_path, monkeypatch):

    def again(path):
        raise KeyboardInterrupt

    (tmp_path / "a.zarr").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("napari_ensir.files.atomic._remove", again)
        with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "a.zarr", overwrite=True):
            raise KeyboardInterrupt
        assert len(list(tmp_path.iterdir())) == 2
    clear_parts()
    assert [one.name for one in tmp_path.iterdir()] == ["a.zarr"]


def test_a_replaced_folder_is_restored_if_the_write_fails(tmp_path, monkeypatch):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "old").touch()

    def stop(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "a.zarr", overwrite=True):
            pass
    assert [one.name for one in tmp_path.rglob("*")] == ["a.zarr", "old"]


def test_zarr_is_written_into_relative_folders(tmp_path, monkeypatch):
    """Python 3.11 creates temporary folders with relative names."""
    pytest.importorskip("zarr")
    monkeypatch.chdir(tmp_path)
    for name in ("sub", "other"):
        Path(name).mkdir()
    Path("other/other").touch()
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("sub", "other"):
        write_image(f"{name}/a.zarr", image)
        np.testing.assert_array_equal(np.asarray(read_image(f"{name}/a.zarr")), image)
    assert sorted(str(one) for one in Path().glob("*/*")) == ["other/a.zarr", "other/other", "sub/a.zarr"]


def test_an_interrupted_zarr_write_leaves_nothing(tmp_path):
    """Other threads still write blocks when one block fails."""
    pytest.importorskip("zarr")
    import dask.array as da

    def block(block_info=None):
        if block_info[None]["chunk-location"] == (0, 0):
            raise KeyboardInterrupt
        return np.ones((50, 50), np.uint8)

    image = da.map_blocks(block, chunks=((50,) * 10, (50,) * 10), dtype=np.uint8)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            write_image(tmp_path / "a.zarr", image)
        assert list(tmp_path.iterdir()) == []


def process(*arguments, **how):
    return subprocess.run(
        [sys.executable, "-m", "napari_ensir.cli", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def test_a_closed_or_full_standard_output_is_an_error(tmp_path):
    from napari_ensir import fit_lut

    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    table = fit_lut([((image // 2, image // 3), image)], device="cpu").save(tmp_path / "a")
    closed = process("info", table, preexec_fn=lambda: os.close(1))
    assert (closed.returncode, closed.stderr.count("\n")) == (1, 1)
    assert "standard output is closed" in closed.stderr
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            taken = process("info", table, "--json", "-", stdout=full)
        assert (taken.returncode, taken.stderr.count("\n")) == (1, 1)
        assert "standard output: No space left" in taken.stderr
    read, write = os.pipe()
    os.close(read)
    gone = process("info", table, stdout=write)
    os.close(write)
    assert gone.returncode == 1
    assert gone.stderr.count("\n") <= 1


def test_ignored_signals_stay_ignored(tmp_path):
    """As under nohup, where a closed terminal does not stop the command."""
    code = (
        "import os, signal; from napari_ensir.cli.signals import run_and_exit\n"
        "run_and_exit(lambda: os.kill(os.getpid(), signal.SIGHUP) or print('went on'))"
    )
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=ignore)
    assert (done.returncode, done.stdout) == (0, "went on\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (129, "")


LOST = """
import os, signal, time
from napari_ensir.cli.signals import run_and_exit

class Loses:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def work():
    Loses()
    while True:
        time.sleep(0.01)

run_and_exit(work)
"""


def test_an_interrupt_lost_in_a_callback_is_raised_again():
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
