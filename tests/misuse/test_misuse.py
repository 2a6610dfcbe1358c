"""Common mistakes of users, each with the message that it gets or the reason why it cannot be detected.

``pytest tests/misuse -s`` prints the list as a table. To add a mistake, write a function that makes it with
the given :class:`~.bench.Bench` and returns the message, in the module of its kind. Decorate the function
with a description of the mistake, and with ``says``, a part of the message, or ``unseen``, the reason why
there is no message.
"""

from __future__ import annotations

import pytest

from . import alignment, intensities, other_images, paths, pixels, roles, settings
from .bench import Bench

PLACES = (alignment, intensities, pixels, roles, paths, other_images, settings)
MISUSES = [one for place in PLACES for one in place.misuse]

FOUND: dict[str, str] = {}
"""Message of each mistake in this run."""


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
    """Return the list as a Markdown table of mistakes and messages."""
    rows = ["| mistake | message |", "|---|---|"]
    for one in MISUSES:
        said = FOUND.get(one.what, one.says) if one.says else f"*Cannot be detected:* {one.unseen}."
        rows.append(f"| {one.what} | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def test_the_list_is_long_and_prints():
    assert len(MISUSES) >= 40
    assert len({one.what for one in MISUSES}) == len(MISUSES)
    print("\n" + table())
    assert table().count("\n") == len(MISUSES) + 2
