"""Griffe extension that adapts docstrings to the site: roles become links, settings get descriptions."""

from __future__ import annotations

import re
from typing import Any

import griffe
from sections import INNER, documented

ROLE = re.compile(r":(?:func|class|mod|meth|attr|exc|data):`~?\.?([\w.]+)`")
HEADING = re.compile(r"^(Notes|References)\n-+$", re.MULTILINE)  # sections that griffe does not parse


class Docstrings(griffe.Extension):
    """Adapt every docstring before it is rendered."""

    def __init__(self) -> None:
        self.public = {name.rpartition(".")[2]: name for name in documented()}

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        """Replace roles by links and headings by bold words; hide internal members."""
        if obj.name in INNER or (obj.docstring is not None and obj.docstring.value.startswith("See :")):
            obj.docstring = None  # internal, or documented elsewhere
        if obj.docstring is not None:
            text = ROLE.sub(lambda found: self._link(found[1], obj), obj.docstring.value)
            obj.docstring.value = HEADING.sub(r"**\1**\n", text)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **others: Any) -> None:
        """Give a setting its description, and show only its default.

        This runs before griffe makes signatures of dataclasses.
        """
        call = attr.value
        if not isinstance(call, griffe.ExprCall) or str(call.function) != "setting":
            return
        said = {a.name: a.value for a in call.arguments if isinstance(a, griffe.ExprKeyword)}
        attr.value = next((a for a in call.arguments if not isinstance(a, griffe.ExprKeyword)), None)
        if attr.docstring is None and isinstance(text := said.get("description"), str):
            attr.docstring = griffe.Docstring(text.strip("\"'"), parent=attr)

    def _link(self, name: str, where: griffe.Object) -> str:
        """Return a link to a public name or a method of one; other names become code."""
        owner, _, last = name.rpartition(".")
        around = [each for each in (where, where.parent) if each and each.is_class and last in each.members]
        near = [each.name for each in around if each.members[last].has_docstring]
        owner = owner.rpartition(".")[2] or (near or [""])[0]
        if owner in self.public:
            return f"[`{last}`][{self.public[owner]}.{last}]"
        return f"[`{last}`][{self.public[last]}]" if last in self.public else f"`{name}`"
