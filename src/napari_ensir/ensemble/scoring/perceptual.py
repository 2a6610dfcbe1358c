"""Metrics by name: MS-SSIM, NRMSE, and full-reference metrics of the package pyiqa, such as LPIPS."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.scoring.metrics import Metric, ms_ssim, nrmse
from napari_ensir.ensemble.scoring.score_table import Column
from napari_ensir.errors import EnsembleError, extra_needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


OWN_METRICS = {
    "ms-ssim": Metric(
        "ms-ssim",
        Column("ms-ssim", "MS-SSIM", decimals=4),
        lambda truth, image, ends, axis: ms_ssim(truth, image, ends[1] - ends[0], axis),
    ),
    "nrmse": Metric(
        "nrmse",
        Column("nrmse", "NRMSE", decimals=4, largest_is_best=False),
        lambda truth, image, *_: nrmse(truth, image),
    ),
}
"""Metrics that need no other package."""


def open_metrics(names: Sequence[str], device: Any = "auto") -> tuple[Metric, ...]:
    """Open metrics by their names.

    Parameters
    ----------
    names : sequence of str
        ``"ms-ssim"``, ``"nrmse"``, or metrics of pyiqa such as ``"lpips"``, ``"dists"`` or ``"topiq_fr"``.
    device : str or torch.device

    Returns
    -------
    tuple of Metric

    Raises
    ------
    EnsembleError
        If pyiqa is not installed, has no such full-reference metric, or cannot load the weights.

    Examples
    --------
    >>> open_metrics(())
    ()
    """
    return tuple(
        OWN_METRICS.get(name.lower()) or _open_perceptual(name, device) for name in dict.fromkeys(names)
    )


def _open_perceptual(name: str, device: Any) -> Metric:
    """Open a full-reference metric of pyiqa, whose weights pyiqa downloads at the first use."""
    others = f"{name} is not one of {', '.join(OWN_METRICS)}; other metrics need pyiqa"
    with extra_needed("perceptual", others):
        import pyiqa
    known = pyiqa.list_models(metric_mode="FR")
    if name not in known:
        known = ", ".join([*OWN_METRICS, *known])
        raise EnsembleError(f"there is no full-reference metric {name!r}; choose from {known}.")
    try:
        opened = pyiqa.create_metric(name, device=resolve_device(device))
    except Exception as error:  # pyiqa and what it downloads with raise exceptions of many types
        raise EnsembleError(
            f"the weights of the metric {name} could not be loaded ({type(error).__name__}: {error}); "
            "pyiqa downloads them at the first use, so check the network connection."
        ) from error
    column = Column(name, name, decimals=4, largest_is_best=not opened.lower_better)
    return Metric(name, column, partial(_perceptual_score, opened))


def _perceptual_score(
    opened: Any,
    truth: NDArray[Any],
    image: NDArray[Any],
    data_range: tuple[float, float],
    channel_axis: int | None,
) -> float:
    """Score an image: the mean over planes, and over channels unless RGB; NaN and infinity count as 0.

    Intensities are scaled from the data range to 0 and 1, and clipped.
    """
    import torch

    low, high = data_range
    batches = []
    for array in (truth, image):
        finite = np.nan_to_num(np.asarray(array, np.float32), posinf=0, neginf=0)
        scaled = np.clip((finite - low) / (high - low), 0, 1)
        if channel_axis is None:
            planes = scaled.reshape(-1, 1, *scaled.shape[-2:])
        else:
            planes = np.moveaxis(scaled, channel_axis, -3)
            channels = 3 if planes.shape[-3] == 3 else 1
            planes = planes.reshape(-1, channels, *planes.shape[-2:])
        batches.append(np.repeat(planes, 3 // planes.shape[1], axis=1))  # the networks take RGB
    with torch.inference_mode():
        scores = [
            float(opened(*(torch.from_numpy(plane[None]) for plane in (restored, reference))))
            for reference, restored in zip(*batches, strict=True)
        ]
    return float(np.mean(scores))
