"""What one reader has checked and another reads: nothing in a network's file runs, however it is altered."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.helpers.paths import ROOT

TIMES = int(os.environ.get("NAPARI_ENSIR_MUTATIONS", "400"))


def test_thousands_of_altered_archives(tmp_path):
    program = ROOT / "tests" / "helpers" / "altered_archives.py"
    done = subprocess.run(
        [sys.executable, program, tmp_path, str(TIMES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print({key: found[key] for key in ("opened", "refused")})
    assert found["ran"] == []
    assert found["raised"] == []
    assert found["opened"] + found["refused"] == TIMES
    assert found["opened"] > TIMES // 20  # some are only odd, and their evil records never reach torch
    assert found["refused"] > TIMES // 3
    assert found["mark"]
    assert "os.system" in str(found["awake"])
