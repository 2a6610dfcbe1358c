"""Function that fits and combines layers, for scripts, and the widget that magicgui makes from it."""

# No import of annotations from the future: magicgui reads them as objects.
from typing import Literal

import napari.layers
import napari.types
from magicgui import magic_factory

from napari_ensir.settings import METHOD_CHOICES, FitSettings, settings_of
from napari_ensir.viewer.fit.request import FitRequest
from napari_ensir.viewer.fit.worker import fit
from napari_ensir.viewer.layers.layers import LayerSnapshot, unwrap_proxy
from napari_ensir.viewer.layers.picker import LayerPicker
from napari_ensir.viewer.results.layers import layers_of_result

_METHOD = next(each for each in settings_of(FitSettings) if each.name == "method")


def combined(
    candidates: list[napari.layers.Image],
    ground_truth: napari.layers.Image,
    method: str = "auto",
    bin_width: float | Literal["auto"] | None = None,
) -> list[napari.types.LayerDataTuple]:
    """Learn how far to trust each candidate at each intensity, and combine the candidates.

    Parameters
    ----------
    candidates : list of M image layers of one shape
        In the order of the table's axes.
    ground_truth : image layer of that shape
    method : "auto", "em", "em-released" or "least-squares"
        As for :func:`napari_ensir.fit_lut`.
    bin_width : float or "auto", optional
        Intensity units; None: an eighth of the data range.

    Returns
    -------
    list of (data, keywords, "image")
        The ensemble, then the weight map of each candidate, float32, placed like the candidates. The
        ``metadata`` of each hold the table.

    Raises
    ------
    EnsembleError
        If the layers cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from napari.layers import Image
    >>> rng = np.random.default_rng(0)
    >>> truth = Image(rng.integers(0, 255, (32, 32)).astype(np.uint8))
    >>> good, poor = Image(truth.data // 2 * 2, name="good"), Image(truth.data // 32 * 32, name="poor")
    >>> [keywords["name"] for _, keywords, _ in combined([good, poor], truth)][:2]
    ['ensemble · Least squares', 'weight of good']
    """
    layers = [unwrap_proxy(layer) for layer in candidates or ()]
    truth = unwrap_proxy(ground_truth)
    axis = -1 if truth is not None and truth.rgb else None
    settings = FitSettings(method=method, bin_width=bin_width, channel_axis=axis)
    request = FitRequest.of_layers(layers, truth, settings)
    result = fit(request)
    return list(layers_of_result(LayerSnapshot(layers[0]), result.lut, result.combined).values())


combine_layers = magic_factory(
    combined,
    call_button="Combine",
    candidates={
        "widget_type": LayerPicker,
        "label": "Candidates",
        "tooltip": "The restorations to combine, in the order of the table's axes.",
    },
    ground_truth={
        "label": "Ground truth",
        "tooltip": "The clean image that the candidates are compared with.",
    },
    method={
        "choices": [(title, key) for key, (title, _) in METHOD_CHOICES.items()],
        "label": _METHOD.title,
        "tooltip": _METHOD.description,
    },
    bin_width={"bind": None},
)
"""Widget that adds the ensemble of the candidates, and the weight maps; see :func:`combined`."""
