"""Classical deconvolution, from scikit-image: undo a Gaussian blur of known width."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from napari_ensir.restorers.planewise import ClassicalRestorer
from napari_ensir.settings import seed_setting, setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RichardsonLucy", "UnsupervisedWiener"]


@dataclass(frozen=True, kw_only=True)
class _Deconvolution(ClassicalRestorer):
    """A method that undoes a blur of known width."""

    psf_sigma: float = setting(
        1.0,
        title="Blur",
        description="Standard deviation of the Gaussian that blurred the image, in pixels.",
        minimum=0.1,
        maximum=20.0,
        step=0.1,
    )

    def restore_block(self, block: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
        """See :meth:`ClassicalRestorer.restore_block`."""
        reach = int(np.ceil(4 * self.psf_sigma))
        line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / self.psf_sigma) ** 2)
        psf = line
        for _ in range(self.spatial_ndim - 1):
            psf = np.multiply.outer(psf, line)
        psf /= psf.sum()
        # Both methods take the image to be dark or periodic beyond its border; reflect it there.
        pad = [(2 * reach, 2 * reach)] * self.spatial_ndim
        inner = (slice(2 * reach, -2 * reach),) * self.spatial_ndim
        return np.stack([self.deconvolve(np.pad(each, pad, "symmetric"), psf)[inner] for each in block])

    @abstractmethod
    def deconvolve(self, channel: NDArray[np.float32], psf: NDArray[np.float64]) -> NDArray[np.float32]:
        """Deconvolve one padded channel with a point spread function that sums to 1."""


@dataclass(frozen=True, kw_only=True)
class RichardsonLucy(_Deconvolution):
    """Richardson-Lucy deconvolution (Richardson 1972, Lucy 1974).

    The low end of the data range counts as darkness: what lies below it is taken as 0.
    """

    title: ClassVar[str] = "Richardson-Lucy"
    description: ClassVar[str] = "Sharpens an image blurred by a Gaussian; more iterations sharpen noise too."

    iterations: int = setting(
        10, title="Iterations", description="How often to refine.", minimum=1, maximum=1000, step=5
    )

    def deconvolve(self, channel: NDArray[np.float32], psf: NDArray[np.float64]) -> NDArray[np.float32]:
        """See :meth:`_Deconvolution.deconvolve`."""
        from skimage.restoration import richardson_lucy

        restored = richardson_lucy(  # type: ignore[no-untyped-call]
            np.clip(channel, 0, None), psf, num_iter=self.iterations, clip=False, filter_epsilon=1e-6
        )
        return np.asarray(restored, np.float32)


@dataclass(frozen=True, kw_only=True)
class UnsupervisedWiener(_Deconvolution):
    """Wiener-Hunt deconvolution that finds its own regularisation (Orieux, Giovannelli, Rodet 2010)."""

    title: ClassVar[str] = "Unsupervised Wiener"
    description: ClassVar[str] = "Sharpens an image blurred by a Gaussian and learns how far from the image."

    planes_only: ClassVar[bool] = True
    spatial_ndim: int = 2  # scikit-image has it for planes alone, so this is no choice of the user's
    seed: int = seed_setting()

    def deconvolve(self, channel: NDArray[np.float32], psf: NDArray[np.float64]) -> NDArray[np.float32]:
        """See :meth:`_Deconvolution.deconvolve`."""
        from skimage.restoration import unsupervised_wiener

        restored, _ = unsupervised_wiener(  # type: ignore[no-untyped-call]
            channel, psf, clip=False, rng=self.seed
        )
        return np.asarray(restored, np.float32)
