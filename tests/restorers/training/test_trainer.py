from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import CLASSICAL, load_restorer, resume_training
from napari_ensir.restorers.training.dp_ir import DPIR, FusionModel, FusionSettings
from napari_ensir.restorers.training.ir_cm import IRCM, ConsistencyModel, ConsistencySettings
from napari_ensir.restorers.training.models import (
    Denoiser,
    DenoiserModel,
    LocalWiener,
    NetworkShape,
    Regression,
    RegressionModel,
)
from napari_ensir.restorers.training.trainer import Trainer, TrainingPairs, TrainingSettings

KINDS = ["regression", "ir-cm", "denoiser", "dp-ir"]


def start(kind: str, pairs: TrainingPairs, settings: TrainingSettings) -> Trainer:
    torch.manual_seed(0)
    channels = pairs.channels
    shape = {"channels": channels, "width": 8}
    restorer = {
        "regression": lambda: Regression(model=RegressionModel(NetworkShape(**shape, depth=2))),
        "ir-cm": lambda: IRCM(model=ConsistencyModel(ConsistencySettings(**shape, depth=2))),
        "denoiser": lambda: Denoiser(model=DenoiserModel(NetworkShape(**shape, depth=2))),
        "dp-ir": lambda: DPIR(
            model=FusionModel.for_denoiser(None, FusionSettings(**shape, latest=20)),
            ir=CLASSICAL["median"](),
        ),
    }[kind]()
    return Trainer(restorer, pairs, settings, device="cpu")


def finish(trainer: Trainer, steps: int | None = None) -> Trainer:
    for event in trainer.run():
        if event.step == steps:
            break
    return trainer


@pytest.fixture(scope="module")
def trained(pairs, brief):
    """Trainers of each kind that have finished, trained once."""

    @cache
    def train(kind: str) -> Trainer:
        # The denoiser's loss is 1 for the best linear guess, and what is below it has to be learned.
        steps = 200 if kind == "denoiser" else 60
        return finish(start(kind, pairs, replace(brief, steps=steps)))

    return train


@pytest.mark.parametrize(
    ("kind", "share"), [("regression", 0.7), ("ir-cm", 0.8), ("dp-ir", 0.7), ("denoiser", 0.95)]
)
def test_the_loss_falls(kind, share, trained):
    trainer = trained(kind)
    assert len(trainer.losses) == trainer.step == trainer.settings.steps
    assert np.mean(trainer.losses[-15:]) < share * np.mean(trainer.losses[:15])


def test_a_trained_regression_restores(images, trained):
    restorer = replace(trained("regression").restorer(), channel_axis=-1)
    degraded, clean = (each.astype(float) for each in images[0])
    assert np.mean((restorer(images[0][0]) - clean) ** 2) < 0.6 * np.mean((degraded - clean) ** 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_equals_an_uninterrupted_one(kind, pairs, brief, tmp_path):
    brief = replace(brief, steps=12)
    whole = finish(start(kind, pairs, brief))
    finish(start(kind, pairs, brief), steps=5).save(tmp_path / "half.safetensors")
    resumed = resume_training(tmp_path / "half.safetensors", pairs, device="cpu")
    assert resumed.step == 5
    finish(resumed)
    assert resumed.losses == whole.losses
    for name, each in whole.model.state_dict().items():
        assert torch.equal(each, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_restores_to_the_same_images(kind, images, pairs, brief, tmp_path):
    trainer = finish(start(kind, pairs, replace(brief, steps=3)))
    path = tmp_path / "restorer.safetensors"
    before = replace(trainer.restorer(), channel_axis=-1)
    before.save(path)
    after = load_restorer(path, channel_axis=-1, device="cpu")
    assert type(after) is type(before)
    assert after.name == before.name
    assert after.data_range == before.data_range == (0.0, 255.0)
    assert all(torch.equal(each, after.tensors()[name]) for name, each in before.tensors().items())
    # The weights lie elsewhere in memory, which may change how convolutions round.
    np.testing.assert_allclose(after(images[0][0]), before(images[0][0]), atol=1e-3)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_steps_tell_and_previews_come_when_due(pairs, brief):
    events = list(start("regression", pairs, replace(brief, steps=4, preview_every=2)).run())
    assert [each.step for each in events] == [1, 2, 3, 4]
    assert all(each.steps == 4 and each.loss > 0 for each in events)
    assert [each.preview is not None for each in events] == [False, True, False, True]
    assert events[1].preview.shape == (3, 40, 48)
    assert events[1].preview.dtype == np.float32


def test_what_is_untrained_says_so(pairs, brief):
    trainer = start("ir-cm", pairs, brief)
    assert trainer.restorer().name == "IR-CM (untrained)"
    assert finish(trainer, steps=1).restorer().name == "IR-CM"


def test_a_grey_network_restores_each_channel_and_every_plane(images, brief):
    grey = TrainingPairs.from_arrays([(a[..., 0], b[..., 0]) for a, b in images])
    restorer = finish(start("regression", grey, brief), steps=3).restorer()
    stack = np.stack([a[..., 0] for a, _ in images])
    told = []
    restored = restorer(stack, progress=lambda *what: told.append(what[:2]))
    assert told == [(0, 2), (1, 2), (2, 2)]
    np.testing.assert_allclose(restored[1], restorer(stack[1]), atol=1e-4)
    colour = replace(restorer, channel_axis=0)(stack)
    np.testing.assert_allclose(colour, restored, atol=1e-4)


def test_a_colour_network_refuses_grey_images(images, pairs, brief):
    with pytest.raises(EnsembleError, match="3 colour channels and the image has 1"):
        start("regression", pairs, brief).restorer()(images[0][0][..., 0])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "no pair"),
        ([((9, 9), (9, 8))], "must be equal"),
        ([((7, 9), (7, 9))], "at least 8"),
        ([((2, 9, 9), (2, 9, 9)), ((3, 9, 9), (3, 9, 9))], "must be the same in all"),
    ],
)
def test_bad_pairs_are_refused(shapes, message):
    pairs = [(np.zeros(a), np.ones(b)) for a, b in shapes]
    with pytest.raises(EnsembleError, match=message):
        TrainingPairs.from_arrays(pairs, channel_axis=0 if shapes and len(shapes[0][0]) == 3 else None)


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"batch": 0}, {"patch": 4}, {"learning_rate": 0.0}, {"seed": -1}]
)
def test_bad_training_settings_are_refused(settings):
    with pytest.raises(EnsembleError):
        TrainingSettings(**settings)


