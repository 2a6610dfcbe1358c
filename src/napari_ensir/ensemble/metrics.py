"""PSNR and SSIM as the field reports them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["luma", "psnr", "ssim"]


def psnr(truth: NDArray[Any], image: NDArray[Any], data_range: float) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images; NaN pixels are left out.

    Examples
    --------
    >>> psnr(np.zeros((2, 2)), np.full((2, 2), 25.5), 255.0)
    20.0
    """
    difference = np.subtract(truth, image, dtype=np.float64)
    error = float(np.nanmean(difference * difference))
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def ssim(
    truth: NDArray[Any], image: NDArray[Any], data_range: float, channel_axis: int | None = None
) -> float:
    """Structural similarity with a Gaussian window (sigma 1.5, 11 taps), Wang et al. 2004.

    NaN where an axis is shorter than the window's 11 pixels.
    """
    from skimage.metrics import structural_similarity

    axis = None if channel_axis is None else channel_axis % truth.ndim
    if min(size for i, size in enumerate(truth.shape) if i != axis) < 11:
        return float("nan")
    value = structural_similarity(  # type: ignore[no-untyped-call]
        np.asarray(truth, np.float64),
        np.asarray(image, np.float64),
        data_range=data_range,
        channel_axis=channel_axis,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(value)


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
