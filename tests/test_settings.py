"""Values that settings accept and convert, and messages for those that they refuse."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_ensir import EnsembleError
from napari_ensir.settings import (
    ApplySettings,
    CompareSettings,
    EvaluateSettings,
    FitSettings,
    RestoreSettings,
    Settings,
    setting,
    settings_of,
)

EVERY = [
    ApplySettings,
    CompareSettings,
    EvaluateSettings,
    FitSettings,
    RestoreSettings,
]


@dataclass(frozen=True, kw_only=True)
class Some(Settings):
    width: float | Literal["auto"] | None = setting(
        None, title="Width", description="W.", limits=(0.5, 9), none="an eighth", auto="the best"
    )
    count: int = setting(3, title="Count", description="C.", limits=(1, None))
    flag: bool = setting(False, title="Flag", description="F.")
    kind: str = setting("a", title="Kind", description="K.", choices=("a", "b"))
    place: str = setting("a", title="Place", description="P.", choices=("a", "b"), others=True)
    limits: tuple[float, float] | None = setting(None, title="Limits", description="L.", none="all")
    planes: tuple[int, int] | None = setting(None, title="Planes", description="P.", none="all")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"width": np.float32(2)}, 2.0),
        ({"width": "auto"}, "auto"),
        ({"width": None}, None),
        ({"count": np.int64(4)}, 4),
        ({"flag": np.True_}, True),
        ({"kind": "b"}, "b"),
        ({"place": "z"}, "z"),
        ({"limits": [1, 2]}, (1.0, 2.0)),
        ({"planes": np.array([2, 2])}, (2, 2)),
    ],
)
def test_valid_values_are_converted_to_the_type_of_the_setting(given, kept):
    (name,) = given
    found = getattr(Some(**given), name)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"width": 0.1}, 'width is 0.1; use a number from 0.5 to 9, "auto" (the best) or None (an eighth).'),
        ({"width": "wide"}, "width is 'wide'; use a number"),
        ({"width": float("nan")}, "width is nan; use a number"),
        ({"width": True}, "width is True; use a number"),
        ({"count": 2.5}, "count is 2.5; use a whole number from 1."),
        ({"count": True}, "count is True; use a whole number from 1."),
        ({"count": None}, "count is None; use a whole number from 1."),
        ({"flag": 1}, "flag is 1; use True or False."),
        ({"kind": "c"}, 'kind is \'c\'; use one of "a", "b".'),
        ({"kind": []}, "kind is []; use one of"),
        ({"limits": (2, 1)}, "limits is (2, 1); use two finite numbers, the lower first or None (all)."),
        ({"limits": 5}, "limits is 5; use two finite numbers"),
        ({"planes": (3, 2)}, "planes is (3, 2); use two whole numbers from 0, the first and the last"),
        ({"kind": "x" * 500}, "...; use one of"),
    ],
)
def test_invalid_values_raise_one_sentence(given, sentence):
    with pytest.raises(EnsembleError) as raised:
        Some(**given)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.floats(), st.integers(), st.text(), st.none(), st.booleans(), st.lists(st.floats())))
def test_any_value_raises_at_most_ensemble_error(value):
    for each in settings_of(Some):
        with suppress(EnsembleError):
            each.checked(value)


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_setting_has_texts_and_a_valid_default(kind):
    kind()  # the defaults are within the limits
    for each in settings_of(kind):
        assert each.title[0].isupper()
        assert each.description.endswith(".")
        assert (each.default is None) <= (each.none is not None)
        assert each.checked(each.default) == each.default
