"""Guards of exported networks: arithmetic on sizes passes, whatever else is refused."""

from __future__ import annotations

import ast
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.networks.archive import checked_program

TORCHS_OWN = [
    "L['x'].size()[2] == (4*(L['x'].size()[2] // 4))",
    "L['flat_args'][0].size()[3] == (4*(L['flat_args'][0].size()[3] // 4))",
    "(max(1, L['x'].size()[3] // 2)*max(1, L['x'].size()[2] // 2)) != 1",
    "(L['x'].size()[3] // 4) >= 1 and (L['x'].size()[2] // 4) >= 1",
]
HOSTILE = [
    "__import__('os').system('true')",
    "L.__class__",
    "L['x'].size.__self__",
    "L['x'].size()[L['x'].sum()]",
    "[L['x'].size()[0] for _ in (1,)][0]",
    "(lambda: 1)()",
    "max(*L['x'].size())",
    "max(1, 2, key=breakpoint)",
    "9**9**9",
    "'a' * 9",
    "L['x'].size()[2] == 1\nimport os",
    "L['x'] is None",
    "f'{1}'",
    "(" * 500 + ")" * 500,
    "1 +" * 5000 + "1",
]
TOKENS = [
    *(
        "L",
        "['x']",
        "['flat_args']",
        "[0]",
        "[2]",
        ".size()",
        ".size",
        "()",
        ".__class__",
        "max(",
        "min(",
        ")",
    ),
    *("(", ",", "1", "9", "**", "*", "//", "%", "+", "-", " and ", " or ", " not ", " == ", " != ", " < "),
    *("lambda", ":", "open", "'a'", " is ", " if ", " else ", "[", "]", "x", "__import__", "\n", "#"),
]


def guard(text):
    (checked,) = checked_program({"guards_code": [text]}, "a.pt2")["guards_code"]
    return checked


class Input:
    """All that a guard may ask of an input."""

    def size(self):
        return (2, 1, 16, 24)


def holds(text):
    names = {"__builtins__": {}, "L": {"x": Input(), "flat_args": [Input()]}, "max": max, "min": min}
    return eval(text, names)  # what may be evaluated is what is tested


@pytest.mark.parametrize("text", TORCHS_OWN)
def test_what_torch_writes_passes_and_means_the_same(text):
    assert holds(guard(text)) is holds(text) is True
    assert ast.dump(ast.parse(guard(text))) == ast.dump(ast.parse(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_more_than_arithmetic_is_refused(text):
    with pytest.raises(EnsembleError, match="more than arithmetic on the sizes"):
        guard(text)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), min_size=1, max_size=12).map("".join) | st.text(max_size=30))
def test_what_passes_can_do_no_more_than_count(text):
    try:
        checked = guard(text)
    except EnsembleError:
        return
    nodes = [*ast.walk(ast.parse(checked))]
    assert {node.id for node in nodes if isinstance(node, ast.Name)} <= {"L", "max", "min"}
    assert {node.attr for node in nodes if isinstance(node, ast.Attribute)} <= {"size"}
    with contextlib.suppress(ZeroDivisionError, LookupError, TypeError, AttributeError):
        assert isinstance(holds(checked), int)
