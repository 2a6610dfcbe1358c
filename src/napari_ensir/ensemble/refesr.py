"""RefESR: an ensemble for super-resolution, compared with (Jiang et al. 2019, and its authors' code)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from napari_ensir.ensemble.baselines import scale_of, stacked
from napari_ensir.ensemble.metrics import luma, psnr
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.baselines import Image, Pair
    from napari_ensir.ensemble.inputs import Progress

__all__ = ["RefESR"]


@dataclass
class RefESR:
    """One weight vector per image from its low-resolution input, drawn toward the reference set's PSNRs.

    Authors' code: ``wref_m ~ exp(-(max PSNR - PSNR_m) ** 2 / 0.07 ** 2)``, then
    ``w = argmin |l - D w| ** 2 + 0.8 |w - wref| ** 2`` under ``sum w = 1``, where ``l`` is the low-resolution
    image and ``D`` holds the candidates downsampled bicubically to it, all as luma on 0 to 1. In closed form,
    with ``A = [D; sqrt(0.8) I]``, ``c = [l; sqrt(0.8) wref]``, ``C = (A - c 1')'(A - c 1') + 1e-9 tr(C) I``:
    ``w = C^-1 1 / (1' C^-1 1)``. Weights may be negative.

    Parameters
    ----------
    data_range : (low, high), optional
        Intensities that become 0 and 1; None: what the ground truths learned from show.
    """

    data_range: tuple[float, float] | None = None
    name: str = "RefESR"
    note: str = ""
    preferred: NDArray[np.float64] | None = None
    scale: tuple[float, float] = (0.0, 1.0)

    SPREAD: ClassVar[float] = 0.07
    TRUST: ClassVar[float] = 0.8

    def __post_init__(self) -> None:
        self.scale = self.data_range or self.scale

    def fit(self, reference: Sequence[Pair], progress: Progress | None = None) -> None:
        """Mean PSNR of each candidate on the reference set, as weights."""
        self.scale = scale_of(reference, self.data_range)
        scores = np.array([[psnr(self._grey(t), self._grey(x), 1.0) for x in xs] for xs, t in reference])
        mean = np.minimum(scores, 1000.0).mean(axis=0)  # a perfect candidate's PSNR is infinite
        preferred = np.exp(-(((mean.max() - mean) / self.SPREAD) ** 2))
        self.preferred = preferred / preferred.sum()

    def _grey(self, image: Image) -> NDArray[np.float64]:
        low, high = self.scale
        scaled = (np.asarray(image, np.float64) - low) / (high - low)
        return luma(scaled * 255) / 255 if scaled.ndim == 3 and scaled.shape[-1] == 3 else scaled

    def weights(self, candidates: Sequence[Image], low_resolution: Image) -> NDArray[np.float64]:
        """Weights of one image's candidates, (M,), summing to one.

        Pixels of the low-resolution image count where it and all candidates about them are finite.

        Raises
        ------
        EnsembleError
            If the low-resolution image is not a downsampled one of the candidates' kind.
        """
        small = self._grey(low_resolution)
        large = [self._grey(candidate) for candidate in candidates]
        if small.ndim != 2 or any(image.ndim != 2 for image in large):
            raise EnsembleError(
                f"RefESR takes grey or RGB images in two dimensions, not {np.shape(candidates[0])} with a "
                f"low-resolution input of {np.shape(low_resolution)}."
            )
        shrunk = np.stack([_downsampled(image, small.shape).ravel() for image in large], axis=1)
        finite = np.isfinite(small.ravel()) & np.isfinite(shrunk).all(axis=1)
        m, root = len(large), np.sqrt(self.TRUST)
        left = np.vstack([shrunk[finite], root * np.eye(m)])
        right = np.concatenate([small.ravel()[finite], root * np.asarray(self.preferred)])
        away = left - right[:, None]
        gram = away.T @ away
        solved = np.linalg.solve(gram + 1e-9 * np.trace(gram) * np.eye(m), np.ones(m))
        return np.asarray(solved / solved.sum())

    def predict(
        self, candidates: Sequence[Image], low_resolution: Image | None = None
    ) -> NDArray[np.float64]:
        """Their weighted mean.

        Raises
        ------
        EnsembleError
            If there is no low-resolution input.
        """
        if low_resolution is None:
            raise EnsembleError(
                "RefESR needs the low-resolution input of every image; give them, or leave it out."
            )
        return np.asarray(np.tensordot(self.weights(candidates, low_resolution), stacked(candidates), axes=1))


def _downsampled(image: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Bicubic with antialiasing (Keys' kernel, a = -0.5), as MATLAB's ``imresize`` does it."""
    import torch

    if any(large < small for large, small in zip(image.shape, shape, strict=True)):
        raise EnsembleError(
            f"the low-resolution input has shape {shape}, larger than its candidates' {image.shape}."
        )
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    small = torch.nn.functional.interpolate(
        tensor, size=shape, mode="bicubic", antialias=True, align_corners=False
    )
    return np.asarray(small[0, 0].numpy(), np.float64)
