from __future__ import annotations

import atexit
import gc
import os
import signal
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import typer.main

if TYPE_CHECKING:
    from collections.abc import Callable

# Tests must not use the user's preferences; set before napari is imported.
_PREFERENCES = tempfile.TemporaryDirectory(prefix="napari-ensir-tests-")
os.environ["NAPARI_CONFIG"] = str(Path(_PREFERENCES.name) / "settings.yaml")
atexit.register(_PREFERENCES.cleanup)

# Waiting threads of torch spin, which slows small networks on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A background process ignores Ctrl-C, and the programs that tests interrupt would inherit this.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# The same examples in each run; `make soak` draws others.
hypothesis.settings.register_profile("fixed", derandomize=True)
if "NAPARI_ENSIR_MUTATIONS" not in os.environ:
    hypothesis.settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reverse", action="store_true", help="run the tests in reversed order")
    parser.addoption("--screenshots", metavar="FOLDER", help="keep pictures of the viewer after each test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--reverse", default=False):
        items.reverse()


@pytest.fixture(autouse=True, scope="module")
def _libraries_are_no_garbage() -> None:
    """Exclude imported libraries from garbage collection, which napari runs for each removed layer."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _commands_are_built_once():
    """Keep the parser of the command line, which typer's runner builds for each call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def reference_folder_if_any() -> Path | None:
    """Folder of the deraining set and the published tables, or None."""
    named = os.environ.get("NAPARI_ENSIR_REFERENCE")
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "reference"
    folders = ([Path(named)] if named else []) + [beside]
    return next((folder for folder in folders if (folder / "deraining" / "gt").is_dir()), None)


@pytest.fixture(scope="session")
def reference_folder(reference_folder_if_any):
    """Folder of the deraining set and the published tables; without it, the test is skipped."""
    if reference_folder_if_any is None:
        pytest.skip(
            "the reference data is absent: put it in ../shared/reference or name it in NAPARI_ENSIR_REFERENCE"
        )
    return reference_folder_if_any


@pytest.fixture
def one_thread():
    """Limit OpenMP to one thread, which is faster on small problems."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    pytest.importorskip("sklearn.ensemble")  # the limit applies only to loaded libraries
    with threadpoolctl.threadpool_limits(1):
        yield


@pytest.fixture
def write_network() -> Callable[[Path], Path]:
    """Writes networks that halve the intensities, by the suffix: .pt TorchScript, .onnx ONNX."""
    import torch
    from torch import nn

    class Dim(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.5 * x

    def write(path: Path) -> Path:
        if path.suffix == ".onnx":
            from tests.helpers.onnx_models import scaling_model

            path.write_bytes(scaling_model(0.5))
            return path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated
            torch.jit.trace(nn.Sequential(Dim()), torch.zeros(2, 1, 16, 16)).save(str(path))
        return path

    return write


@pytest.fixture
def write_enlarging() -> Callable[[Path, int], Path]:
    """Write TorchScript networks that enlarge rows and columns by interpolation."""
    import torch
    from torch import nn

    class Enlarge(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.times = float(times)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.interpolate(x, scale_factor=self.times, mode="bilinear")

    def write(path: Path, times: int) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, and still what people have
            torch.jit.trace(nn.Sequential(Enlarge(times)), torch.zeros(1, 1, 16, 16)).save(str(path))
        return path

    return write


@pytest.fixture
def write_dp_ir() -> Callable[[Path, Path], Path]:
    """Write a DP-IR checkpoint that stores its network only by name; it returns the network's image."""
    from napari_ensir.restorers import load_network
    from napari_ensir.restorers.training.dp_ir import DPIR, FusionModel, FusionSettings

    def write(path: Path, network: Path) -> Path:
        ir = load_network(network, device="cpu")
        DPIR(model=FusionModel(FusionSettings(width=8)), ir=ir, trained_steps=1, device="cpu").save(path)
        return path

    return write
