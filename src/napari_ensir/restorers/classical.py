"""Restorers that need no training, most of them from scikit-image.

Every parameter has a sensible start. :data:`CLASSICAL` lists the methods, so that a user interface
can be built from it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from napari_ensir.restorers.bilateral import bilateral
from napari_ensir.restorers.deconvolution import RichardsonLucy, UnsupervisedWiener
from napari_ensir.restorers.planewise import (
    ClassicalRestorer,
    NoiseAwareRestorer,
    estimate_noise,
    with_channels,
)
from napari_ensir.settings import setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CLASSICAL",
    "Bilateral",
    "ClassicalRestorer",
    "Gaussian",
    "Median",
    "NonLocalMeans",
    "RichardsonLucy",
    "TotalVariation",
    "UnsupervisedWiener",
    "Wavelet",
    "estimate_noise",
]


@dataclass(frozen=True, kw_only=True)
class NonLocalMeans(NoiseAwareRestorer):
    """Average of pixels with similar surroundings (Buades, Coll and Morel 2005)."""

    title: ClassVar[str] = "Non-local means"
    description: ClassVar[str] = "Averages pixels whose surroundings look alike; keeps texture that repeats."

    strength: float = setting(
        0.8,
        title="Strength",
        description="Cut-off of the similarity in units of the noise; higher is smoother.",
        minimum=0.01,
        maximum=10.0,
        step=0.1,
    )
    patch_size: int = setting(
        5,
        title="Patch size",
        description="Side of the surroundings, in pixels.",
        minimum=3,
        maximum=21,
        step=2,
    )
    patch_distance: int = setting(
        6,
        title="Patch distance",
        description="How far to search for alike surroundings, in pixels.",
        minimum=1,
        maximum=50,
        step=1,
    )

    def restore_block(self, block: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
        """See :meth:`ClassicalRestorer.restore_block`."""
        from skimage.restoration import denoise_nl_means

        sigma = self.noise_of(block, scale)
        return with_channels(
            denoise_nl_means,
            block,
            patch_size=self.patch_size,
            patch_distance=self.patch_distance,
            h=self.strength * sigma,
            sigma=sigma,
            fast_mode=True,
        )


@dataclass(frozen=True, kw_only=True)
class TotalVariation(NoiseAwareRestorer):
    """The image of least total variation near the given one (Chambolle 2004)."""

    title: ClassVar[str] = "Total variation"
    description: ClassVar[str] = "Smooths within regions and keeps their edges; fine texture is lost first."

    strength: float = setting(
        0.7,
        title="Strength",
        description="Weight of the smoothness in units of the noise; higher is smoother.",
        minimum=0.01,
        maximum=20.0,
        step=0.1,
    )
    iterations: int = setting(
        200, title="Iterations", description="Most iterations to make.", minimum=1, maximum=5000, step=10
    )

    def restore_block(self, block: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
        """See :meth:`ClassicalRestorer.restore_block`."""
        from skimage.restoration import denoise_tv_chambolle

        return with_channels(
            denoise_tv_chambolle,
            block,
            weight=self.strength * self.noise_of(block, scale),
            max_num_iter=self.iterations,
        )


@dataclass(frozen=True, kw_only=True)
class Wavelet(NoiseAwareRestorer):
    """Shrinkage of wavelet coefficients (Chang, Yu and Vetterli 2000; Donoho and Johnstone 1994)."""

    title: ClassVar[str] = "Wavelet"
    description: ClassVar[str] = "Shrinks the small wavelet coefficients, which noise makes; fast."

    wavelet: str = setting(
        "db2",
        title="Wavelet",
        description="Family of the wavelet.",
        choices=("db1", "db2", "sym4", "coif1", "db4"),
    )
    method: str = setting(
        "BayesShrink",
        title="Thresholds",
        description="BayesShrink adapts to each subband; VisuShrink takes one and is smoother.",
        choices=("BayesShrink", "VisuShrink"),
    )

    def restore_block(self, block: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
        """See :meth:`ClassicalRestorer.restore_block`."""
        from skimage.restoration import denoise_wavelet

        sigma = self.noise_of(block, scale)
        with warnings.catch_warnings():
            # PyWavelets warns where a block is hardly larger than the wavelet; it is no error.
            warnings.filterwarnings("ignore", message="Level value of")
            return with_channels(
                denoise_wavelet,
                block,
                sigma=sigma,
                wavelet=self.wavelet,
                method=self.method,
                mode="soft",
                rescale_sigma=False,
            )


@dataclass(frozen=True, kw_only=True)
class Bilateral(NoiseAwareRestorer):
    """Average weighted by nearness in space and in intensity (Tomasi and Manduchi 1998)."""

    title: ClassVar[str] = "Bilateral"
    description: ClassVar[str] = "Averages near pixels of near intensity; plane by plane only."

    planes_only: ClassVar[bool] = True
    spatial_ndim: int = 2  # a window of a volume has thousands of places, so this is no choice of the user's
    strength: float = setting(
        1.2,
        title="Strength",
        description="Width of the intensity weight in units of the noise; higher is smoother.",
        minimum=0.1,
        maximum=50.0,
        step=0.1,
    )
    radius: float = setting(
        1.5,
        title="Radius",
        description="Standard deviation of the distance weight, in pixels.",
        minimum=0.1,
        maximum=20.0,
        step=0.1,
    )

    def restore_block(self, block: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
        """See :meth:`ClassicalRestorer.restore_block`."""
        return bilateral(block, self.strength * self.noise_of(block, scale), self.radius)


@dataclass(frozen=True, kw_only=True)
class Gaussian(ClassicalRestorer):
    """Convolution with a Gaussian."""

    title: ClassVar[str] = "Gaussian"
    description: ClassVar[str] = "Blurs noise and detail alike; the simplest there is."

    sigma: float = setting(
        1.0,
        title="Sigma",
        description="Standard deviation of the Gaussian, in pixels.",
        minimum=0.0,
        maximum=50.0,
        step=0.1,
    )

    def restore_block(self, block: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
        """See :meth:`ClassicalRestorer.restore_block`."""
        from skimage.filters import gaussian

        settings = {"mode": "reflect", "preserve_range": True, "channel_axis": 0}
        return np.asarray(gaussian(block, self.sigma, **settings), np.float32)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, kw_only=True)
class Median(ClassicalRestorer):
    """Median over a square or cubic neighbourhood."""

    title: ClassVar[str] = "Median"
    description: ClassVar[str] = "Removes single outlying pixels and keeps edges."

    size: int = setting(
        3, title="Size", description="Side of the neighbourhood, in pixels.", minimum=1, maximum=51, step=2
    )

    def restore_block(self, block: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
        """See :meth:`ClassicalRestorer.restore_block`."""
        from skimage.filters import median

        footprint = np.ones((self.size,) * self.spatial_ndim)
        filtered = [median(each, footprint, mode="reflect") for each in block]  # type: ignore[no-untyped-call]
        return np.stack(filtered)


CLASSICAL: dict[str, type[ClassicalRestorer]] = {
    "non-local-means": NonLocalMeans,
    "total-variation": TotalVariation,
    "wavelet": Wavelet,
    "bilateral": Bilateral,
    "gaussian": Gaussian,
    "median": Median,
    "richardson-lucy": RichardsonLucy,
    "unsupervised-wiener": UnsupervisedWiener,
}
"""Every classical restorer under the key that scripts and the command line use. The classes carry
``title`` and ``description``; :func:`napari_ensir.settings.settings_of` lists their settings."""
