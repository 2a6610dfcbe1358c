"""A YAML file as plain values, within bounds. Knows no formats that are written in it.

YAML can name a list and repeat it by that name, so that a line unfolds to gigabytes, and can ask for objects
to be made. Only what JSON could say is read, mappings, lists, text, numbers, and no more of it than fits a
description once every repetition is written out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["parse_yaml"]

_MAX_BYTES = 2**20
_MAX_DEPTH = 32
_MAX_EVENTS = 50_000


def parse_yaml(content: bytes) -> dict[str, Any]:
    r"""A mapping written in YAML, no key twice.

    Parameters
    ----------
    content
        At most a megabyte of UTF-8.

    Raises
    ------
    ValueError
        If it is none, or asks for objects, or is nested or long beyond reason; with the reason.

    Examples
    --------
    >>> parse_yaml(b"a: [1, two]")
    {'a': [1, 'two']}
    >>> parse_yaml(b"a: &a [*a]")
    Traceback (most recent call last):
    ValueError: it repeats a part within itself
    """
    import yaml

    if len(content) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES // 2**20} MB")
    try:
        text = content.decode("utf-8")
        depth = 0
        for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH or number > _MAX_EVENTS:
                raise ValueError("it is too large or nested too deeply")
        value = yaml.load(text, Loader=_loader(yaml))
        if _size(value, {}) > _MAX_EVENTS:
            raise ValueError("it is too large once its repetitions are written out")
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("it is no mapping of names")
    return value


def _size(value: object, known: dict[int, int]) -> int:
    """How many values there are, those that are repeated counted each time."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 0  # until it is known
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(each, known) for each in inner)
    elif known[id(value)] == 0:
        raise ValueError("it repeats a part within itself")
    return known[id(value)]


def _loader(yaml: Any) -> Any:
    """PyYAML's safe loader, which makes plain values only, and refuses a key that comes twice."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            keys = [each.value for each, _ in node.value if isinstance(each, yaml.ScalarNode)]
            if len(set(keys)) < len(node.value) or "<<" in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, "a key stands in it twice", node.start_mark
                )
            made: dict[Hashable, Any] = super().construct_mapping(node, deep)
            return made

    return Loader