def test_a_training_that_diverges_stops(pairs, brief):
    trainer = start("regression", pairs, brief)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.nan)
    with pytest.raises(EnsembleError, match="diverged at step 1"):
        finish(trainer)


@pytest.fixture
def saved(pairs, brief, tmp_path):
    path = tmp_path / "saved.safetensors"
    finish(start("ir-cm", pairs, brief), steps=1).save(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["napari_ensir"])

    def write(changes: dict, drop: str = "", **more: torch.Tensor) -> str:
        content = {name: each for name, each in (tensors | more).items() if name != drop}
        save_file(content, path, metadata={"napari_ensir": json.dumps(header | changes)})
        return str(path)

    return header, tensors, write


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema version 2"),
        ({"kind": "gan"}, "kind 'gan'"),
        ({"kind": ["ir-cm"]}, "kind"),
        ({"settings": None}, "not a mapping"),
        ({"settings": {"width": 8}}, "missing or unknown"),
        ({"data_range": [1, 0]}, "data range"),
        ({"data_range": "x"}, "data range"),
        ({"step": -1}, "step"),
        ({"step": True}, "step"),
    ],
)
def test_bad_headers_are_refused(saved, changes, message):
    _, _, write = saved
    with pytest.raises(EnsembleError, match=message):
        load_restorer(write(changes))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", 8.0, "not of type int"),
        ("width", 10**6, "width is 1000000"),
        ("width", 16, "needed"),
        ("depth", 3, "do not match"),
        ("noise", "x", "not of type float"),
        ("times", 1, "times is 1"),
        ("channels", True, "not of type int"),
    ],
)
def test_bad_settings_are_refused(saved, name, value, message):
    header, _, write = saved
    with pytest.raises(EnsembleError, match=message):
        load_restorer(write({"settings": header["settings"] | {name: value}}))


def test_bad_tensors_are_refused(saved):
    _, tensors, write = saved
    name = "model.network.head.bias"
    for more, drop, message in (
        ({}, name, "missing or unknown"),
        ({"model.stray": torch.zeros(1)}, "", "missing or unknown"),
        ({"stray": torch.zeros(1)}, "", "unknown"),
        ({name: torch.zeros(1)}, "", "are needed"),
        ({name: tensors[name].double()}, "", "are needed"),
        ({name: tensors[name] * torch.nan}, "", "NaN"),
    ):
        with pytest.raises(EnsembleError, match=message):
            load_restorer(write({}, drop, **more))


def test_bad_states_are_not_resumed(saved, pairs, images):
    header, _, write = saved
    path = write({})
    floats = TrainingPairs.from_arrays(images, channel_axis=-1, data_range=(0, 1))
    with pytest.raises(EnsembleError, match="data range"):
        resume_training(path, floats, device="cpu")
    with pytest.raises(EnsembleError, match="no complete training state"):
        resume_training(write({"step": 7}), pairs, device="cpu")
    with pytest.raises(EnsembleError, match="settings"):
        resume_training(write({"training": {}}), pairs, device="cpu")
    assert resume_training(write(header), pairs, device="cpu").step == 1


def test_files_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(EnsembleError, match="there is no file"):
        load_restorer(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    with pytest.raises(EnsembleError, match="cannot be read"):
        load_restorer(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(EnsembleError, match="not a checkpoint of this package"):
        load_restorer(tmp_path / "other.safetensors")


def test_nothing_is_left_where_a_checkpoint_cannot_be_written(pairs, brief, tmp_path):
    target = tmp_path / "folder.safetensors"
    target.mkdir()
    with pytest.raises(EnsembleError, match="is a folder; a file cannot replace it"):
        start("regression", pairs, brief).save(target)
    assert list(tmp_path.iterdir()) == [target]


def test_denoisers_denoise(images, pairs, trained):
    generator = torch.Generator().manual_seed(0)
    clean = torch.from_numpy(pairs.clean[0])[None] * 2 - 1
    for sigma in (0.1, 0.4):
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        denoised = LocalWiener()(noisy, torch.tensor([sigma]))
        assert ((denoised - clean) ** 2).mean() < 0.6 * sigma**2
    restorer = replace(trained("denoiser").restorer(), channel_axis=-1)
    truth = images[0][1].astype(np.float32)
    noisy = truth + np.random.default_rng(0).normal(0, 30, truth.shape)
    for noise in (None, 30.0):
        assert np.mean((replace(restorer, noise=noise)(noisy) - truth) ** 2) < 0.8 * 900
    assert not np.allclose(replace(restorer, noise=60.0)(noisy), replace(restorer, noise=5.0)(noisy), atol=1)
