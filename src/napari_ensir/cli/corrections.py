"""Corrections of candidates: intensities and alignment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_ensir.ensemble.checks.alignment import check_alignment, most_typical
from napari_ensir.ensemble.checks.diagnostic import linear_text
from napari_ensir.ensemble.checks.planes import middle_plane
from napari_ensir.ensemble.corrections import find_subpixel_shift, match_intensities, shift_image
from napari_ensir.errors import EnsembleError
from napari_ensir.files.image import as_dtype
from napari_ensir.files.sets import ImageSet, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari_ensir.ensemble.checks.diagnostic import Diagnostic
    from napari_ensir.files.sets import Role

OPTIONS = {"match-intensities": "--match", "align": "--align"}
"""Option of each correction."""


@dataclass(frozen=True)
class CorrectedSet(ImageSet):
    """Images whose candidates are corrected when they are loaded.

    Attributes
    ----------
    actions : tuple of str
        Corrections to make, by the ground truth or else by the most typical candidate; keys of OPTIONS.
    channel_axis : int or None
    gains : mapping of str to (gain, offset)
        Corrections of the intensities to make first, by candidate.
    made : dict
        Corrections that were made, by candidate and action, then by image.
    """

    actions: tuple[str, ...] = ()
    channel_axis: int | None = None
    gains: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    made: dict[tuple[str, str], dict[str, tuple[float, float]]] = field(default_factory=dict)

    def load(self, number: int) -> dict[Role, Any]:
        """See :meth:`ImageSet.load`."""
        arrays = super().load(number)
        for name, (gain, offset) in self.gains.items():
            arrays[name] = match_intensities(arrays[name], gain, offset)
        if not self.actions:
            return arrays
        names = [role for role in arrays if isinstance(role, str)]
        reference = arrays.get(Part.TRUTH)
        if reference is None:
            planes = [middle_plane(arrays[name], self.channel_axis) for name in names]
            reference = arrays[names[most_typical(planes)]]
        for name in names:
            if arrays[name] is not reference:
                arrays[name] = self._corrected(name, number, arrays[name], reference)
        return arrays

    def _corrected(self, name: str, number: int, image: Any, reference: Any) -> Any:
        for _ in self.actions:  # an image may be shifted and on another scale
            found = check_alignment([image], reference, channel_axis=self.channel_axis)
            fixes = [one.fix for one in found if one.fix and one.fix.get("action") in self.actions]
            if not fixes:
                break
            action = fixes[0]["action"]
            if action == "align":
                rows, columns = find_subpixel_shift(reference, image, fixes[0]["shift"], self.channel_axis)
                values = -rows, -columns
                image = as_dtype(shift_image(image, values, self.channel_axis), np.dtype(image.dtype))
            else:
                values = fixes[0]["gain"], fixes[0]["offset"]
                image = match_intensities(image, *values)
            self.made.setdefault((name, action), {})[self.fields[number][0]] = values
        return image

    @property
    def reading(self) -> dict[str, Any]:
        """What changes the images when they are read, for records."""
        given = {"crop": self.crop, "squeeze": self.squeeze, "corrections": list(self.actions)}
        return {key: value for key, value in (given | {"gains": dict(self.gains)}).items() if value}

    @property
    def record(self) -> dict[str, Any]:
        """Corrections by candidate and action: the medians over the images that were corrected."""
        found: dict[str, Any] = {}
        for (name, action), made in self.made.items():
            middle = np.median([*made.values()], axis=0).tolist()
            found.setdefault(name, {})[action] = {"values": middle, "images": len(made)}
        return found


def describe_corrections(record: Mapping[str, Mapping[str, Any]], n_images: int) -> list[str]:
    """Describe the corrections of a record, each in a sentence.

    Examples
    --------
    >>> describe_corrections({"A": {"align": {"values": [-2.2, 0.7], "images": 2}}}, 4)
    ['Aligned "A" in 2 of 4 images, by -2.2, 0.7 pixels (median).']
    """
    sentences = []
    for name, actions in record.items():
        for action, made in actions.items():
            images = f'"{name}" in {made["images"]} of {n_images} images'
            one, other = made["values"]
            if action == "align":
                sentences.append(f"Aligned {images}, by {one:.3g}, {other:.3g} pixels (median).")
            else:
                sentences.append(f"Matched {images}: {linear_text(one, 'candidate', other, 1.0)} (median).")
    return sentences


def recorded_gains(report: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the gain and offset by which each candidate was matched before a table was learned.

    Raises
    ------
    EnsembleError
        If the report holds something else.
    """
    found = {}
    try:
        for name, actions in _recorded(report).items():
            if "match-intensities" in actions:
                gain, offset = actions["match-intensities"]["values"]
                found[name] = (float(gain), float(offset))
    except (TypeError, ValueError, LookupError):
        raise EnsembleError("the record of corrections in the table cannot be read; fit again.") from None
    return found


def missing_corrections(report: Mapping[str, Any], given: Iterable[str]) -> list[str]:
    """Return a warning if a table was learned from candidates that were corrected, but these are not."""
    missing: dict[str, list[str]] = {}
    for name, actions in _recorded(report).items():
        for action in actions:
            if action in OPTIONS and action not in given:
                missing.setdefault(OPTIONS[action], []).append(f'"{name}"')
    return [
        f"the table was learned with {option} from candidate {', '.join(names)}; give {option} here, too."
        for option, names in missing.items()
    ]


def _recorded(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    recorded = report.get("corrections")
    recorded = recorded if isinstance(recorded, dict) else {}
    return {name: actions for name, actions in recorded.items() if isinstance(actions, dict)}


def messages_of(found: Iterable[Diagnostic], actions: Iterable[str] = tuple(OPTIONS)) -> list[str]:
    """Return the messages; those of problems that an option corrects end with the option."""
    messages = []
    for one in found:
        action = (one.fix or {}).get("action", "")
        is_named = action not in OPTIONS or action not in actions or "--" in one.message
        messages.append(one.message if is_named else f"{one.message.removesuffix('.')} ({OPTIONS[action]}).")
    return messages
