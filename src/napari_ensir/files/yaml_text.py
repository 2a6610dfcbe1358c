"""Reading of YAML as plain values, with bounded size."""

from __future__ import annotations

from typing import Any

import yaml

_MAX_BYTES = 2**20
_MAX_VALUES = 50_000


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader without repeated and merged keys, which can grow without bound."""

    def flatten_mapping(self, node: Any) -> None:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(node.value) or "<<" in keys:
            raise yaml.constructor.ConstructorError(None, None, "a key occurs twice", node.start_mark)


def parse_yaml(content: bytes) -> dict[str, Any]:
    r"""Parse a mapping written in YAML.

    Parameters
    ----------
    content : bytes
        At most a megabyte of UTF-8.

    Raises
    ------
    ValueError
        If it is not a mapping of names, has a key twice, asks for objects, or is too large, also after its
        aliases are written out, or nested too deeply.

    Examples
    --------
    >>> parse_yaml(b"a: [1, two]")
    {'a': [1, 'two']}
    >>> parse_yaml(b"a: &a [*a]")
    Traceback (most recent call last):
    ValueError: it contains itself
    """
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES // 2**20} MB")
    try:
        value = yaml.load(content.decode("utf-8"), Loader=_Loader)  # a safe loader
        if _count(value, {}) > _MAX_VALUES:
            raise ValueError("it is too large")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("it is not a mapping of names")
    return value


def _count(value: object, known: dict[int, int]) -> int:
    """Number of values; those of an alias count each time."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 0  # until it is known
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(each, known) for each in inner)
    elif known[id(value)] == 0:
        raise ValueError("it contains itself")
    return known[id(value)]
