"""Matching of layers to the candidates of a lookup table by their names."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

from napari_ensir.viewer.layers.layers import exclusion_reason, pixel_shape

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from napari.layers import Layer

    from napari_ensir.ensemble.lut.lut import WeightLUT

SEPARATOR = " · "
"""Between the names of an image and a restorer in the name of a restored image."""

_EDGES = " \t·:,;|/_-–()[]"
"""Characters that separate the name of a candidate from the rest of a layer's name."""


def candidate_name(image: str, restorer: str) -> str:
    """Return the name of a restored image.

    Examples
    --------
    >>> candidate_name("field 2", "Total variation")
    'field 2 · Total variation'
    """
    return f"{image}{SEPARATOR}{restorer}"


def matching_sets(names: Sequence[str], layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Find sets of layers, one layer per candidate, whose names differ only in the candidate's name.

    With candidates ``A`` and ``B``, the layers ``cell 1 A``, ``cell 1 B``, ``cell 2 A`` and ``cell 2 B`` form
    the sets ``cell 1`` and ``cell 2``. A common start or end of the candidates' names is ignored: a table of
    ``field 1 · Median`` and ``field 1 · Gaussian`` matches ``field 2 · Median``.

    Parameters
    ----------
    names
        Names of the candidates.
    layers
        Layers of the viewer; those that cannot be candidates are ignored.

    Returns
    -------
    dict
        Common part of the names -> layers in the order of ``names``.
    """
    found: dict[str, dict[str, Layer]] = {}
    for layer in layers:
        if not exclusion_reason(layer) and (read := _read(layer.name, names)) is not None:
            name, common = read
            found.setdefault(common, {}).setdefault(name, layer)
    return {
        common: [by_name[name] for name in names]
        for common, by_name in found.items()
        if len(by_name) == len(names)
    }


def best_matches(
    names: Sequence[str], layers: Sequence[Layer], learned_on: Collection[Layer] = ()
) -> list[Layer | None]:
    """Find the layer to offer for each candidate: of a complete set if there is one, else by name.

    Parameters
    ----------
    names, layers
        See :func:`matching_sets`.
    learned_on
        Layers that the table was learned from; sets of other layers are preferred.

    Returns
    -------
    list
        One entry per candidate; None if no layer matches, or several match equally well.
    """

    def is_known(layer: Layer) -> bool:
        return any(layer is each for each in learned_on)

    sets = list(matching_sets(names, layers).values())
    for each in sorted(sets, key=lambda found: sum(map(is_known, found))):
        return list(each)
    free = [layer for layer in layers if not exclusion_reason(layer)]
    read = [(layer, _read(layer.name, names)) for layer in free]
    chosen: list[Layer | None] = []
    for name in names:
        matches = [layer for layer, found in read if found is not None and found[0] == name]
        exact = [layer for layer in matches if layer.name.lower().strip() == name.lower().strip()]
        matches = exact or matches
        chosen.append(matches[0] if exact or len(matches) == 1 else None)
    return chosen


def _read(text: str, names: Sequence[str]) -> tuple[str, str] | None:
    """Split the name of a layer into the candidate's name and the rest; None if it names no candidate."""
    # The longest first, since "Restormer 2" contains "Restormer".
    for part, name in sorted(_parts(names), key=lambda pair: -len(pair[0])):
        # Whole words only, since short names occur within many words.
        place = re.search(rf"(?<![^\W_]){re.escape(part)}(?![^\W_])", text, re.IGNORECASE)
        if place is not None:
            before, after = text[: place.start()].strip(_EDGES), text[place.end() :].strip(_EDGES)
            return name, f"{before} {after}".strip()
    return None


def _parts(names: Sequence[str]) -> list[tuple[str, str]]:
    """Texts to search for with the candidates that they stand for: the names and their distinctive parts."""
    whole = [(name.strip(), name) for name in names if name.strip()]
    if len(names) < 2:
        return whole
    words = [re.findall(r"[^\W_]+|[\W_]+", name) for name in names]
    start = _common_length(words)
    end = _common_length([each[start:][::-1] for each in words])
    distinct = ["".join(each[start : len(each) - end]).strip(_EDGES) for each in words]
    if not all(distinct) or len({part.lower() for part in distinct}) < len(names):
        return whole
    return [*whole, *zip(distinct, names, strict=True)]


def _common_length(words: Sequence[Sequence[str]]) -> int:
    """Number of words that all sequences start with."""
    columns = zip(*words, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def duplicate_layer_warning(names: Sequence[str], layers: Sequence[Layer]) -> str:
    """Return a warning if a layer is chosen for several candidates; empty otherwise.

    Parameters
    ----------
    names
        Names of the candidates.
    layers
        The layer of each candidate.
    """
    for layer in layers:
        taken = [f'"{name}"' for name, other in zip(names, layers, strict=True) if other is layer]
        if len(taken) > 1:
            return f'"{layer.name}" is chosen for {" and ".join(taken)}; choose a different layer for each.'
    return ""


def mismatch_reason(lut: WeightLUT, layers: Sequence[Layer]) -> str:
    """Return why a table cannot combine these layers, as a sentence; empty if it can.

    Parameters
    ----------
    lut
    layers
        The layer of each candidate.
    """
    first = layers[0]
    for name, layer in zip(lut.names, layers, strict=True):
        if reason := exclusion_reason(layer, first):
            expected = f'"{first.name}" has {_shape(first)}{", in colour" if first.rgb else ""}'
            return (
                f'"{layer.name}" cannot be the candidate "{name}": {reason}, but {expected}; choose layers '
                "of the same shape."
            )
    if lut.n_channels == 1:
        return ""
    shape, axis = pixel_shape(first), -1 if first.rgb else lut.channel_axis
    n = shape[axis] if axis is not None and -len(shape) <= axis < len(shape) else 0
    if n == lut.n_channels:
        return ""
    expected = "colour images" if lut.n_channels == 3 else f"images with {lut.n_channels} channels"
    found = f"a colour image with {n} channels" if first.rgb else f"not in colour and has {_shape(first)}"
    return (
        f'The lookup table was learned from {expected}, but "{first.name}" is {found}; choose layers with '
        f"{lut.n_channels} channels, or fit a table to layers like these."
    )


def _shape(layer: Layer) -> str:
    return "shape " + " × ".join(map(str, pixel_shape(layer)))
