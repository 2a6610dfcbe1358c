"""What restorers have to say of an image and of themselves, in words. Restores nothing."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from napari_ensir.restorers.base import Restorer
from napari_ensir.settings import settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["doubts_of", "notes_in_words", "notes_of", "told_of"]


def notes_of(restorer: Restorer, image: NDArray[Any]) -> list[tuple[str, str]]:
    """What :meth:`ImageRestorer.notes` says, of a restorer that has it, each with the restorer's name.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir.restorers.classical import Median
    >>> notes_of(Median(), np.ones((2, 2)))
    []
    """
    tell = getattr(restorer, "notes", None)
    return [(restorer.name, note) for note in tell(image)] if callable(tell) else []


def notes_in_words(notes: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence for each note, of all restorers that have it together.

    Parameters
    ----------
    notes : pairs of (name, note)
        As of :func:`notes_of`, of any number of restorers and images.

    Returns
    -------
    list of str

    Examples
    --------
    >>> planes = "planes: the 2 of this image were restored one by one"
    >>> notes_in_words([("N2V", planes), ("CARE", planes), ("N2V", planes)])
    ['N2V and CARE take planes: the 2 of this image were restored one by one.']
    >>> notes_in_words([("N2V", planes)])
    ['N2V takes planes: the 2 of this image were restored one by one.']
    """
    having: dict[str, dict[str, None]] = {}
    for name, note in notes:
        having.setdefault(note, {})[name] = None
    return [
        f"{' and '.join(names)} {'takes' if len(names) == 1 else 'take'} {note}."
        for note, names in having.items()
    ]


def doubts_of(restorer: Restorer, image: NDArray[Any]) -> list[str]:
    """What :meth:`ImageRestorer.doubts` says, of a restorer that has it.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir.restorers.base import as_restorer
    >>> doubts_of(as_restorer(np.sqrt), np.ones((2, 2)))
    []
    """
    tell = getattr(restorer, "doubts", None)
    return list(tell(image)) if callable(tell) else []


def told_of(restorer: Restorer) -> dict[str, Any]:
    """What an output says of what made it: the restorer's name, its settings, and what it wraps.

    Examples
    --------
    >>> from napari_ensir.restorers import SelfEnsemble
    >>> from napari_ensir.restorers.classical import Median
    >>> told_of(SelfEnsemble(restorer=Median(size=5)))
    {'name': 'Median x8', 'restorer': {'name': 'Median', 'settings': {'spatial_ndim': 2, 'size': 5}}}
    """
    found: dict[str, Any] = {"name": restorer.name}
    if is_dataclass(restorer) and not isinstance(restorer, type):
        settings = {each.name: getattr(restorer, each.name) for each in settings_of(restorer)}
        found |= {"settings": settings} if settings else {}
    if isinstance(inner := getattr(restorer, "restorer", None), Restorer):
        found["restorer"] = told_of(inner)
    return found
