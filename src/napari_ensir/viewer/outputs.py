"""Results as layers, where the candidates are. Adds and updates its own layers, never one of the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.viewer.layers import OUTPUT_KEY

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_ensir.ensemble.lut import WeightLUT
    from napari_ensir.viewer.fitting import Combined
    from napari_ensir.viewer.layers import Origin

__all__ = ["PALETTE", "WEIGHT_VIEWS", "Outputs", "add_outputs"]

WEIGHT_VIEWS = {
    "slider": ("One layer, candidates on a slider", "The weight maps stacked; a slider walks through them."),
    "layers": ("One layer per candidate", "Each candidate's weight map as a layer of its own."),
    "trusted": (
        "Most trusted candidate",
        "A labels layer: at each pixel the candidate with the largest weight.",
    ),
}
"""How weight maps can be shown: title and explanation by key."""

PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#f0e442", "#999999")
"""Candidates' colours, told apart under every common colour blindness (Okabe and Ito 2008); then grey."""


class Outputs:
    """The layers of one result, which later results of the same fit update.

    Parameters
    ----------
    viewer
        Where they are added.
    like
        A candidate: where they lie and how the ensemble is shown.
    label
        What tells this set of layers from others, put before the new layers' names.
    """

    def __init__(self, viewer: napari.Viewer, like: Origin, label: str = "") -> None:
        self._viewer, self._like = viewer, like
        self._before = f"{label} " if label else ""
        self._ensemble: Layer | None = None
        self._weights: list[Layer] = []
        self._view = ""

    def show(self, lut: WeightLUT, combined: Combined, view: str) -> None:
        """Bring the layers up to date, adding those that are not there yet.

        A layer that the user has removed stays removed; other weight layers are added when another view of
        them is asked for.
        """
        if view != self._view:
            self._drop(self._weights)
            self._weights = self._add_weights(lut, combined, view)
            self._view = view
        else:
            for layer, data in zip(self._weights, _weight_data(combined, view), strict=True):
                self._update(layer, data, lut)
        if self._ensemble is None:
            self._ensemble = self._add_ensemble(lut, combined)
        else:
            self._update(self._ensemble, combined.image, lut)

    def _drop(self, layers: list[Layer]) -> None:
        for layer in layers:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    def _update(self, layer: Layer, data: Any, lut: WeightLUT) -> None:
        # Without its mark it is the user's, who has made a layer of their own of it.
        if layer in self._viewer.layers and OUTPUT_KEY in layer.metadata:
            layer.data = data
            layer.metadata[OUTPUT_KEY]["lut"] = lut
            layer.metadata[OUTPUT_KEY]["method"] = lut.method

    def _add_ensemble(self, lut: WeightLUT, combined: Combined) -> Layer:
        like = self._like
        looks = {}
        if not like.rgb:
            # The candidates' own limits, so that the eye compares like with like.
            low, high = like.contrast_limits
            limits = (low, high) if high > low else lut.data_range
            looks = {"contrast_limits": limits, "colormap": like.colormap}
        return self._viewer.add_image(
            combined.image,
            name=f"{self._before}ensemble",
            rgb=like.rgb,
            metadata=_marked(lut, "ensemble"),
            **looks,
            **like.placement(),
        )

    def _add_weights(self, lut: WeightLUT, combined: Combined, view: str) -> list[Layer]:
        data = _weight_data(combined, view)
        look = {"rgb": False, "colormap": "viridis", "contrast_limits": (0, 1), "visible": False}
        mark = _marked(lut, "weights")
        if view == "slider":
            name = f"{self._before}weights: " + ", ".join(lut.names)
            place = self._like.placement(stacked=True)
            return [self._viewer.add_image(data[0], name=name, metadata=mark, **look, **place)]
        place = self._like.placement()
        if view == "layers":
            return [
                self._viewer.add_image(
                    part,
                    name=f"{self._before}weight of {name}",
                    metadata=_marked(lut, "weights"),
                    **look,
                    **place,
                )
                for name, part in zip(lut.names, data, strict=True)
            ]
        return [
            self._viewer.add_labels(
                data[0], name=f"{self._before}most trusted", metadata=mark, **_legend(lut), **place
            )
        ]


def _marked(lut: WeightLUT, kind: str) -> dict[str, Any]:
    """What an output remembers: its kind, and the table itself."""
    return {OUTPUT_KEY: {"kind": kind, "lut": lut, "candidates": list(lut.names), "method": lut.method}}


def _weight_data(combined: Combined, view: str) -> list[Any]:
    if view == "slider":
        return [combined.maps]
    if view == "layers":
        return list(combined.maps)
    return [combined.maps.argmax(axis=0).astype(np.uint8) + np.uint8(1)]


def _legend(lut: WeightLUT) -> dict[str, Any]:
    """Colours and names of the labels: napari shows the name under the pointer."""
    import pandas as pd
    from napari.utils.colormaps import DirectLabelColormap

    colours = {None: "transparent", 0: "transparent"}
    colours |= {i + 1: PALETTE[min(i, len(PALETTE) - 1)] for i in range(lut.n_candidates)}
    names = pd.DataFrame({"index": range(lut.n_candidates + 1), "candidate": ["", *lut.names]})
    return {"colormap": DirectLabelColormap(color_dict=colours), "features": names, "opacity": 0.6}


def add_outputs(
    viewer: napari.Viewer,
    like: Origin,
    lut: WeightLUT,
    combined: Combined,
    view: str = "slider",
    label: str = "",
) -> Outputs:
    """Add a result's layers as new ones."""
    outputs = Outputs(viewer, like, label)
    outputs.show(lut, combined, view)
    return outputs
