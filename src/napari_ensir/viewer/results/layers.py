"""Layers of a result, which are placed like the candidates and updated by later results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari.utils import Colormap
from napari.utils.colormaps import CyclicLabelColormap

from napari_ensir.settings import METHODS
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.layers.layers import OUTPUT_KEY, add_slider_caption, show_colorbar
from napari_ensir.viewer.layers.session import preference

if TYPE_CHECKING:
    from collections.abc import Iterator

    import napari
    from napari.layers import Layer

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.viewer.layers.layers import LayerSnapshot
    from napari_ensir.viewer.results.combining import Combined

__all__ = [
    "PALETTE",
    "WEIGHT_VIEWS",
    "Errors",
    "Outputs",
    "layer_data",
    "method_title",
    "weights_choice",
]

WEIGHT_VIEWS = {
    "slider": (
        "One layer, candidates on a slider",
        "One layer with a stack of weight maps; the slider selects the candidate.",
    ),
    "layers": ("One layer per candidate", "A separate layer for the weight map of each candidate."),
    "trusted": (
        "Most trusted candidate",
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
    ensemble, best : (*shape without colours) float32 array
        Intensity units; the mean over the colours of an RGB image.
    best_name : str
        The candidate with the least error.
    limit : float
        99.5th percentile of the absolute errors in one plane, of the larger image.
    """

    ensemble: Any
    best: Any
    best_name: str
    limit: float


class Outputs:
    """The layers of one result, updated by later results of the same fit.

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
        self._before = f"{label} " if label else ""
        self._ensemble: Layer | None = None
        self._weights: list[Layer] = []
        self._errors: list[Layer] = []
        self._expected: list[Layer] = []
        self._view = ""
        self._shown = 0
        self._names: dict[int, str] = {}
        self._limits: dict[int, tuple[float, float]] = {}

    def showing(self, lut: WeightLUT, combined: Combined, view: str) -> Iterator[None]:
        """Update or add the layers, one per iteration.

        napari needs a tenth of a second to add or remove a layer, during which the window is blocked. A later
        call replaces the remaining iterations of an earlier one. Layers that the user has removed stay
        removed, until another view of the weights is chosen.
        """
        self._shown += 1
        mine = self._shown
        for _ in self._showing(lut, combined, view):
            yield
            if self._shown != mine:
                return

    def _showing(self, lut: WeightLUT, combined: Combined, view: str) -> Iterator[None]:
        if self._ensemble is None:
            self._ensemble = self._add_ensemble(lut, combined)
        else:
            self._update(self._ensemble, combined.image, lut, self._ensemble_name(lut))
        yield
        parts = zip(_weight_data(combined, view), _weight_names(lut, view), strict=True)
        if view == self._view:
            for layer, (data, name) in zip(self._weights, parts, strict=True):
                self._update(layer, data, lut, self._before + name)
                yield
            return
        self._view = ""  # until all are added
        while self._weights:
            self._drop(self._weights.pop())
            yield
        for data, name in parts:
            self._weights.append(self._add_weights(lut, data, name, view))
            yield
        self._view = view
        self.select_ensemble()

    def select_ensemble(self) -> None:
        """Make the ensemble the selected layer; otherwise napari would save the weights, added last."""
        if (ensemble := self.ensemble) is not None:
            self._viewer.layers.selection.active = ensemble

    def showing_errors(self, lut: WeightLUT, errors: Errors) -> Iterator[None]:
        """Update the two error images, or add them on top, one per iteration."""
        data = (errors.best, errors.ensemble)
        names = (f"error of {errors.best_name}", f"error of {self._ensemble_name(lut)}")
        limits = (-errors.limit, errors.limit)
        if self.has_errors:
            for layer, part, name in zip(self._errors, data, names, strict=False):
                self._update(layer, part, lut, self._before + name, limits)
                yield
            return
        look = {"rgb": False, "colormap": ERRORS, "contrast_limits": limits}
        place = self._like.placement()
        self._errors = []
        for part, name in zip(data, names, strict=True):
            made = self._add("image", part, f"{self._before}{name}", lut, "error", **look, **place)
            self._errors.append(made)
            yield

    @property
    def has_errors(self) -> bool:
        """Whether error images are shown."""
        return any(self._is_ours(layer) for layer in self._errors)

    def show_expected(self, lut: WeightLUT, image: Any, limits: tuple[float, float]) -> None:
        """Update the expected error, or add it on top."""
        name = f"{self._before}expected error (intensity units) · {method_title(lut)}"
        if self.has_expected:
            self._update(self._expected[0], image, lut, name, limits)
            return
        look = {"rgb": False, "colormap": "magma", "contrast_limits": limits}
        place = self._like.placement()
        self._expected = [self._add("image", image, name, lut, "expected error", **look, **place)]
        show_colorbar(self._expected[0])

    @property
    def has_expected(self) -> bool:
        """Whether the expected error is shown."""
        return any(self._is_ours(layer) for layer in self._expected)

    def remember(self, lut: WeightLUT) -> None:
        """Store a table in the layers' metadata that combines as theirs does, such as the calibrated one."""
        for layer in [*([self._ensemble] if self._ensemble else []), *self._weights, *self._errors]:
            if self._is_ours(layer):
                kind = layer.metadata[OUTPUT_KEY]["kind"]
                layer.metadata = {**layer.metadata, **_marked(lut, kind)}

    @property
    def ensemble(self) -> Layer | None:
        """The ensemble's layer, unless it was removed or taken over by the user."""
        layer = self._ensemble
        return layer if layer is not None and self._is_ours(layer) else None

    def _is_ours(self, layer: Layer) -> bool:
        # Without our metadata it is the user's own layer.
        return layer in self._viewer.layers and OUTPUT_KEY in layer.metadata

    def _drop(self, layer: Layer) -> None:
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def _update(
        self,
        layer: Layer,
        data: Any,
        lut: WeightLUT,
        name: str,
        limits: tuple[float, float] | None = None,
    ) -> None:
        if not self._is_ours(layer):
            return
        layer.data = data
        if limits is not None and _limits_of(layer) == self._limits[id(layer)]:  # not changed by the user
            layer.contrast_limits = limits
            self._limits[id(layer)] = _limits_of(layer)
        kind = layer.metadata[OUTPUT_KEY]["kind"]
        # A new dictionary, since duplicates of the layer share the old one.
        layer.metadata = {**layer.metadata, **_marked(lut, kind)}
        if layer.name == self._names.get(id(layer)):  # not renamed by the user
            self._name(layer, name)

    def _name(self, layer: Layer, name: str) -> None:
        if layer.name != name:
            layer.name = name
        self._names[id(layer)] = layer.name  # napari appends a number to a name in use

    def _add(self, how: str, data: Any, name: str, lut: WeightLUT, kind: str, **keywords: Any) -> Layer:
        add = self._viewer.add_image if how == "image" else self._viewer.add_labels
        layer = add(data, name=name, metadata=_marked(lut, kind), **keywords)
        self._names[id(layer)] = layer.name
        if how == "image" and not layer.rgb:
            self._limits[id(layer)] = _limits_of(layer)
        return layer

    def _ensemble_name(self, lut: WeightLUT) -> str:
        return f"{self._before}ensemble · {method_title(lut)}"

    def _add_ensemble(self, lut: WeightLUT, combined: Combined) -> Layer:
        data, keywords, _ = layer_data(lut, combined, self._like)[0]
        del keywords["metadata"], keywords["name"]
        return self._add("image", data, self._ensemble_name(lut), lut, "ensemble", **keywords)

    def _add_weights(self, lut: WeightLUT, data: Any, name: str, view: str) -> Layer:
        if view == "trusted":
            how, look = "labels", {**_legend(lut), **self._like.placement()}
        else:
            how, look = "image", {**_WEIGHT_LOOKS, **self._like.placement(stacked=view == "slider")}
        made = self._add(how, data, self._before + name, lut, "weights", **look)
        self._put_above_ensemble(made)
        if view == "slider":
            add_slider_caption(self._viewer, made, lut.names)
        return made

    def _put_above_ensemble(self, made: Layer) -> None:
        """Move a weight layer above the ensemble and earlier weights, below the user's layers on top."""
        layers = self._viewer.layers
        if self._ensemble is None or self._ensemble not in layers:
            return
        before = [each for each in self._weights if each in layers]
        place = max(layers.index(each) for each in (self._ensemble, *before)) + 1
        if layers.index(made) != place:
            layers.move(layers.index(made), place)


