from __future__ import annotations

import numpy as np
import pytest

from napari_ensir.restorers.training.trainer import TrainingPairs, TrainingSettings


@pytest.fixture(scope="session")
def images() -> list[tuple[np.ndarray, np.ndarray]]:
    """Two small pairs in colour, 8 bit: disks, and the same faded and under stripes."""
    rows, columns = np.mgrid[:40, :48]
    pairs = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        clean = np.zeros((40, 48, 3))
        for _ in range(6):
            r, c, radius = rng.uniform(0, 40), rng.uniform(0, 48), rng.uniform(5, 14)
            clean[(rows - r) ** 2 + (columns - c) ** 2 < radius**2] = rng.uniform(30, 200, 3)
        degraded = 0.6 * clean + 60 + 30 * (((rows + 2 * columns) % 7) == 0)[..., None]
        pairs.append((degraded.clip(0, 255).astype(np.uint8), clean.astype(np.uint8)))
    return pairs


@pytest.fixture(scope="session")
def pairs(images) -> TrainingPairs:
    return TrainingPairs.from_arrays(images, channel_axis=-1)


@pytest.fixture(scope="session")
def brief() -> TrainingSettings:
    return TrainingSettings(steps=40, batch=2, patch=24, learning_rate=4e-3)
