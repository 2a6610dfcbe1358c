"""Which files of the repository are pages of the site, and where their links lead there. Writes no text.

A hook of mkdocs. Every file keeps its place in the repository, as links between them have it and as GitHub
shows them; only the addresses of pages are shorter. It does not read docstrings: see ``docstrings.py``.
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
BESIDE = ("*.md", "benchmarks/*.md", "benchmarks/*.png")
"""What the site shows that does not lie in docs/."""

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
    """Complain of docstrings that lack a section: a strict build fails by it."""
    for sentence in lacks(load()):
        log.warning(sentence)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put every file where the repository has it; mkdocs calls this once it has listed docs/."""
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
    """A file of the repository, by its place in it; None: its address follows from that."""
    return File(place, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=address)


def shown(notebook: Path, config: MkDocsConfig) -> list[File]:
    """A notebook, with what is kept in it, as a page and its pictures."""
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
    """What ``--help`` says of every command, under headings of the second level."""
    import typer
    from typer.cli import get_docs_for_click

    from napari_ensir.cli.app import app

    return "\n".join(
        get_docs_for_click(obj=each, ctx=typer.Context(each), call_prefix="napari-ensir", indent=1)
        for each in typer.main.get_command(app).commands.values()
    )


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page as the site shows it; mkdocs calls this for each."""
    known = {file.src_uri for file in files if not file.inclusion.is_excluded()}
    if page.parent is None:
        page.meta["hide"] = ["navigation"]  # which would be this page alone
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, commands())
    parts, last = [], 0
    for fence in FENCED.finditer(markdown):  # a subscript that is called looks like a link
        parts += [led(markdown[last : fence.start()], page.file.src_uri, known, config.repo_url), fence[0]]
        last = fence.end()
    return "".join([*parts, led(markdown[last:], page.file.src_uri, known, config.repo_url)])


def led(prose: str, place: str, known: set[str], repository: str) -> str:
    """Lead links to what is no page to the repository, and say badges, which are fetched, in words.

    Parameters
    ----------
    prose
        What lies between blocks of code.
    place
        Of the page in the repository.
    known
        Places of all that the site has.
    repository
        Its address.

    Returns
    -------
    str
    """

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), found[1]))
        page = posixpath.splitext(target)[0] + ".md"
        if target.endswith(".ipynb") and page in known:
            return posixpath.splitext(found[1])[0] + ".md"
        if target in known or not (ROOT / target).exists():  # what is nowhere is for mkdocs to complain of
            return found[0]
        return f"{repository}/blob/main/{target}{found[2] or ''}"

    badges = BADGE.findall(prose)
    prose = BADGE.sub("", prose)
    if badges:
        head, _, rest = prose.partition("\n")
        prose = "\n".join([head, "", " · ".join(f"[{words}]({address})" for words, address in badges), rest])
    return LINK.sub(link, prose)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Complain of what would be fetched from elsewhere: the site is to be readable without a network."""
    for found in FETCHED.finditer(output):
        log.warning(f"{page.file.src_uri} fetches {found[0]}")
    return output
