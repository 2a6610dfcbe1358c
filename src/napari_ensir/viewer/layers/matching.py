"""Which layer plays which candidate of a table, told by names; and why one cannot. No widgets, no pixels."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import TYPE_CHECKING

from napari_ensir.viewer.layers.layers import pixel_shape, why_not

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from napari.layers import Layer

    from napari_ensir.ensemble.lut.lut import WeightLUT

__all__ = ["best_matches", "candidate_name", "cannot_combine", "matching_sets", "taken_twice"]

SEPARATOR = " · "
"""Between an image's name and a restorer's, in the name of what the one makes of the other."""

_EDGES = " \t·:,;|/_-–()[]"
"""What separates a candidate's name from the rest of a layer's."""


def candidate_name(image: str, restorer: str) -> str:
    """What to call what a restorer makes of an image.

    Examples
    --------
    >>> candidate_name("field 2", "Total variation")
    'field 2 · Total variation'
    """
    return f"{image}{SEPARATOR}{restorer}"


def matching_sets(names: Sequence[str], layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Sets of layers, one per candidate, whose names differ in nothing but the candidate's name.

    With candidates ``A`` and ``B``, layers ``cell 1 A``, ``cell 1 B``, ``cell 2 A``, ``cell 2 B`` make two:
    ``cell 1`` and ``cell 2``. What all candidates' names begin or end with tells them not apart: those of a
    table of ``field 1 · Median`` and ``field 1 · Gaussian`` are found in ``field 2 · Median`` too.

    Parameters
    ----------
    names
        The candidates'.
    layers
        All layers there are; those that cannot be candidates are passed over.

    Returns
    -------
    dict
        What is common to a set's names -> its layers in the order of ``names``.
    """
    found: dict[str, dict[str, Layer]] = {}
    for layer in layers:
        if not why_not(layer) and (read := _read(layer.name, names)) is not None:
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
    """The layer to offer for each candidate: a whole set that the table has not seen, else the likeliest.

    Parameters
    ----------
    names, layers
        As for :func:`matching_sets`.
    learned_on
        Layers that the table was learned on, which it need not be applied to: others come first.

    Returns
    -------
    list
        One entry per candidate; None where no name points to a layer, or to several alike.
    """

    def is_known(layer: Layer) -> bool:
        return any(layer is each for each in learned_on)

    sets = list(matching_sets(names, layers).values())
    for each in sorted(sets, key=lambda found: sum(map(is_known, found))):
        return list(each)
    free = [layer for layer in layers if not why_not(layer)]
    read = [(layer, _read(layer.name, names)) for layer in free]
    chosen: list[Layer | None] = []
    for name in names:
        bearers = [layer for layer, told in read if told is not None and told[0] == name]
        exact = [layer for layer in bearers if layer.name.lower().strip() == name.lower().strip()]
        likely = exact or bearers
        chosen.append(likely[0] if exact or len(likely) == 1 else None)
    return chosen


def _read(text: str, names: Sequence[str]) -> tuple[str, str] | None:
    """The candidate that a layer's name speaks of, and what else it says."""
    # The longest first: "Restormer 2" is no "Restormer", and "unsupervised Wiener" no "Wiener".
    for part, name in sorted(_parts(names), key=lambda pair: -len(pair[0])):
        # Not within a word, where a short name would be found everywhere.
        place = re.search(rf"(?<![^\W_]){re.escape(part)}(?![^\W_])", text, re.IGNORECASE)
        if place is not None:
            before, after = text[: place.start()].strip(_EDGES), text[place.end() :].strip(_EDGES)
            return name, f"{before} {after}".strip()
    return None


def _parts(names: Sequence[str]) -> list[tuple[str, str]]:
    """What to look for, and which candidate it is: whole names, and the words that tell them apart."""
    whole = [(name.strip(), name) for name in names if name.strip()]
    if len(names) < 2:
        return whole
    words = [re.findall(r"[^\W_]+|[\W_]+", name) for name in names]
    start = _alike(words)
    end = _alike([each[start:][::-1] for each in words])
    apart = ["".join(each[start : len(each) - end]).strip(_EDGES) for each in words]
    if not all(apart) or len({part.lower() for part in apart}) < len(names):
        return whole
    return [*whole, *zip(apart, names, strict=True)]


def _alike(words: Sequence[Sequence[str]]) -> int:
    """How many words all begin with."""
    columns = zip(*words, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def taken_twice(names: Sequence[str], layers: Sequence[Layer]) -> str:
    """That one layer stands for several candidates, as a sentence; empty if none does.

    Parameters
    ----------
    names
        The candidates'.
    layers
        One for each of them, in order.
    """
    for layer in layers:
        taken = [f'"{name}"' for name, other in zip(names, layers, strict=True) if other is layer]
        if len(taken) > 1:
            return f'"{layer.name}" stands for {" and ".join(taken)}; choose another, unless that is meant.'
    return ""


def cannot_combine(lut: WeightLUT, layers: Sequence[Layer]) -> str:
    """Why a table cannot combine these layers, as a sentence; empty if it can.

    Parameters
    ----------
    lut
        The table.
    layers
        One for each of its candidates, in order.
    """
    first = layers[0]
    for name, layer in zip(lut.names, layers, strict=True):
        if reason := why_not(layer, first):
            wanted = f'"{first.name}" has {_shape(first)}{", in colour" if first.rgb else ""}'
            return (
                f'"{layer.name}" cannot stand for "{name}": {reason}, where {wanted}; choose layers '
                "that show the same pixels."
            )
    if lut.n_channels == 1:
        return ""
    shape, axis = pixel_shape(first), -1 if first.rgb else lut.channel_axis
    n = shape[axis] if axis is not None and -len(shape) <= axis < len(shape) else 0
    if n == lut.n_channels:
        return ""
    learned = "in colour" if lut.n_channels == 3 else f"for each of {lut.n_channels} channels"
    shown = f"in colour, {n} channels" if first.rgb else f"not in colour and of {_shape(first)}"
    return (
        f'The table was learned {learned}, and "{first.name}" is {shown}; choose layers with '
        f"{lut.n_channels} channels, or learn a table on layers like these."
    )


def _shape(layer: Layer) -> str:
    return "shape " + " × ".join(map(str, pixel_shape(layer)))
