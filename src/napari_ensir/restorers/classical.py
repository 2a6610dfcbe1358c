"""Restorers that need no training, most of them from scikit-image.

Every parameter has a sensible start. :data:`CLASSICAL` lists the methods, so that a user interface
can be built from it.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import ImageRestorer, Progress
from napari_ensir.settings import check_settings, noise_setting, seed_setting, setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "CLASSICAL",
    "Bilateral",
    "ClassicalRestorer",
    "Gaussian",
    "Median",
    "NoiseAwareRestorer",
    "NonLocalMeans",
    "RichardsonLucy",
    "TotalVariation",
    "UnsupervisedWiener",
    "Wavelet",
    "bilateral",
    "estimate_noise",
    "with_channels",
]


ROWS = 32
"""Rows worked on at once, so that a window's many passes stay in a core's cache."""


def bilateral(image: NDArray[np.float32], intensity: float, distance: float) -> NDArray[np.float32]:
    """Each pixel's mean over a window, weighted by nearness in space and in intensity.

    Tomasi and Manduchi 1998, both weights Gaussian. The window reaches three standard deviations of distance,
    two pixels at least; beyond the border the image is mirrored.

    Parameters
    ----------
    image : (C, Y, X) float32
        Intensities of channels are one point, whose distance to another's counts.
    intensity : float
        Standard deviation of the weight by intensity, intensity units; above 0.
    distance : float
        Standard deviation of the weight by distance, pixels; above 0.

    Returns
    -------
    (C, Y, X) float32

    Examples
    --------
    >>> step = np.repeat(np.float32([[[10, 90]]]), 6, axis=-1) + np.float32([[[1], [-1], [1], [-1]]])
    >>> np.unique(bilateral(step, intensity=5, distance=2).round())
    array([10., 90.], dtype=float32)
    """
    reach = max(2, ceil(3 * distance))
    padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    rows, columns = image.shape[1:]
    by_distance = np.exp(-np.square(np.arange(-reach, reach + 1) / distance) / 2).astype(np.float32)
    scale = np.float32(-1 / (2 * intensity**2))
    result = np.empty_like(image)
    for first in range(0, rows, ROWS):
        here = image[:, first : first + ROWS]
        total, weights = np.zeros_like(here), np.zeros(here.shape[1:], np.float32)
        for down, right in product(range(2 * reach + 1), repeat=2):
            other = padded[:, first + down : first + down + here.shape[1], right : right + columns]
            weight = np.exp(np.square(other - here).sum(axis=0) * scale)
            weight *= by_distance[down] * by_distance[right]
            total += weight * other
            weights += weight
        result[:, first : first + ROWS] = total / weights
    return result


# A noiseless image has an estimate of 0, which the methods would divide by. On the unit scale.
_LEAST_NOISE = 1e-6
_LEAST_SIZE = 5  # pixels along rows and columns: the noise estimate's wavelet is four wide


def estimate_noise(image: NDArray[np.float32]) -> float:
    """Standard deviation of Gaussian noise in an image of shape (channels, ..., rows, columns).

    The mean over channels of Donoho and Johnstone's estimate, in the image's own units.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0, 0.1, (1, 64, 64)).astype(np.float32)
    >>> round(estimate_noise(noise), 2)
    0.1
    """
    from skimage.restoration import estimate_sigma

    with warnings.catch_warnings():
        # scikit-image takes the median of the details that are not 0: of none where nothing varies.
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        sigmas = estimate_sigma(image, channel_axis=0)  # type: ignore[no-untyped-call]
    return float(np.mean(np.nan_to_num(sigmas)))


@dataclass(frozen=True, kw_only=True)
class ClassicalRestorer(ImageRestorer):
    """A restorer that takes each plane or volume by itself.

    The last `spatial_ndim` axes (beside the channel axis) are restored together; all axes before
    them are gone through one by one, and the work can be cancelled between them. Within one plane
    or volume scikit-image cannot be interrupted.
    """

    title: ClassVar[str]
    description: ClassVar[str]
    planes_only: ClassVar[bool] = False

    spatial_ndim: int = setting(
        2,
        title="Dimensions",
        description="2 restores plane by plane; 3 takes the last three axes as a volume.",
        minimum=2,
        maximum=3,
        step=1,
    )

    @property
    def name(self) -> str:
        """The method's title."""
        return self.title

    def restore_unit(
        self, image: NDArray[np.float32], scale: float, progress: Progress
    ) -> NDArray[np.float32]:
        """See :meth:`ImageRestorer.restore_unit`."""
        self._check(image)
        before = image.shape[1 : image.ndim - self.spatial_ndim]
        total = int(np.prod(before))
        restored = np.empty_like(image)
        progress(0, total, self.name)
        for done, index in enumerate(np.ndindex(before), start=1):
            at = (slice(None), *index)
            restored[at] = self.restore_block(image[at], scale)
            progress(done, total, self.name)
        return restored

    @abstractmethod
    def restore_block(self, block: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
        """Restore one plane or volume of shape (channels, [planes,] rows, columns), range 0..1.

        Parameters
        ----------
        block : (channels, ..., rows, columns) float32
            On the unit scale.
        scale : float
            Intensity units that are one there.

        Returns
        -------
        float32 array of that shape
        """

    def _check(self, image: NDArray[np.float32]) -> None:
        if self.planes_only and self.spatial_ndim != 2:
            raise EnsembleError(f"{self.name} works plane by plane: spatial_ndim has to be 2.")
        if self.spatial_ndim not in (2, 3) or self.spatial_ndim > image.ndim - 1:
            raise EnsembleError(
                f"{self.name} over {self.spatial_ndim} dimensions cannot be done on an image with "
                f"{image.ndim - 1} beside the channel axis; use 2{' or 3' if image.ndim > 3 else ''}."
            )
        if min(image.shape[-2:]) < _LEAST_SIZE:
            raise EnsembleError(
                f"the image has {image.shape[-2]} x {image.shape[-1]} pixels; at least "
                f"{_LEAST_SIZE} x {_LEAST_SIZE} are needed."
            )
        check_settings(self, f"{self.name}: ")


@dataclass(frozen=True, kw_only=True)
class NoiseAwareRestorer(ClassicalRestorer):
    """A method whose strength follows the noise."""

    noise: float | None = noise_setting()

    def noise_of(self, block: NDArray[np.float32], scale: float) -> float:
        """The noise of a block on the unit scale, given or estimated, never quite 0.

        Parameters
        ----------
        block : (channels, ..., rows, columns) float32
            On the unit scale.
        scale : float
            Intensity units that are one there.

        Returns
        -------
        float
        """
        sigma = estimate_noise(block) if self.noise is None else self.noise / scale
        return max(sigma, _LEAST_NOISE)


def with_channels(
    function: Callable[..., Any], block: NDArray[np.float32], **settings: Any
) -> NDArray[np.float32]:
    """Call a scikit-image function on a block whose channel axis is the first.

    A single channel goes in without its axis: scikit-image 0.26 returns it transposed otherwise
    (non-local means).
    """
    if len(block) == 1:
        return np.asarray(function(block[0], **settings), np.float32)[np.newaxis]
    restored = function(np.moveaxis(block, 0, -1), channel_axis=-1, **settings)
    return np.moveaxis(np.asarray(restored, np.float32), -1, 0)


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
