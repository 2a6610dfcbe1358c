"""What a tired user does wrong, and the one sentence that each mistake gets, or why it cannot be noticed.

``pytest tests/misuse -s`` prints the list as a table. To add to it, write a function that makes the mistake
with the :class:`~.bench.Bench` it is given and returns what the bench hands back, in the file of the place
where it is made. Decorate it with the mistake in plain words, and with ``says``, what the sentence must
hold, or ``unseen``, the reason why there is none.
"""

from __future__ import annotations

import pytest

from . import alignment, intensities, other_images, paths, pixels, roles, settings
from .bench import Bench

PLACES = (alignment, intensities, pixels, roles, paths, other_images, settings)
MISUSES = [one for place in PLACES for one in place.misuse]

FOUND: dict[str, str] = {}
"""What each mistake got when it was made."""


@pytest.mark.parametrize("one", MISUSES, ids=lambda one: one.what)
def test_misuse(one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = " ".join(one.make(Bench(tmp_path)).split())
    for prefix in ("napari-ensir: warning: ", "napari-ensir: "):
        said = said.replace(prefix, "")
    FOUND[one.what] = said.replace(f"{tmp_path}/", "")
    if one.says:
        assert one.says in said
    else:
        assert said == ""


def table() -> str:
    """The list in Markdown: what was done, and what was said to it when it was last made."""
    rows = ["| what was done | what is said |", "|---|---|"]
    for one in MISUSES:
        said = FOUND.get(one.what, one.says) if one.says else f"*Cannot be noticed:* {one.unseen}."
        rows.append(f"| {one.what} | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def test_the_list_is_long_and_prints():
    assert len(MISUSES) >= 40
    assert len({one.what for one in MISUSES}) == len(MISUSES)
    print("\n" + table())
    assert table().count("\n") == len(MISUSES) + 2
