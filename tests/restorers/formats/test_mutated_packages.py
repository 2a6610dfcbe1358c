"""Mutated packages and CAREamics checkpoints are opened or refused with one line."""

from __future__ import annotations

import os
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
import yaml

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import open_restorer
from tests.helpers.careamics_files import (
    configuration,
    network_of,
    write_checkpoint,
    write_package,
    write_zip,
)

# A mutated mean or deviation differs from the image.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*was trained on intensities:napari_ensir.restorers.base.UnfamiliarImageWarning"
)
MUTATIONS = int(os.environ.get("NAPARI_ENSIR_MUTATIONS", "30"))
WEIRD = (
    None,
    True,
    -1,
    0,
    1,
    3,
    10**30,
    1e308,
    float("nan"),
    0.5,
    "",
    "none",
    "x" * 500,
    [],
    {},
    [1, [2]],
    {"a": 1},
)


def mutate(rng, value):
    """Remove, replace or duplicate a value somewhere in nested lists and mappings."""
    while isinstance(value, dict | list) and value:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[int(rng.integers(len(keys)))]
        if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.8:
            value = value[key]
            continue
        kind = rng.integers(3)
        if kind == 0:
            del value[key]
        elif kind == 1:
            value[key] = WEIRD[int(rng.integers(len(WEIRD)))]
        else:
            value[key] = [value[key], value[key]]
        return


def flipped(rng, content: bytes) -> bytes:
    """Change some bytes, or truncate."""
    if rng.random() < 0.2:
        return content[: int(rng.integers(len(content)))]
    changed = bytearray(content)
    for at in rng.integers(len(changed), size=int(rng.integers(1, 8))):
        changed[at] = int(rng.integers(256))
    return bytes(changed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    network = network_of(depth=1)
    config = configuration(network)
    return write_checkpoint(folder / "a.ckpt", network, config), write_package(
        folder / "a.zip", network, config
    )


def opens_or_is_refused(path) -> bool:
    message = ""
    try:
        restorer = open_restorer(path, device="cpu")
    except EnsembleError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
    if message:
        return False
    assert all(bool(torch.isfinite(each).all()) for each in restorer.network.state_dict().values())
    with suppress(EnsembleError):  # numbers may be finite and still too large
        assert np.isfinite(restorer(np.full((16, 16), 100.0))).all()
    return True


@pytest.mark.parametrize("which", [0, 1])
def test_flipped_bytes(whole, which, tmp_path):
    rng = np.random.default_rng(which)
    path = tmp_path / whole[which].name
    for _ in range(MUTATIONS):
        path.write_bytes(flipped(rng, whole[which].read_bytes()))
        opens_or_is_refused(path)


@pytest.mark.parametrize("which", [0, 1])
def test_flipped_bytes_in_records(whole, which, tmp_path):
    rng = np.random.default_rng(which)
    path = tmp_path / whole[which].name
    with zipfile.ZipFile(whole[which]) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(MUTATIONS):
        names = [each for each in records if rng.random() < 0.5 or each.endswith((".pkl", ".pth"))]
        name = names[int(rng.integers(len(names)))]
        changed = records | {name: flipped(rng, records[name])}
        if which == 0:
            with zipfile.ZipFile(path, "w") as archive:
                for each, content in changed.items():
                    archive.writestr(each.replace("archive", "a"), content)
        else:
            write_zip(path, changed)
        opens_or_is_refused(path)


def test_changed_settings(tmp_path):
    rng = np.random.default_rng(0)
    network = network_of(depth=1)
    opened = 0
    for _ in range(MUTATIONS):
        config = configuration(network)
        mutate(rng, config["algorithm_config" if rng.random() < 0.5 else "data_config"])
        opened += opens_or_is_refused(write_checkpoint(tmp_path / "a.ckpt", network, config | {"x": 1}))

        def change(rdf, files):
            settings = yaml.safe_load(files["careamics.yaml"])
            mutate(rng, settings if rng.random() < 0.5 else rdf)
            files["careamics.yaml"] = yaml.safe_dump(settings).encode()

        opened += opens_or_is_refused(
            write_package(tmp_path / "a.zip", network, configuration(network), change)
        )
    assert opened  # otherwise only the first check was tested
