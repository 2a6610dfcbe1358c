"""Layers of a result, which are placed like the candidates and updated by later results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Layer
from napari.utils import Colormap
from napari.utils.colormaps import CyclicLabelColormap

from napari_ensir.settings import METHODS
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.layers.layers import OUTPUT_KEY, add_slider_caption
from napari_ensir.viewer.layers.session import preference

if TYPE_CHECKING:
    from collections.abc import Iterator

    import napari

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.viewer.layers.layers import LayerSnapshot
    from napari_ensir.viewer.results.combining import Images

    LayerData = tuple[Any, dict[str, Any], str]

WEIGHT_VIEWS = {
    "layers": ("One layer each", "A separate layer for the weight map of each candidate."),
    "slider": (
        "One layer with a slider",
        "One layer with a stack of weight maps; the slider selects the candidate.",
    ),
    "trusted": (
        "Most trusted",
        "A labels layer: at each pixel the candidate with the largest weight.",
    ),
}
"""Ways to show weight maps: title and explanation by key."""


def weights_choice() -> Choice:
    """Return the control of how weight maps are shown."""
    return Choice(
        WEIGHT_VIEWS,
        value=preference("weights"),
        name="weights",
        label="Weights as",
        tooltip="How the weight maps are shown.",
    )


PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#f0e442", "#999999")
"""Colours of the candidates, distinct in all common colour blindness (Okabe and Ito 2008); then grey."""


def colour_of(candidate: int) -> str:
    """Return the colour of a candidate, given its index."""
    return PALETTE[min(candidate, len(PALETTE) - 1)]


ERRORS = Colormap(["#0072b2", "#f7f7f7", "#d55e00"], name="napari-ensir errors")
"""Blue where an image is too dark, white where it is right, red where it is too bright."""


_WEIGHT_LOOKS: dict[str, Any] = {
    "rgb": False,
    "colormap": "viridis",
    "contrast_limits": (0, 1),
    "visible": False,
}


def method_title(lut: WeightLUT) -> str:
    """Title of a table's method."""
    return METHODS[lut.method][0] if lut.method in METHODS else lut.method


@dataclass(frozen=True)
class Errors:
    """An ensemble and a single candidate minus the ground truth.

    Attributes
    ----------
    ensemble, best : list of (*shape without colours) float32 arrays
        Intensity units; the mean over the colours of an RGB image. Further arrays are lower resolutions.
    best_name : str
        The candidate with the least error.
    limit : float
        99.5th percentile of the absolute errors in one plane, of the larger image.
    """

    ensemble: list[Any]
    best: list[Any]
    best_name: str
    limit: float


def layers_of_result(
    like: LayerSnapshot,
    lut: WeightLUT,
    images: Images,
    view: str = "layers",
    errors: Errors | None = None,
    expected: list[Any] | None = None,
) -> dict[str, LayerData]:
    """Return the layers of a result as layer data tuples, by a key that starts with their kind.

    Parameters
    ----------
    like
        A candidate, which gives their placement and the look of the ensemble.
    lut
    images
    view
        Key of :data:`WEIGHT_VIEWS`.
    errors
    expected
        The expected error at each pixel, and at lower resolutions.
    """
    levels = (images, *images.coarser)
    title = method_title(lut)
    looks: dict[str, Any] = {} if like.rgb else {"contrast_limits": lut.data_range, "colormap": like.colormap}
    made: dict[str, LayerData] = {}

    def add(key: str, kind: str, data: list[Any], name: str, how: str = "image", **look: Any) -> None:
        mark = {"kind": kind, "lut": lut, "candidates": list(lut.names), "method": lut.method}
        place = like.placement(stacked=key == "weights slider")
        keywords = {
            "name": name,
            "metadata": {OUTPUT_KEY: mark},
            "multiscale": len(data) > 1,
            **look,
            **place,
        }
        made[key] = (data if len(data) > 1 else data[0], keywords, how)

    add("ensemble", "ensemble", [each.image for each in levels], f"ensemble · {title}", rgb=like.rgb, **looks)
    if view == "slider":
        # Visible, since napari shows a slider for a hidden layer, too.
        look = {**_WEIGHT_LOOKS, "visible": True}
        add("weights slider", "weights", [each.maps for each in levels], "weights", **look)
    elif view == "layers":
        for place, name in enumerate(lut.names):
            maps = [each.maps_by_candidate[place] for each in levels]
            add(f"weights layers {place}", "weights", maps, f"weight of {name}", **_WEIGHT_LOOKS)
    else:
        data, name = [each.most_trusted for each in levels], "most trusted"
        add("weights trusted", "weights", data, name, "labels", **_legend(lut))
    if errors is not None:
        look = {"rgb": False, "colormap": ERRORS, "contrast_limits": (-errors.limit, errors.limit)}
        add("error best", "error", errors.best, f"error of {errors.best_name}", **look)
        add("error ensemble", "error", errors.ensemble, f"error of ensemble · {title}", **look)
    if expected is not None:
        name = f"expected error (intensity units) · {title}"
        look = {"rgb": False, "colormap": "magma", "contrast_limits": (0.0, largest_expected_error(lut))}
        add("expected error", "expected error", expected, name, **look)
    return made


