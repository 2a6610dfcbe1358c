"""TorchScript archives about which ZIP readers disagree do not run code when they are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.helpers.paths import ROOT

TIMES = int(os.environ.get("NAPARI_ENSIR_MUTATIONS", "100"))


def test_altered_archives_run_nothing(tmp_path):
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
    assert found["opened"] > TIMES // 20  # the evil records of some never reach torch
    assert found["refused"] > TIMES // 3
    assert found["mark"]
    assert "os.system" in str(found["detected"])
