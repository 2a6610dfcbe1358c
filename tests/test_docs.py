"""Python blocks of the guides run; their links and pictures exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)(#[^)]*)?\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

NEEDS = {"large-stacks.md": ("dask", "zarr"), "from-python.md": ("sklearn",)}
"""Optional libraries that a page needs."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[int, str]]:
    """Return the Python blocks of a page, each with its first line."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start()) + 1, found[1]) for found in BLOCK.finditer(text)]


def run(page: Path) -> dict[str, object]:
    """Run a page's blocks in order, in one namespace; tracebacks name the page's lines."""
    namespace: dict[str, object] = {"__name__": "guide"}
    for line, source in blocks(page):
        exec(compile("\n" * line + source, str(page), "exec", dont_inherit=True), namespace)
    return namespace


def test_every_python_block_is_found():
    fences = {name_of(page): page.read_text(encoding="utf-8").count("```python") for page in PAGES}
    assert fences == {name_of(page): len(blocks(page)) for page in PAGES}
    assert {"README.md", "docs/from-python.md", "docs/large-stacks.md"} <= {k for k, n in fences.items() if n}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_blocks_run(page, tmp_path, monkeypatch):
    for module in NEEDS.get(page.name, ()):
        pytest.importorskip(module, reason=f"{page.name} needs {module}")
    monkeypatch.chdir(tmp_path)
    run(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_linked_files_exist(page):
    # Without code, where a subscript that is called looks like a link.
    prose = FENCED.sub("", page.read_text(encoding="utf-8"))
    for target, _ in LINK.findall(prose):
        linked = (page.parent / target).resolve()
        assert linked.exists(), f"{page.name} links to {target}"


def test_every_picture_is_shown_and_small():
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target, _ in LINK.findall(page.read_text(encoding="utf-8"))
    }
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture in shown, f"no page shows {picture.name}"
        assert picture.stat().st_size < 250_000


def test_menu_paths_are_those_of_the_manifest():
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(ROOT / "napari.yaml")
    title = manifest.display_name
    commands = {command.id: command.title for command in manifest.contributions.commands}
    there = {f"Plugins > {title} > {widget.display_name}" for widget in manifest.contributions.widgets}
    there |= {f"File > Open Sample > {title} > {s.display_name}" for s in manifest.contributions.sample_data}
    for menu, entries in manifest.contributions.menus.items():
        place = " > ".join(part.capitalize() for part in menu.split("/")[1:])
        there |= {f"{place} > {commands[entry.command]}" for entry in entries}
    for page in PAGES:
        text = " ".join(page.read_text(encoding="utf-8").split())
        for path in re.findall(r"\*\*((?:Plugins|File|Layers) > [^*]+)\*\*", text):
            assert path in there, f"{page.name} sends its reader to {path}"


def test_links_of_the_readme_on_pypi_are_absolute():
    hook = runpy.run_path(str(ROOT / "tools" / "pypi_readme.py"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    page = hook["absolute"](text, "https://github.com/us/it", "1.2")
    assert not LINK.findall(page)
    assert "](https://raw.githubusercontent.com/us/it/v1.2/docs/images/overview-dark.png)" in page
    assert "](https://github.com/us/it/blob/v1.2/docs/first-steps.md)" in page
    assert "](https://napari.org)" in page


class TestContributing:
    """The examples of CONTRIBUTING.md work."""

    @pytest.fixture
    def shown(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        return run(ROOT / "CONTRIBUTING.md")

    @pytest.fixture
    def images(self):
        rng = np.random.default_rng(0)
        truth = rng.integers(40, 200, (64, 64)).astype(np.uint8)
        return [(truth + rng.integers(0, n, truth.shape)).astype(np.uint8) for n in (4, 30)], truth

    def test_examples_are_short(self):
        for line, source in blocks(ROOT / "CONTRIBUTING.md"):
            assert len(source.splitlines()) < 30, f"line {line}"

    def test_estimator(self, shown, images, monkeypatch):
        from napari_ensir import fit_lut
        from napari_ensir.ensemble.estimators.base import METHODS, Method
        from napari_ensir.settings import METHOD_CHOICES
        from napari_ensir.settings import METHODS as TEXTS

        ((name, texts),) = shown["TEXTS"].items()
        monkeypatch.setattr(Method, "load", lambda method: shown[method.path.partition(":")[2]])
        monkeypatch.setitem(TEXTS, name, texts)
        monkeypatch.setitem(METHOD_CHOICES, name, texts)
        monkeypatch.setitem(METHODS, name, Method(*texts, *shown["METHOD"][name]))
        candidates, truth = images
        lut = fit_lut([(candidates, truth)], method=name, device="cpu")
        np.testing.assert_array_equal(lut.fallback, [[1, 0]])
        many = lut.counts > 50
        np.testing.assert_array_equal(lut.weights[many], np.tile([1, 0], (many.sum(), 1)))
        np.testing.assert_array_equal(lut.weights.sum(axis=1), 1)

    def test_restorer(self, shown, images):
        from napari_ensir.restorers import Restorer
        from napari_ensir.settings import settings_of

        (_, noisy), _ = images
        restorer = shown["Minimum"](size=5)
        assert isinstance(restorer, Restorer)
        assert [field.name for field in settings_of(restorer)] == ["spatial_ndim", "hot_pixels", "size"]
        restored = restorer(noisy)
        assert restored.dtype == np.float32
        assert (restored <= noisy).all()

    def test_sample(self, shown):
        layers = shown["noisy_moon"]()
        names = [keywords["name"] for _, keywords, _ in layers]
        assert names == ["ground truth", "noisy", "Gaussian", "median"]
        assert len({data.dtype for data, *_ in layers}) == len({data.shape for data, *_ in layers}) == 1

    def test_widget(self, shown, qtbot):
        viewer = ViewerModel()
        viewer.add_image(np.arange(12).reshape(3, 4), name="image")
        widget = shown["RangeWidget"](viewer)
        qtbot.addWidget(widget.native)
        assert not widget.cancel_button.enabled
        widget.run()
        assert "choose" in widget.message.value
        widget.layer.value = viewer.layers["image"]
        widget.run()
        qtbot.waitUntil(lambda: widget.task is None, timeout=60_000)
        assert widget.message.value == "0 to 11"
