"""Sample sets: a real image, degraded by a stated model, restored by scikit-image in ways that differ.

Computed when opened, from images that scikit-image carries; nothing is downloaded. The seed is fixed: the
sample is the same on every machine up to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.lut.record import record_of
from napari_ensir.viewer.layers.layers import RECORD_KEY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    LayerData = tuple[NDArray[Any], dict[str, Any], str]

__all__ = ["deconvolved_coins", "denoised_stack", "denoised_tissue", "two_exposures"]

_SEED = 20241029


def _as_uint8(image: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _as_layers(
    truth: tuple[str, NDArray[Any]],
    degraded: tuple[str, NDArray[Any]],
    candidates: dict[str, NDArray[Any]],
    **keywords: Any,
) -> list[LayerData]:
    """Layers with the truth lowest and hidden, on top the candidates, which say what they were made of."""
    layers: list[LayerData] = [
        (image, {"name": name, "visible": False, **keywords}, "image") for name, image in (truth, degraded)
    ]
    for name, image in candidates.items():
        record = record_of("restored", inputs={"image": degraded[0]}, restorer={"name": name})
        layers.append((image, {"name": name, "metadata": {RECORD_KEY: record}, **keywords}, "image"))
    return layers


def denoised_tissue() -> list[LayerData]:
    """Immunohistochemistry (RGB, uint8) under Poisson and Gaussian noise, denoised in four ways.

    The count at full intensity is 40 photons per channel, the read noise 0.03 of the range (Gaussian). The
    pixel size of 0.5 micrometre is nominal.
    """
    from skimage import data
    from skimage.restoration import denoise_bilateral, denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

    rng = np.random.default_rng(_SEED)
    truth = data.immunohistochemistry()[64:448, 64:448]
    clean = truth / 255.0
    noisy = np.clip(rng.poisson(clean * 40) / 40 + rng.normal(0, 0.03, clean.shape), 0, 1)
    noisy = noisy.astype(np.float32)
    candidates = {
        "total variation": denoise_tv_chambolle(noisy, weight=0.12, channel_axis=-1),
        "wavelet": denoise_wavelet(noisy, channel_axis=-1, convert2ycbcr=True, rescale_sigma=True),
        "non-local means": denoise_nl_means(
            noisy, patch_size=5, patch_distance=5, h=0.10, sigma=0.1, fast_mode=True, channel_axis=-1
        ),
        "bilateral": denoise_bilateral(noisy, sigma_color=0.25, sigma_spatial=2, win_size=9, channel_axis=-1),
    }
    return _as_layers(
        ("ground truth", truth),
        ("noisy", _as_uint8(noisy)),
        {name: _as_uint8(image) for name, image in candidates.items()},
        rgb=True,
        scale=(0.5, 0.5),
        units=("um", "um"),
    )


def deconvolved_coins() -> list[LayerData]:
    """Coins (grey, float32 in 0..1), blurred and noisy, deconvolved in four ways.

    The blur is a Gaussian of 1.6 pixels, the noise Gaussian of 0.02 of the range.
    """
    from scipy.ndimage import gaussian_filter
    from skimage import data
    from skimage.restoration import denoise_tv_chambolle, richardson_lucy, unsupervised_wiener, wiener

    rng = np.random.default_rng(_SEED)
    truth = (data.coins() / 255.0).astype(np.float32)
    blurred = gaussian_filter(truth, 1.6) + rng.normal(0, 0.02, truth.shape)
    blurred = np.clip(blurred, 1e-4, 1).astype(np.float32)
    place = np.arange(-7, 8)
    profile = np.exp(-0.5 * (place / 1.6) ** 2)
    kernel = np.outer(profile, profile)
    kernel /= kernel.sum()
    padded = np.pad(blurred, 16, mode="reflect")

    def cut(image: NDArray[Any]) -> NDArray[np.float32]:
        return np.clip(image[16:-16, 16:-16], 0, 1).astype(np.float32)

    candidates = {
        "Richardson-Lucy": cut(richardson_lucy(padded, kernel, num_iter=12)),
        "Wiener": cut(wiener(padded, kernel, balance=0.08)),
        "unsupervised Wiener": cut(
            unsupervised_wiener(padded, kernel, rng=_SEED, user_params={"max_num_iter": 60})[0]
        ),
        "total variation": cut(denoise_tv_chambolle(padded, weight=0.03)),
    }
    return _as_layers(("ground truth", truth), ("blurred", blurred), candidates, contrast_limits=(0, 1))


def denoised_stack() -> list[LayerData]:
    """A focus series in 3-D (uint16, 12 bit), noisy, denoised in three ways.

    Made from the camera image under a blur that grows away from the middle plane; 16 planes, 4-fold coarser
    in z. Poisson noise at 60 photons for full scale and Gaussian noise of 0.02 of the range.
    """
    from scipy.ndimage import gaussian_filter, median_filter
    from skimage import data
    from skimage.restoration import denoise_tv_chambolle
    from skimage.transform import downscale_local_mean

    rng = np.random.default_rng(_SEED)
    image = downscale_local_mean(data.camera() / 255.0, (2, 2))
    clean = np.stack([gaussian_filter(image, 0.3 + 0.35 * abs(plane - 8)) for plane in range(16)])
    noisy = np.clip(rng.poisson(clean * 60) / 60 + rng.normal(0, 0.02, clean.shape), 0, 1).astype(np.float32)

    def as_uint16(stack: NDArray[Any]) -> NDArray[np.uint16]:
        return np.rint(np.clip(stack, 0, 1) * 4095).astype(np.uint16)

    candidates = {
        "total variation": denoise_tv_chambolle(noisy, weight=0.1),
        "median": median_filter(noisy, size=(3, 3, 3)),
        "Gaussian": gaussian_filter(noisy, (0.7, 1.0, 1.0)),
    }
    return _as_layers(
        ("ground truth", as_uint16(clean)),
        ("noisy", as_uint16(noisy)),
        {name: as_uint16(stack) for name, stack in candidates.items()},
        scale=(2.0, 0.5, 0.5),
        units=("um", "um", "um"),
        axis_labels=("z", "y", "x"),
        contrast_limits=(0, 4095),
    )


def two_exposures() -> list[LayerData]:
    """A cell (uint16, 12 bit) exposed twice, the first exposure denoised in four ways; no ground truth.

    Poisson noise at 50 photons for full scale and Gaussian read noise of 0.015 of that. The camera's offset
    of 400, and a gain that leaves room above, keep the noise from being cut off.
    """
    from scipy.ndimage import gaussian_filter
    from skimage import data
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

    rng = np.random.default_rng(_SEED)
    clean = data.cell()[150:534, 100:484] / 255.0
    first, second = (rng.poisson(clean * 50) / 50 + rng.normal(0, 0.015, clean.shape) for _ in range(2))

    def as_uint16(image: NDArray[Any]) -> NDArray[np.uint16]:
        return np.rint(np.clip(400 + 2200 * image, 0, 4095)).astype(np.uint16)

    candidates = {
        "total variation": denoise_tv_chambolle(first, weight=0.1),
        "wavelet": denoise_wavelet(first, rescale_sigma=True),
        "non-local means": denoise_nl_means(first, patch_size=5, patch_distance=5, h=0.06, fast_mode=True),
        "Gaussian": gaussian_filter(first, 1.2),
    }
    return _as_layers(
        ("second exposure", as_uint16(second)),
        ("first exposure", as_uint16(first)),
        {name: as_uint16(image) for name, image in candidates.items()},
        contrast_limits=(300, 2600),
        scale=(0.1, 0.1),
        units=("um", "um"),
    )
