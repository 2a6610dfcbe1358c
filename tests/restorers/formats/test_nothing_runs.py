"""Opening and applying a network file imports, runs and writes nothing, whatever the file contains.

Files are opened in a process that ends when a program, an import, a socket or a written file is seen.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from onnx import helper
from onnx.external_data_helper import set_external_data
from safetensors.torch import save_file

from napari_ensir.restorers.training.models import NetworkShape, Regression, RegressionModel
from tests.helpers.careamics_files import configuration, network_of, write_checkpoint, write_package
from tests.helpers.onnx_models import mean_model, model, scaling_model
from tests.restorers.formats.test_bioimageio import CASES, PLAIN, Fixed, package

if TYPE_CHECKING:
    from pathlib import Path

LOOK = """
    import collections, os, pathlib, sys, tempfile, types, typing, warnings
    import numpy as np, safetensors.torch, torch
    from napari_ensir.errors import EnsembleError
    from napari_ensir.restorers import open_restorer

    class Descriptor:  # replaces spandrel
        input_channels = output_channels = scale = 1
        architecture = types.SimpleNamespace(name="NAFNet")
        eval = to = lambda self, *_: self
        __call__ = lambda self, x: 0.5 * x
    class Loader:
        def __init__(self, device): pass
        def load_from_file(self, path):
            if str(path).endswith(".safetensors"):
                safetensors.torch.load_file(path)
            else:
                torch.load(path, weights_only=False)  # as spandrel does
            return Descriptor()
    class Unsupported(Exception): pass
    sys.modules["spandrel"] = types.ModuleType("spandrel")
    sys.modules["spandrel_extra_arches"] = types.SimpleNamespace(install=lambda **_: None)
    vars(sys.modules["spandrel"]).update(
        ImageModelDescriptor=Descriptor, ModelLoader=Loader, UnsupportedModelError=Unsupported
    )

    watched = []
    ours = tempfile.gettempdir() + os.sep  # the tensors are copied there for spandrel
    def look(event, arguments):
        if not watched:
            return
        what = arguments[0] if arguments else ""
        if event == "exec" and sys._getframe(1).f_code.co_filename in (collections.__file__, typing.__file__):
            return  # annotations and named tuples of torch
        if event == "open":
            wrong = isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
            wrong = wrong and not str(what).startswith(ours)
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            wrong = isinstance(what, str) and os.path.isabs(what) and not what.startswith(ours)
        else:
            wrong = event in ("exec", "import", "os.system", "os.exec", "os.posix_spawn", "os.rename")
            wrong = wrong or event.startswith(("socket.", "ctypes.", "subprocess."))
        if wrong:
            print("SEEN", event, arguments, flush=True)
            os._exit(3)
    sys.addaudithook(look)
    def every():
        for path in sorted(pathlib.Path(sys.argv[1]).glob("*/*")):
            try:
                open_restorer(path, device="cpu")(np.full((16, 16), 100.0))
                print("opened", path)
            except EnsembleError as error:
                print("refused", path, error)
    warnings.simplefilter("ignore")
    every()  # imports of the package happen now
    watched.append(True)
    every()
"""


class Runs:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return exec, (f"open({str(self.trace)!r}, 'w').close()",)


def careamics(folder: Path, hostile: Runs) -> None:
    network = network_of(depth=1)
    write_checkpoint(folder / "good.ckpt", network, configuration(network))
    write_checkpoint(folder / "bad.ckpt", network, configuration(network), change={"callbacks": hostile})
    write_package(folder / "good.zip", network, configuration(network))

    def with_code(rdf: dict, files: dict) -> None:
        rdf["weights"]["pytorch_state_dict"].pop("sha256")
        torch.save({"final_conv.bias": hostile}, folder / "w")
        files |= {"weights.pth": (folder / "w").read_bytes(), "torch.py": b"raise SystemExit('it ran')"}
        (folder / "w").unlink()

    write_package(folder / "bad.zip", network, configuration(network), with_code)
    for name in ("code", "library", "settings that ask for objects", "path"):
        write_package(folder / f"bad_{name.split()[0]}.zip", network, configuration(network), CASES[name][0])


def torchscript(folder: Path, hostile: Runs) -> None:
    package(folder, Fixed([1, 1, 16, 16]), PLAIN, PLAIN).rename(folder / "good.zip")
    with zipfile.ZipFile(folder / "good.zip") as archive:
        (folder / "good.pt").write_bytes(archive.read("weights/w"))
    altered(folder / "good.pt", folder / "bad_state.pt", b"def __setstate__(self, state):\n  pass\n")
    with zipfile.ZipFile(folder / "bad.zip", "w") as archive, zipfile.ZipFile(folder / "good.zip") as good:
        text = good.read("rdf.yaml").decode()
        archive.writestr("rdf.yaml", "\n".join(line for line in text.splitlines() if "sha256" not in line))
        archive.writestr("weights/w", (folder / "bad_state.pt").read_bytes())
    torch.save(hostile, folder / "bad_pickle.pt")


def altered(source: Path, target: Path, code: bytes) -> None:
    """Add code to an archive."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr(f"{old.namelist()[0].partition('/')[0]}/code/__torch__/more.py", code)


