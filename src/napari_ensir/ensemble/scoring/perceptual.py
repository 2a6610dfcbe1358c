"""Metrics by name: MS-SSIM, NRMSE, and full-reference metrics of the package pyiqa, such as LPIPS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_ensir.devices import resolve_device
from napari_ensir.ensemble.scoring.metrics import ms_ssim, nrmse
from napari_ensir.ensemble.scoring.score_table import Column
from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_ensir.ensemble.scoring.metrics import Metric


class _OwnMetric(NamedTuple):
    """A metric of this package."""

    name: str
    column: Column
    function: Callable[..., float]

    def __call__(
        self,
        truth: NDArray[Any],
        image: NDArray[Any],
        data_range: tuple[float, float],
        channel_axis: int | None = None,
    ) -> float:
        return self.function(truth, image, data_range[1] - data_range[0], channel_axis)


OWN_METRICS = {
    "ms-ssim": _OwnMetric("ms-ssim", Column("ms-ssim", "MS-SSIM", decimals=4), ms_ssim),
    "nrmse": _OwnMetric(
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
    return tuple(OWN_METRICS.get(name) or PerceptualMetric(name, device) for name in dict.fromkeys(names))


class PerceptualMetric:
    """A full-reference metric of pyiqa, whose weights pyiqa downloads at the first use.

    Parameters
    ----------
    name : str
    device : str or torch.device

    Attributes
    ----------
    column : Column
        Column of a score table.

    Raises
    ------
    EnsembleError
        As :func:`open_metrics`.
    """

    def __init__(self, name: str, device: Any = "auto") -> None:
        try:
            import pyiqa
        except ImportError as error:
            raise EnsembleError(
                f'the metric {name} needs pyiqa; install it with: pip install "napari-ensir[perceptual]".'
            ) from error
        known = pyiqa.list_models(metric_mode="FR")
        if name not in known:
            known = ", ".join([*OWN_METRICS, *known])
            raise EnsembleError(f"there is no full-reference metric {name!r}; choose from {known}.")
        try:
            self._metric = pyiqa.create_metric(name, device=resolve_device(device))
        except Exception as error:  # pyiqa and what it downloads with raise exceptions of many types
            raise EnsembleError(
                f"the weights of the metric {name} could not be loaded ({type(error).__name__}: {error}); "
                "pyiqa downloads them at the first use, so check the network connection."
            ) from error
        self.name = name
        self.column = Column(name, name, decimals=4, largest_is_best=not self._metric.lower_better)

    def __call__(
        self,
        truth: NDArray[Any],
        image: NDArray[Any],
        data_range: tuple[float, float],
        channel_axis: int | None = None,
    ) -> float:
        """Score an image against the ground truth: the mean over planes, and over channels unless RGB.

        Pixels that are not finite count as 0.

        Parameters
        ----------
        truth, image : arrays of one shape
        data_range : (low, high)
            Scaled to 0 and 1; intensities outside are clipped.
        channel_axis : int, optional
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
                float(self._metric(*(torch.from_numpy(plane[None]) for plane in (restored, reference))))
                for reference, restored in zip(*batches, strict=True)
            ]
        return float(np.mean(scores))
