"""Hook of mkdocs that selects the pages of the site and adapts their links.

Files keep their paths of the repository, so that links between them work on GitHub and on the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

import mkdocs.plugins
from mkdocs.structure.files import File, Files
from sections import lacks, load

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
BESIDE = ("*.md", "benchmarks/*.md", "benchmarks/*.png", "benchmarks/*.webp")
"""Pages of the site outside docs/."""

COMMANDS = "<!-- commands -->"
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?!https?://|mailto:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
BADGE = re.compile(r"\[!\[([^\]]*)\]\(https?://[^)]*\)\]\(([^)]*)\)\n?")

FETCHED = re.compile(
    r"<(?:img|script|iframe)\b[^>]*\bsrc=\"(?:https?:)?//[^>]*>"
    r"|<link\b(?=[^>]*\brel=\"(?:stylesheet|preconnect|preload|icon)\")[^>]*\bhref=\"(?:https?:)?//[^>]*>"
)

log = mkdocs.plugins.get_plugin_logger("sections")


def on_config(config: MkDocsConfig) -> None:
    """Warn of docstrings that lack a section, which fails a strict build."""
    for sentence in lacks(load()):
        log.warning(sentence)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Give every file its path of the repository; mkdocs calls this after listing docs/."""
    docs = Path(config.docs_dir)
    placed = []
    for file in files:
        source = Path(file.abs_src_path) if file.abs_src_path else None
        if source and source.is_relative_to(docs):
            file = file_at(source.relative_to(ROOT).as_posix(), config, file.dest_uri)
        placed.append(file)
    beside = sorted(path for pattern in BESIDE for path in ROOT.glob(pattern))
    placed += [file_at(path.relative_to(ROOT).as_posix(), config) for path in beside]
    placed.append(file_at("src/napari_ensir/icon.svg", config, "icon.svg"))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        placed += shown(notebook, config)
    return Files(placed)


def file_at(place: str, config: MkDocsConfig, address: str | None = None) -> File:
    """Return a file of the repository by its path; None: the address follows from the path."""
    return File(place, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=address)


def shown(notebook: Path, config: MkDocsConfig) -> list[File]:
    """Return a notebook with its outputs as a page and its pictures."""
    from nbconvert import MarkdownExporter

    text, parts = MarkdownExporter().from_filename(
        notebook, resources={"unique_key": "output", "output_files_dir": notebook.stem}
    )
    place = notebook.relative_to(ROOT)
    page = File.generated(config, place.with_suffix(".md").as_posix(), content=text)
    pictures = [
        File.generated(config, (place.parent / name).as_posix(), content=content)
        for name, content in parts["outputs"].items()
    ]
    return [page, *pictures]


def commands() -> str:
    """Return the ``--help`` of every command, under headings of the second level."""
    import typer
    from typer.cli import get_docs_for_click

    from napari_ensir.cli.app import app

    return "\n".join(
        get_docs_for_click(obj=each, ctx=typer.Context(each), call_prefix="napari-ensir", indent=1)
        for each in typer.main.get_command(app).commands.values()
    )


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page as shown on the site; mkdocs calls this for each."""
    known = {file.src_uri for file in files if not file.inclusion.is_excluded()}
    if page.parent is None:
        page.meta["hide"] = ["navigation"]  # otherwise this page alone
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, commands())
    parts, last = [], 0
    for fence in FENCED.finditer(markdown):  # in code, a subscript that is called looks like a link
        parts += [led(markdown[last : fence.start()], page.file.src_uri, known, config.repo_url), fence[0]]
        last = fence.end()
    return "".join([*parts, led(markdown[last:], page.file.src_uri, known, config.repo_url)])


def led(prose: str, place: str, known: set[str], repository: str) -> str:
    """Point links to files that are no page to the repository; replace badges, which are fetched, by text.

    Parameters
    ----------
    prose
        Text outside blocks of code.
    place
        Path of the page in the repository.
    known
        Paths of all pages of the site.
    repository
        Address of the repository.

    Returns
    -------
    str
    """

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), found[1]))
        page = posixpath.splitext(target)[0] + ".md"
        if target.endswith(".ipynb") and page in known:
            return posixpath.splitext(found[1])[0] + ".md"
        if target in known or not (ROOT / target).exists():  # mkdocs reports missing files
            return found[0]
        return f"{repository}/blob/main/{target}{found[2] or ''}"

    badges = BADGE.findall(prose)
    prose = BADGE.sub("", prose)
    if badges:
        head, _, rest = prose.partition("\n")
        prose = "\n".join([head, "", " · ".join(f"[{words}]({address})" for words, address in badges), rest])
    return LINK.sub(link, prose)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Warn of external resources: the site must be readable without a network."""
    for found in FETCHED.finditer(output):
        log.warning(f"{page.file.src_uri} fetches {found[0]}")
    return output