def _marked(lut: WeightLUT, kind: str) -> dict[str, Any]:
    """Metadata of an output: its kind and its table."""
    return {OUTPUT_KEY: {"kind": kind, "lut": lut, "candidates": list(lut.names), "method": lut.method}}


def _limits_of(layer: Any) -> tuple[float, float]:
    low, high = layer.contrast_limits
    return float(low), float(high)


def _weight_names(lut: WeightLUT, view: str) -> list[str]:
    title = method_title(lut)
    if view == "slider":
        return [f"weights · {title}: " + ", ".join(lut.names)]
    if view == "layers":
        return [f"weight of {name} · {title}" for name in lut.names]
    return [f"most trusted · {title}"]


def _weight_data(combined: Combined, view: str) -> list[Any]:
    if view == "slider":
        return [combined.maps]
    if view == "layers":
        return [combined.map_of(place) for place in range(combined.maps.shape[0])]
    return [combined.most_trusted()]


def _legend(lut: WeightLUT) -> dict[str, Any]:
    """Colours and names of the labels; napari shows the name under the pointer."""
    colours = [PALETTE[min(i, len(PALETTE) - 1)] for i in range(lut.n_candidates)]
    return {
        # Not a dictionary of colours, for which napari compiles seconds at the first layer that has one.
        "colormap": CyclicLabelColormap(colors=["transparent", *colours]),
        "features": {"index": range(lut.n_candidates + 1), "candidate": ["", *lut.names]},
        "opacity": 0.6,
    }


def layer_data(lut: WeightLUT, combined: Combined, like: LayerSnapshot) -> list[Any]:
    """Ensemble and weight maps as layer data tuples, with the look that :class:`Outputs` gives them."""
    looks = {} if like.rgb else {"contrast_limits": lut.data_range, "colormap": like.colormap}
    ensemble = {
        "name": f"ensemble · {method_title(lut)}",
        "rgb": like.rgb,
        "metadata": _marked(lut, "ensemble"),
        **looks,
        **like.placement(),
    }
    weights = {
        "name": _weight_names(lut, "slider")[0],
        "metadata": _marked(lut, "weights"),
        **_WEIGHT_LOOKS,
        **like.placement(stacked=True),
    }
    return [(combined.image, ensemble, "image"), (combined.maps, weights, "image")]
