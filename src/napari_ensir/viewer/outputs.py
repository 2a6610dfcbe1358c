"""Puts results into the viewer as new layers, where the candidates are. Never touches a layer of the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_ensir.viewer.layers import OUTPUT_KEY, placement

if TYPE_CHECKING:
    import napari
    from napari.layers import Image, Layer

    from napari_ensir.ensemble.lut import WeightLUT
    from napari_ensir.viewer.fitting import Combined

__all__ = ["add_ensemble", "add_weight_maps"]


def _marked(lut: WeightLUT, kind: str) -> dict[str, Any]:
    """What an output remembers: its kind, and the table itself."""
    return {OUTPUT_KEY: {"kind": kind, "lut": lut, "candidates": list(lut.names), "method": lut.method}}


def add_ensemble(viewer: napari.Viewer, like: Layer, lut: WeightLUT, combined: Combined) -> Image:
    """Add the ensemble as a new image layer, shown as the candidates are."""
    looks = {} if like.rgb else {"contrast_limits": _limits(like, lut), "colormap": like.colormap.name}
    return viewer.add_image(
        combined.image,
        name="ensemble",
        rgb=bool(like.rgb),
        metadata=_marked(lut, "ensemble"),
        **looks,
        **placement(like),
    )


def _limits(like: Layer, lut: WeightLUT) -> tuple[float, float]:
    # The candidates' own, so that the eye compares like with like; a lazy layer's may be a guess.
    low, high = like.contrast_limits
    return (float(low), float(high)) if high > low else lut.data_range


def add_weight_maps(viewer: napari.Viewer, like: Layer, lut: WeightLUT, combined: Combined) -> Image:
    """Add the weight maps as one new layer, the candidates along its first axis."""
    keywords = placement(like, extra_axis="candidate")
    return viewer.add_image(
        combined.maps,
        name="weights: " + ", ".join(lut.names),
        rgb=False,
        colormap="viridis",
        contrast_limits=(0, 1),
        metadata=_marked(lut, "weights"),
        visible=False,
        **keywords,
    )
