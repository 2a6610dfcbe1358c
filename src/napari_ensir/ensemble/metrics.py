"""PSNR and SSIM as the field reports them. Chooses no peak and clips nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["luma", "psnr", "psnr_of_error", "ssim"]

TAPS = 11
"""Side of SSIM's window: sigma 1.5, cut off at 3.5 sigma."""


def psnr_of_error(error: float, peak: float) -> float:
    """PSNR in dB of a mean squared error.

    Parameters
    ----------
    error : float
        Squared intensity units.
    peak : float
        Intensity units: 255 for 8 bit.

    Examples
    --------
    >>> psnr_of_error(25.5**2, 255.0)
    20.0
    """
    return float("inf") if error <= 0 else float(10 * np.log10(peak**2 / error))


def psnr(
    truth: NDArray[Any], image: NDArray[Any], peak: float, valid: NDArray[np.bool_] | None = None
) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images, NaN where no pixel is left.

    Parameters
    ----------
    truth, image : arrays of one shape
    peak : float
        Intensity units.
    valid : bool array of that shape, optional
        Pixels that count; None: those that are finite in both.

    Examples
    --------
    >>> psnr(np.zeros((2, 2)), np.full((2, 2), 25.5), 255.0)
    20.0
    """
    with np.errstate(invalid="ignore", over="ignore"):  # where a pixel is not finite, it is left out below
        difference = np.subtract(truth, image, dtype=np.float64)
        if valid is None:
            valid = np.isfinite(difference)
        squares = np.square(difference, out=difference)
    if valid.all():
        return psnr_of_error(float(squares.mean()), peak)
    return psnr_of_error(float(squares[valid].mean()), peak) if valid.any() else float("nan")


def ssim(
    truth: NDArray[Any],
    image: NDArray[Any],
    peak: float,
    channel_axis: int | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> float:
    """Structural similarity with a Gaussian window (sigma 1.5, 11 taps), Wang et al. 2004.

    Only windows that hold nothing but valid pixels count, so that a pixel that is left out sways nothing. NaN
    where there is no such window, or an axis is shorter than it.

    Parameters
    ----------
    truth, image : arrays of one shape
    peak : float
        Intensity units.
    channel_axis : int, optional
        Channels are scored one by one and averaged.
    valid : bool array of that shape, optional
        Pixels that count; None: those that are finite in both.

    Examples
    --------
    >>> image = np.add.outer(np.arange(16.0), np.arange(16.0))
    >>> ssim(image, image, 30.0)
    1.0
    """
    axis = None if channel_axis is None else channel_axis % truth.ndim
    if min(size for i, size in enumerate(truth.shape) if i != axis) < TAPS:
        return float("nan")
    if valid is None:
        valid = np.isfinite(truth) & np.isfinite(image)
    whole = bool(valid.all())
    first, second = (np.asarray(x if whole else np.where(valid, x, 0), np.float64) for x in (truth, image))
    similarity = _similarity_map(first, second, peak, axis)
    inner = tuple(slice(None) if i == axis else slice(TAPS // 2, -(TAPS // 2)) for i in range(truth.ndim))
    if whole:
        return float(similarity[inner].mean())
    from scipy.ndimage import minimum_filter

    size = tuple(1 if i == axis else TAPS for i in range(truth.ndim))
    counting = minimum_filter(valid, size=size)[inner]
    return float(similarity[inner][counting].mean()) if counting.any() else float("nan")


def _similarity_map(
    truth: NDArray[np.float64], image: NDArray[np.float64], peak: float, axis: int | None
) -> NDArray[np.float64]:
    """SSIM of the window about each pixel, of the images' shape."""
    from skimage.metrics import structural_similarity

    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        truth,
        image,
        data_range=peak,
        channel_axis=axis,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return np.asarray(similarity, np.float64)


def luma(image: NDArray[Any]) -> NDArray[np.float64]:
    """Y of BT.601 YCbCr, 16 to 235, of an RGB image on 0..255 with the channel last.

    Raises
    ------
    EnsembleError
        If the last axis has not three channels.
    """
    if image.shape[-1] != 3:
        raise EnsembleError(
            f"the image has shape {image.shape}; luma needs red, green and blue on the last axis."
        )
    return np.asarray(16 + image @ np.array([65.481, 128.553, 24.966]) / 255, np.float64)
