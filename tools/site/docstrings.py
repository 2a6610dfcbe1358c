"""How docstrings read on the site: roles become links, settings say what they are. Changes no source.

An extension of griffe, which reads the package without running it.
"""

from __future__ import annotations

import re
from typing import Any

import griffe
from sections import INNER, documented

ROLE = re.compile(r":(?:func|class|mod|meth|attr|exc|data):`~?\.?([\w.]+)`")
HEADING = re.compile(r"^(Notes|References)\n-+$", re.MULTILINE)  # sections that griffe leaves to the markup


class Docstrings(griffe.Extension):
    """Runs over every docstring once, before any is shown."""

    def __init__(self) -> None:
        self.public = {name.rpartition(".")[2]: name for name in documented()}

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        """Make links of roles and bold words of headings; hide what is not for readers."""
        if obj.name in INNER or (obj.docstring is not None and obj.docstring.value.startswith("See :")):
            obj.docstring = None  # what says nothing, or what another one says, is not shown
        if obj.docstring is not None:
            text = ROLE.sub(lambda found: self._link(found[1], obj), obj.docstring.value)
            obj.docstring.value = HEADING.sub(r"**\1**\n", text)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **others: Any) -> None:
        """Describe a setting by its description, and show its default alone.

        Before signatures of dataclasses are made of them.
        """
        call = attr.value
        if not isinstance(call, griffe.ExprCall) or str(call.function) != "setting":
            return
        said = {a.name: a.value for a in call.arguments if isinstance(a, griffe.ExprKeyword)}
        attr.value = next((a for a in call.arguments if not isinstance(a, griffe.ExprKeyword)), None)
        if attr.docstring is None and isinstance(text := said.get("description"), str):
            attr.docstring = griffe.Docstring(text.strip("\"'"), parent=attr)

    def _link(self, name: str, where: griffe.Object) -> str:
        """A link to a public name, or to a method of one; what is not public is code."""
        owner, _, last = name.rpartition(".")
        around = [each for each in (where, where.parent) if each is not None and last in each.members]
        near = [each.name for each in around if each.members[last].has_docstring]
        owner = owner.rpartition(".")[2] or (near or [""])[0]
        if owner in self.public:
            return f"[`{last}`][{self.public[owner]}.{last}]"
        return f"[`{last}`][{self.public[last]}]" if last in self.public else f"`{name}`"
