"""Classical restorers take each plane or volume by itself: what they share.

Where a method wants to know how strong the noise is, it is estimated from each image (Donoho and
Johnstone 1994: the median absolute deviation of the finest wavelet details).
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import ImageRestorer, Progress
from napari_ensir.settings import check_settings, noise_setting, setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["ClassicalRestorer", "NoiseAwareRestorer", "estimate_noise", "with_channels"]

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
