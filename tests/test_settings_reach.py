"""Settings have the same names and defaults in Python, on the command line and in the guides."""

from __future__ import annotations

import importlib.util
import inspect

import pytest
import typer
from typer.testing import CliRunner

from napari_ensir import WeightLUT, compare, fit_lut, learn_blind
from napari_ensir.cli.app import app
from napari_ensir.settings import (
    ApplySettings,
    BlindSettings,
    CompareSettings,
    EvaluateSettings,
    FitSettings,
    RestoreSettings,
    SweepSettings,
    TrainSettings,
    settings_of,
)
from tests.helpers.paths import ROOT

COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        (FitSettings, fit_lut),
        (ApplySettings, WeightLUT.apply),
        (CompareSettings, compare),
        (BlindSettings, learn_blind),
    ],
    ids=lambda one: one.__name__,
)
def test_python_has_every_setting_with_its_default(kind, function):
    keywords = inspect.signature(function).parameters
    for each in settings_of(kind):
        assert keywords[each.name].default == each.default, each.name


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (FitSettings, "fit"),
        (ApplySettings, "apply"),
        (EvaluateSettings, "evaluate"),
        (CompareSettings, "compare"),
        (RestoreSettings, "restore"),
        (BlindSettings, "blind"),
        (SweepSettings, "sweep"),
        (TrainSettings, "train"),
    ],
)
def test_the_command_line_has_every_setting_with_its_default(kind, name):
    options = {option.name: option for option in COMMANDS[name].params}
    for each in settings_of(kind):
        option = options[each.name]
        assert "--" + each.name.replace("_", "-") in option.opts
        assert option.default == each.default or (option.default in (None, False) and not each.default)
        assert option.help.startswith(each.description[:40])


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=lambda words: " ".join(words))
def test_help_shows_flags_as_they_are_typed(words):
    """Flags have no value, and values have the words of the guides instead of typer's <bool> and <path>."""
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"}).stdout
    options = [line for line in shown.splitlines() if " --" in line]
    assert any("--help" in line for line in options)
    assert not [line for line in options if "<" in line or "BOOL" in line]


def test_tables_of_settings_in_the_guides_are_current():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools" / "settings_tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    marked = [guide for guide in (ROOT / "docs").glob("*.md") if "<!-- end -->" in guide.read_text("utf-8")]
    assert len(marked) >= 2
    for guide in marked:
        text = guide.read_text("utf-8")
        assert tables.filled(text) == text, f"{guide.name}: run python tools/settings_tables.py"
