"""Build hook that makes the links of the README absolute, for PyPI."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"(!\[[^\]]*\]\()(?!https?://)")
LINK = re.compile(r"((?<!!)\[[^\]]*\]\()(?!https?://)")


def absolute(text: str, source: str, version: str) -> str:
    """Make relative pictures and links of a page absolute, at a version's tag in the repository."""
    raw = source.replace("https://github.com/", "https://raw.githubusercontent.com/")
    text = PICTURE.sub(rf"\g<1>{raw}/v{version}/", text)
    return LINK.sub(rf"\g<1>{source}/blob/v{version}/", text)


class AbsoluteReadme(MetadataHookInterface):
    """Hatch hook that sets ``readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the page; hatchling calls this in a build."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        page = absolute(text, metadata["urls"]["Source"], metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": page}
