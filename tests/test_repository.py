"""Metadata of the repository: conda recipe and issue forms."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def test_conda_recipe_lists_the_dependencies_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = project["dependencies"]
    recipe = yaml.safe_load((ROOT / "tools" / "conda" / "recipe.yaml").read_text("utf-8"))
    assert recipe["context"]["version"] == project["version"]
    needed = dict(re.fullmatch(r"(\S+)\s*(.*)", line).groups() for line in recipe["requirements"]["run"])
    for line in wanted:
        name, limits = re.fullmatch(r"([\w.-]+)(?:\[[^\]]*\])?\s*(.*)", line).groups()
        assert needed[CONDA_NAMES.get(name, name.lower())] == limits
    assert len(needed) == len(wanted) + 1  # Python


def test_issue_forms_have_a_name_and_labels():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 3
    for form in forms:
        content = yaml.safe_load(form.read_text("utf-8"))
        if form.name == "config.yml":
            continue
        assert content["name"]
        for part in content["body"]:
            assert part["attributes"]["label"]