def largest_expected_error(lut: WeightLUT) -> float:
    """The largest error that a calibrated table expects, intensity units."""
    errors = lut.errors
    if errors is None or not errors.counts.any():
        return 1.0
    return float(errors.rmse[errors.counts > 0].max())


def _legend(lut: WeightLUT) -> dict[str, Any]:
    """Colours and names of the labels; napari shows the name under the pointer."""
    return {
        # Not a dictionary of colours, for which napari compiles seconds at the first layer that has one.
        "colormap": CyclicLabelColormap(colors=["transparent", *map(colour_of, range(lut.n_candidates))]),
        "features": {"index": range(lut.n_candidates + 1), "candidate": ["", *lut.names]},
        "opacity": 0.6,
    }


@dataclass
class _Made:
    """A layer, and what this package has set, so that changes by the user are kept."""

    layer: Layer
    first: Any
    name: str
    limits: tuple[float, float] | None


class Outputs:
    """The layers of one result, updated by later results of the same fit.

    Layers that the user has removed stay removed.

    Parameters
    ----------
    viewer
        The viewer they are added to.
    like
        A candidate, which gives their placement and the look of the ensemble.
    label
        Prefix of the new layers' names.
    """

    def __init__(self, viewer: napari.Viewer, like: LayerSnapshot, label: str = "") -> None:
        self._viewer, self._like = viewer, like
        self._prefix = f"{label} " if label else ""
        self._made: dict[str, _Made] = {}
        self._latest: object = None

    def showing(self, lut: WeightLUT, images: Images, view: str, **more: Any) -> Iterator[None]:
        """Update or add the layers of :func:`layers_of_result`, one after the other.

        napari needs a tenth of a second to create, add or remove a layer, during which the window is blocked.
        Each is one iteration. A later call replaces the remaining iterations of an earlier one. Weights in
        another view are removed.
        """
        wanted = layers_of_result(self._like, lut, images, view, **more)
        self._latest = wanted
        return self._showing(wanted)

    def _showing(self, wanted: dict[str, LayerData]) -> Iterator[None]:
        for key in [key for key in self._made if key.startswith("weights") and key not in wanted]:
            layer = self._made.pop(key).layer
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
            yield
        for key, (data, keywords, how) in wanted.items():
            if self._latest is not wanted:
                return
            keywords["name"] = self._prefix + keywords["name"]
            if key in self._made:
                self._update(self._made[key], data, keywords)
            else:
                layer = Layer.create(data, keywords, how)
                yield
                if self._latest is not wanted:
                    return
                self._add(key, layer, data)
            yield

    def _add(self, key: str, layer: Any, data: Any) -> None:
        layers = self._viewer.layers
        place = len(layers)
        if key.startswith("weights"):  # above the ensemble, below the user's layers on top
            below = [each.layer for name, each in self._made.items() if name.startswith(("ens", "weights"))]
            place = max((layers.index(each) + 1 for each in below if each in layers), default=place)
        layers.insert(place, layer)
        self._made[key] = _Made(layer, _first_level(data), layer.name, _limits_of(layer))
        if key == "weights slider":
            add_slider_caption(self._viewer, layer, layer.metadata[OUTPUT_KEY]["candidates"])
        if key == "expected error" and (colorbar := getattr(layer, "colorbar", None)):  # since napari 0.7
            colorbar.visible = True
        if self.ensemble is not None and not key.startswith("error"):
            # The new layer would be selected otherwise, and napari would save it instead of the ensemble.
            layers.selection.active = self.ensemble

    def _update(self, made: _Made, data: Any, keywords: dict[str, Any]) -> None:
        layer = made.layer
        if not self._is_ours(layer):
            return
        if made.first is not (first := _first_level(data)):
            made.first, layer.data = first, data
        limits = keywords.get("contrast_limits")
        if limits is not None and limits != made.limits and _limits_of(layer) == made.limits:
            # not changed by the user
            layer.contrast_limits = limits
            made.limits = _limits_of(layer)
        # A new dictionary, since duplicates of the layer share the old one.
        layer.metadata = {**layer.metadata, **keywords["metadata"]}
        if layer.name == made.name != keywords["name"]:  # not renamed by the user
            layer.name = keywords["name"]
            made.name = layer.name  # napari appends a number to a name in use

    def kinds(self) -> set[str]:
        """Return the kinds of the layers that are in the viewer."""
        made = [each.layer for each in self._made.values() if self._is_ours(each.layer)]
        return {layer.metadata[OUTPUT_KEY]["kind"] for layer in made}

    def forget(self, kind: str) -> None:
        """Add layers of a kind again if the user has removed them."""
        if kind not in self.kinds():
            self._made = {key: each for key, each in self._made.items() if not key.startswith(kind)}

    @property
    def ensemble(self) -> Layer | None:
        """The ensemble's layer, unless it was removed or taken over by the user."""
        made = self._made.get("ensemble")
        return made.layer if made is not None and self._is_ours(made.layer) else None

    def _is_ours(self, layer: Layer) -> bool:
        # Without our metadata it is the user's own layer.
        return layer in self._viewer.layers and OUTPUT_KEY in layer.metadata


def _first_level(data: Any) -> Any:
    return data[0] if isinstance(data, list) else data


def _limits_of(layer: Any) -> tuple[float, float] | None:
    if not isinstance(layer, Image) or layer.rgb:
        return None
    low, high = layer.contrast_limits
    return float(low), float(high)
