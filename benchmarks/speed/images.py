"""Images of the reference set, or synthetic ones."""

from __future__ import annotations

import numpy as np

MODELS = ("MPRNet", "MAXIM", "Restormer")


def reference_images(folder):
    """Return ten RGB images of 1280 x 720 with the predictions of three models."""
    if folder is None or not (folder / "deraining" / "gt").is_dir():
        print("The reference data is absent: synthetic images instead.\n")
        return [synthetic((720, 1280, 3), np.uint8, 255, seed) for seed in range(10)]
    from skimage.io import imread

    def read(kind, stem):
        image = imread(next((folder / "deraining" / kind).glob(f"{stem}.*")))
        return np.tile(image, (2, 3, 1))[:720, :1280].copy()

    stems = sorted(path.stem for path in (folder / "deraining" / "gt").iterdir())
    return [([read(model, stem) for model in MODELS], read("gt", stem)) for stem in stems]


def synthetic(shape, dtype, high, seed):
    """Return a smooth truth and three candidates with independent noise."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    sigma = [8 if size > 8 else 0 for size in shape]
    truth = gaussian_filter(rng.normal(size=shape).astype(np.float32), sigma)
    truth = (truth - truth.min()) / (truth.max() - truth.min()) * 0.7 * high + 0.05 * high
    noisy = [truth + rng.normal(0, scale * high, shape) for scale in (0.005, 0.01, 0.02)]
    *candidates, truth = (np.rint(image).clip(0, high).astype(dtype) for image in (*noisy, truth))
    return candidates, truth


def average_of(candidates):
    """Average three uint8 candidates into float32, without temporary arrays."""
    total = np.add(candidates[0], candidates[1], dtype=np.float32)
    for candidate in candidates[2:]:
        np.add(total, candidate, out=total)
    return np.multiply(total, np.float32(1 / len(candidates)), out=total)
