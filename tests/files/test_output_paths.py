from __future__ import annotations

import os
from pathlib import Path

import pytest

from napari_ensir import EnsembleError
from napari_ensir.files.paths import Place, check_output_paths


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("link").symlink_to("sub")
    Path("sub/a.tif").write_text("a")
    Path("to_a.tif").symlink_to("sub/a.tif")
    os.link("sub/a.tif", "hard.tif")
    return tmp_path


def places(*paths: str, gathers: bool = False) -> list[Place]:
    return [Place(f"--{number}", Path(path), gathers) for number, path in enumerate(paths)]


@pytest.mark.parametrize(
    "pair",
    [
        ("o.tif", "./o.tif"),
        ("sub/o.tif", "link/o.tif"),
        ("sub/../o.tif", "o.tif"),
        ("sub/a.tif", "to_a.tif"),
        ("sub/a.tif", "hard.tif"),
        ("sub/new/o.tif", "link/new/o.tif"),
    ],
)
def test_outputs_in_one_place(here, pair):
    for first, second in (pair, pair[::-1], (pair[0], str(here / pair[1]))):
        with pytest.raises(EnsembleError, match=r"--0 and --1 both lead to"):
            check_output_paths(places(first, second))
        with pytest.raises(EnsembleError, match="which is read"):
            check_output_paths(places(first), [Place("a candidate", Path(second))])


def test_outputs_within_each_other():
    for first, second in (("o.zarr", "o.zarr/x.json"), ("sub/o.zarr", "link/o.zarr/c/x")):
        for pair in ((first, second), (second, first)):
            with pytest.raises(EnsembleError, match="lies within"):
                check_output_paths(places(*pair))
        with pytest.raises(EnsembleError, match="lies within"):
            check_output_paths(places(second), [Place("a candidate", Path(first))])
        with pytest.raises(EnsembleError, match="would replace"):
            check_output_paths(places(first), [Place("a candidate", Path(second))])


def test_folders_that_gather_files():
    out, maps = places("res", "res/maps", gathers=True)
    check_output_paths([out, maps, Place("--out", Path("res/a.tif")), Place("--json", Path("res/s.json"))])
    with pytest.raises(EnsembleError, match="both lead to res"):
        check_output_paths([out, Place("--weight-maps", Path("res/"), gathers=True)])
    with pytest.raises(EnsembleError, match="both lead to res"):
        check_output_paths([out, Place("--json", Path("res"))])
    with pytest.raises(EnsembleError, match="which is read"):
        check_output_paths([out], [Place("candidate A", Path("res"), gathers=True)])


@pytest.mark.parametrize("path", [".", "..", "sub/.."])
def test_what_is_no_name(path):
    with pytest.raises(EnsembleError, match="is a folder; give a name in it"):
        check_output_paths(places(path))


def test_the_work_grows_with_the_number_of_paths(monkeypatch):
    calls, resolve = [], os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: calls.append(path) or resolve(path))
    work = []
    for count in (50, 100):
        calls.clear()
        outputs = [Place("--out", Path(f"res/{number}.tif")) for number in range(count)]
        check_output_paths(
            outputs, [Place("a candidate", Path(f"in/{number}.tif")) for number in range(count)]
        )
        work.append(len(calls))
    assert work[1] == 2 * work[0]
