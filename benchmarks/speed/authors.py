"""The EnsIR authors' functions, imported from a checkout of their repository."""

from __future__ import annotations

import sys
import tempfile
import types
from pathlib import Path

import numpy as np


class Authors:
    """The EnsIR authors' functions, on the tensors that they expect."""

    def __init__(self, checkout):
        for name in ("cv2", "matplotlib", "matplotlib.pyplot", "torchvision", "torchvision.transforms"):
            sys.modules.setdefault(name, types.ModuleType(name))
        sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
        metrics = types.ModuleType("compute_psnr")
        metrics.compute_metrics = None
        sys.modules.setdefault("compute_psnr", metrics)
        sys.path.insert(0, str(checkout))
        import ensemble_util

        self.code = ensemble_util

    @staticmethod
    def tensor(images):
        """Return the candidates as the float tensor that the functions expect."""
        import torch

        return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32))

    def fit(self, images, width):
        """Fit a table to a reference set."""
        stacks = [np.stack([*c, t]).transpose(0, 3, 1, 2).reshape(4, 3, -1) for c, t in images]
        import torch

        stack = torch.from_numpy(np.concatenate(stacks, axis=-1)).float()
        with tempfile.TemporaryDirectory() as folder:
            return self.code.compute_ensemble_weight(
                stack[:-1], stack[-1:], str(Path(folder) / "w.pth"), width, False
            )

    def apply(self, weights, candidates, width):
        """Combine the candidates of one image."""
        return self.code.ensemble_single(weights, candidates, width)
