"""A save that is cut short leaves the old file, whole; tables of old are read for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from napari_ensir import load_lut
from tests.helpers.paths import DATA, ROOT

TIMES = int(os.environ.get("NAPARI_ENSIR_INTERRUPTIONS", "30"))
TABLES = sorted(DATA.glob("*.lut.safetensors"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows neither forks nor limits the size of files")
def test_killed_saves_and_a_full_disk_leave_a_whole_table(tmp_path):
    program = ROOT / "tests" / "helpers" / "interrupted_saves.py"
    answer = subprocess.run(
        [sys.executable, str(program), str(tmp_path), str(TIMES)], capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert result["whole"] == TIMES
    if TIMES >= 100:  # some kills come between two saves
        assert result["written"] > TIMES / 10
    assert result["last"] == ["A", "B"]
    assert result["kept"]  # what somebody is writing stays; what a killed process left goes
    assert result["cleared"] == ["rain.lut.safetensors"]
    assert result["message"].endswith(
        "could not be written: File too large. Nothing was left behind; choose a folder with enough space, "
        "to which you may write."
    )
    assert result["same"]
    assert result["end"] == ["rain.lut.safetensors"]


def test_there_are_tables_of_old():
    assert len(TABLES) >= 9


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.name.partition(".")[0])
def test_tables_of_old(path):
    lut = load_lut(path)
    wanted = json.loads(path.with_name(path.name.partition(".")[0] + ".json").read_text(encoding="utf-8"))
    for name in ("method", "bin_width", "unseen", "channel_axis", "report"):
        assert getattr(lut, name) == wanted[name], name
    for name in ("names", "data_range"):
        assert list(getattr(lut, name)) == wanted[name], name
    for name in ("rows", "weights", "counts", "fallback"):
        np.testing.assert_array_equal(getattr(lut, name), wanted[name], err_msg=name)
    images = [np.array(image, wanted["dtype"]) for image in wanted["candidates"]]
    np.testing.assert_allclose(lut.apply(images, device="cpu"), wanted["ensemble"], rtol=1e-6)