def onnx(folder: Path, hostile: Runs) -> None:
    (folder / "good.onnx").write_bytes(scaling_model(0.5))
    package(folder, scaling_model(0.5, (1, 1, 16, 16)), PLAIN, PLAIN).rename(folder / "good.zip")
    foreign = model([helper.make_node("Relu", ["x"], ["y"], domain="evil.lib")])
    (folder / "bad_operator.onnx").write_bytes(foreign.SerializeToString())
    outside = mean_model()
    set_external_data(outside.graph.initializer[0], "../trace")
    (folder / "bad_data.onnx").write_bytes(outside.SerializeToString())
    (folder / "bad_pickle.onnx").write_bytes(pickle.dumps(hostile))
    torch.save(hostile, folder / "bad_archive.onnx")


def weights(folder: Path, hostile: Runs) -> None:
    torch.save({"weight": torch.zeros(1)}, folder / "good.pth")
    torch.save({"weight": hostile}, folder / "bad.pth")
    torch.save({"weight": hostile}, folder / "bad_old.pth", _use_new_zipfile_serialization=False)
    (folder / "bad_plain.pth").write_bytes(pickle.dumps(hostile))
    (folder / "bad_plain.ckpt").write_bytes(pickle.dumps(hostile))


def safetensors(folder: Path, hostile: Runs) -> None:
    model = RegressionModel(NetworkShape(width=4, depth=1))
    Regression(model=model, trained_steps=1, device="cpu").save(folder / "good.safetensors")
    save_file({"weight": torch.zeros(1)}, folder / "good_published.safetensors")
    (folder / "bad.safetensors").write_bytes(pickle.dumps(hostile))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_nothing_is_imported_run_or_written(tmp_path):
    networks, scratch = tmp_path / "networks", tmp_path / "scratch"
    scratch.mkdir()
    for write in (careamics, torchscript, onnx, weights, safetensors):
        (networks / write.__name__).mkdir(parents=True)
        write(networks / write.__name__, Runs(tmp_path / "trace"))
    paths = sorted(networks.glob("*/*"))
    quiet = ("CI", "ORT_DISABLE_TELEMETRY")  # they stop onnxruntime's telemetry, which the package has to do
    environment = {key: value for key, value in os.environ.items() if key not in quiet}
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOOK), str(networks)],
        cwd=scratch,
        env={**environment, "TMPDIR": str(scratch), "HOME": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = [line.split()[:2] for line in answer.stdout.splitlines()]
    expected = [["opened" if path.name.startswith("good") else "refused", str(path)] for path in paths]
    assert found == 2 * expected, answer.stdout
    assert sorted(networks.glob("*/*")) == paths
    assert sorted(path.name for path in tmp_path.iterdir()) == ["networks", "scratch"]
    assert not list(scratch.iterdir())


def test_the_hook_detects_code_that_runs(tmp_path):
    """Without this, the test above would prove nothing."""
    code = textwrap.dedent(LOOK).replace(
        "open_restorer(path", "(watched and os.system(':')) or open_restorer(path"
    )
    (tmp_path / "networks").mkdir()
    np.savez(tmp_path / "networks" / "a.zip")
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 3, answer.stdout + answer.stderr
    assert "SEEN os.system" in answer.stdout
