"""Sample data: images of scikit-image, degraded with a fixed seed and restored by several methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.viewer.layers.layers import RECORD_KEY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    LayerData = tuple[NDArray[Any], dict[str, Any], str]

_SEED = 20241029


def _quantised(image: NDArray[Any], gain: float, top: int, offset: float = 0) -> NDArray[Any]:
    """The image as a camera stores it: uint8, or uint16 if the largest value ``top`` needs it."""
    return np.rint(np.clip(offset + gain * image, 0, top)).astype(np.uint8 if top < 256 else np.uint16)


def _as_layers(images: dict[str, NDArray[Any]], **keywords: Any) -> list[LayerData]:
    """Layers: first a hidden reference and the hidden degraded image, then candidates with a record."""
    reference, degraded, *candidates = images
    layers: list[LayerData] = [
        (images[name], {"name": name, "visible": False, **keywords}, "image")
        for name in (reference, degraded)
    ]
    for name in candidates:
        record = record_of("restored", inputs={"image": degraded}, restorer={"name": name})
        layers.append((images[name], {"name": name, "metadata": {RECORD_KEY: record}, **keywords}, "image"))
    return layers


def denoised_tissue() -> list[LayerData]:
    """Return immunohistochemistry (RGB, uint8) with noise, denoised by four methods.

    Poisson noise of 40 photons per channel at full intensity and Gaussian noise of 0.03 of the range. The
    pixel size of 0.5 µm is nominal.
    """
    from skimage import data
    from skimage.restoration import denoise_bilateral, denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

    rng = np.random.default_rng(_SEED)
    clean = data.immunohistochemistry()[64:448, 64:448] / 255.0
    noisy = np.clip(rng.poisson(clean * 40) / 40 + rng.normal(0, 0.03, clean.shape), 0, 1)
    noisy = noisy.astype(np.float32)
    images = {
        "ground truth": clean,
        "noisy": noisy,
        "total variation": denoise_tv_chambolle(noisy, weight=0.12, channel_axis=-1),
        "wavelet": denoise_wavelet(noisy, channel_axis=-1, convert2ycbcr=True, rescale_sigma=True),
        "non-local means": denoise_nl_means(
            noisy, patch_size=5, patch_distance=5, h=0.10, sigma=0.1, fast_mode=True, channel_axis=-1
        ),
        "bilateral": denoise_bilateral(noisy, sigma_color=0.25, sigma_spatial=2, win_size=9, channel_axis=-1),
    }
    return _as_layers(
        {name: _quantised(image, 255, 255) for name, image in images.items()},
        rgb=True,
        scale=(0.5, 0.5),
        units=("um", "um"),
    )


def deconvolved_coins() -> list[LayerData]:
    """Return coins (grey, float32 in 0..1) with blur and noise, deconvolved by four methods.

    Gaussian blur with sigma 1.6 pixels and Gaussian noise of 0.02 of the range.
    """
    from scipy.ndimage import gaussian_filter
    from skimage import data
    from skimage.restoration import denoise_tv_chambolle, richardson_lucy, unsupervised_wiener, wiener

    rng = np.random.default_rng(_SEED)
    truth = (data.coins() / 255.0).astype(np.float32)
    blurred = gaussian_filter(truth, 1.6) + rng.normal(0, 0.02, truth.shape)
    blurred = np.clip(blurred, 1e-4, 1).astype(np.float32)
    offset = np.arange(-7, 8)
    profile = np.exp(-0.5 * (offset / 1.6) ** 2)
    kernel = np.outer(profile, profile)
    kernel /= kernel.sum()
    padded = np.pad(blurred, 16, mode="reflect")

    def crop(image: NDArray[Any]) -> NDArray[np.float32]:
        return np.clip(image[16:-16, 16:-16], 0, 1).astype(np.float32)

    images = {
        "ground truth": truth,
        "blurred": blurred,
        "Richardson-Lucy": crop(richardson_lucy(padded, kernel, num_iter=12)),
        "Wiener": crop(wiener(padded, kernel, balance=0.08)),
        "unsupervised Wiener": crop(
            unsupervised_wiener(padded, kernel, rng=_SEED, user_params={"max_num_iter": 60})[0]
        ),
        "total variation": crop(denoise_tv_chambolle(padded, weight=0.03)),
    }
    return _as_layers(images, contrast_limits=(0, 1))


def denoised_stack() -> list[LayerData]:
    """Return a focus series (3-D, uint16, 12 bit) with noise, denoised by three methods.

    The camera image with a blur that grows with the distance from the middle plane; 16 planes, four times
    coarser in z. Poisson noise of 60 photons at full intensity and Gaussian noise of 0.02 of the range.
    """
    from scipy.ndimage import gaussian_filter, median_filter
    from skimage import data
    from skimage.restoration import denoise_tv_chambolle
    from skimage.transform import downscale_local_mean

    rng = np.random.default_rng(_SEED)
    image = downscale_local_mean(data.camera() / 255.0, (2, 2))
    clean = np.stack([gaussian_filter(image, 0.3 + 0.35 * abs(plane - 8)) for plane in range(16)])
    noisy = np.clip(rng.poisson(clean * 60) / 60 + rng.normal(0, 0.02, clean.shape), 0, 1).astype(np.float32)
    images = {
        "ground truth": clean,
        "noisy": noisy,
        "total variation": denoise_tv_chambolle(noisy, weight=0.1),
        "median": median_filter(noisy, size=(3, 3, 3)),
        "Gaussian": gaussian_filter(noisy, (0.7, 1.0, 1.0)),
    }
    return _as_layers(
        {name: _quantised(stack, 4095, 4095) for name, stack in images.items()},
        scale=(2.0, 0.5, 0.5),
        units=("um", "um", "um"),
        axis_labels=("z", "y", "x"),
        contrast_limits=(0, 4095),
    )


def two_exposures() -> list[LayerData]:
    """Return two exposures of a cell (uint16, 12 bit), the first denoised by four methods; no ground truth.

    Poisson noise of 50 photons at full intensity and Gaussian noise of 0.015 of the range. The offset of 400
    and the gain keep the noise from being clipped.
    """
    from scipy.ndimage import gaussian_filter
    from skimage import data
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

    rng = np.random.default_rng(_SEED)
    clean = data.cell()[150:534, 100:484] / 255.0
    first, second = (rng.poisson(clean * 50) / 50 + rng.normal(0, 0.015, clean.shape) for _ in range(2))
    images = {
        "second exposure": second,
        "first exposure": first,
        "total variation": denoise_tv_chambolle(first, weight=0.1),
        "wavelet": denoise_wavelet(first, rescale_sigma=True),
        "non-local means": denoise_nl_means(first, patch_size=5, patch_distance=5, h=0.06, fast_mode=True),
        "Gaussian": gaussian_filter(first, 1.2),
    }
    return _as_layers(
        {name: _quantised(image, 2200, 4095, offset=400) for name, image in images.items()},
        contrast_limits=(300, 2600),
        scale=(0.1, 0.1),
        units=("um", "um"),
    )
