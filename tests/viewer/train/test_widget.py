"""Train panel, with short trainings on small layers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from qtpy.QtCore import QThreadPool
from qtpy.QtWidgets import QApplication, QMessageBox
from typer.testing import CliRunner

from napari_ensir.cli.app import app
from napari_ensir.errors import EnsembleError
from napari_ensir.files import write_image
from napari_ensir.restorers import load_restorer
from napari_ensir.restorers.base import restorer_record
from napari_ensir.restorers.training.trainer import Trainer
from napari_ensir.viewer.layers.layers import OUTPUT_KEY, exclusion_reason
from napari_ensir.viewer.restore.widget import RestoreWidget
from napari_ensir.viewer.train.widget import TrainWidget, _steps


def pair(dtype=np.uint8, size=24):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    clean = 120 + 60 * np.sin(x / 6) * np.cos(y / 9) + 40 * ((x // 16 + y // 16) % 2)
    noisy = clean + rng.normal(0, 25, clean.shape)
    return tuple(np.clip(image, 0, 255).astype(dtype) for image in (noisy, clean))


@pytest.fixture
def train(viewer, monkeypatch):
    """The panel with a noisy and a clean layer."""
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Yes)
    torch.set_num_threads(1)  # more threads do not speed up steps this small
    noisy, clean = pair()
    place = {"scale": (0.5, 0.25), "translate": (3, 4), "rotate": 10, "units": ("um", "um")}
    degraded = viewer.add_image(noisy, name="noisy", **place)
    viewer.add_image(clean, name="ground truth", **place)
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Train a restorer")
    widget.degraded.value = degraded
    widget.device.value = "cpu"
    widget.steps.value = 4
    widget.features.value = 8
    widget._progress_timer.setInterval(3_600_000)  # no preview, unless a test asks
    yield widget
    assert QThreadPool.globalInstance().waitForDone(60_000)
    torch.set_num_threads(threads)


@pytest.fixture
def pause(monkeypatch):
    """Let trainings wait after a step, until the event that is returned is set."""
    go_on, run = threading.Event(), Trainer.run

    def pause_after(step):
        def paused(self):
            for event in run(self):
                yield event
                if event.step == step:
                    go_on.wait(60)

        monkeypatch.setattr(Trainer, "run", paused)
        return go_on

    yield pause_after
    go_on.set()


def choose(widget, recipe, steps=4):
    widget.recipe.value = recipe
    widget.steps.value = steps
    widget.features.value = 8


def cancel_after(widget, qtbot, wait_for, steps):
    qtbot.waitUntil(lambda: widget.training.step >= steps, timeout=60_000)
    widget.cancel()
    wait_for(widget)


def test_training_adds_a_candidate_and_reduces_the_loss(viewer, train, wait_for):
    choose(train, "regression", 30)
    assert train.clean.value.name == "ground truth"
    train.train()
    wait_for(train)
    added = viewer.layers[-1]
    assert added.name == "noisy · Regression"
    assert added.data.dtype == np.uint8
    assert not exclusion_reason(added)
    np.testing.assert_allclose(added.extent.world, viewer.layers["noisy"].extent.world)
    losses = train.training.losses
    assert len(losses) == 30
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    dots, mean = train.loss_plot.canvas.figure.axes[0].lines
    assert len(dots.get_xdata()) == len(mean.get_xdata()) == 30
    assert "30 steps" in train.message.value
    assert "training preview" not in viewer.layers
    assert train.save_button.enabled


@pytest.mark.parametrize(("count", "words"), [(1, "1 step"), (2, "2 steps")])
def test_steps_in_words(count, words):
    assert _steps(count) == words


def test_the_preview_is_placed_on_the_image_and_is_not_a_candidate(
    viewer, train, qtbot, wait_for, monkeypatch
):
    monkeypatch.setattr("napari_ensir.viewer.train.run._PREVIEWS", 1000)
    train._progress_timer.setInterval(100)
    choose(train, "regression", 5000)
    train.train()
    qtbot.waitUntil(lambda: "training preview" in viewer.layers, timeout=60_000)
    preview = viewer.layers["training preview"]
    assert OUTPUT_KEY in preview.metadata
    assert exclusion_reason(preview)
    np.testing.assert_allclose(preview.extent.world, viewer.layers["noisy"].extent.world)
    first = preview.data
    assert 20 < first.mean() < 220
    qtbot.waitUntil(lambda: preview.data is not first, timeout=60_000)
    train.cancel()
    wait_for(train)


def test_a_cancelled_training_can_be_saved_and_resumed(viewer, train, qtbot, wait_for, tmp_path):
    choose(train, "regression", 100_000)
    train.train()
    assert not train.save_button.enabled
    cancel_after(train, qtbot, wait_for, 3)
    step = train.training.step
    assert f"after {step} steps; save the training" in train.message.value
    assert [layer for layer in viewer.layers if OUTPUT_KEY not in layer.metadata] == viewer.layers[:2]
    train.save(str(tmp_path / "half"))
    assert load_restorer(tmp_path / "half.safetensors").trained_steps == step
    train.steps.value = step + 4
    train.resume()
    wait_for(train)
    assert train.training.step == step + 4
    assert viewer.layers[-1].name == "noisy · Regression"
    train.resume()
    assert f"All {step + 4} steps are completed" in train.message.value


def test_the_user_is_asked_before_a_training_is_discarded(train, wait_for, monkeypatch, tmp_path):
    asked, answers = [], [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(
        QMessageBox, "question", lambda *arguments: asked.append(arguments[2]) or answers[len(asked) - 1]
    )
    choose(train, "regression", 5)
    train.train()
    wait_for(train)
    first = train.training
    train.train()
    assert asked == ["The training of 5 steps has not been saved. Discard it and start a new training?"]
    assert train.task is None
    assert train.training is first
    train.train()
    wait_for(train)
    assert train.training is not first
    train.save(str(tmp_path / "kept"))
    train.train()  # without a question
    wait_for(train)
    assert len(asked) == 2


def test_a_resumed_checkpoint_gives_the_losses_of_an_uninterrupted_training(
    train, pause, qtbot, wait_for, tmp_path
):
    choose(train, "ir-cm", 8)
    train.train()
    wait_for(train)
    whole = train.training.losses
    go_on = pause(3)
    train.train()
    qtbot.waitUntil(lambda: train.training.step == 3, timeout=60_000)
    train.cancel()
    go_on.set()
    wait_for(train)
    assert train.training.step < 8
    train.save(str(tmp_path / "half.safetensors"))
    train.training = None
    choose(train, "regression", 7)  # the checkpoint determines the recipe
    train.resume_from(str(tmp_path / "half.safetensors"))
    wait_for(train)
    assert train.training.losses == whole
    assert train.steps.value == 8


def test_a_saved_restorer_gives_the_same_image_in_restore(viewer, train, wait_for, tmp_path):
    train.train()
    wait_for(train)
    trained = viewer.layers[-1]
    train.save(str(tmp_path / "mine.safetensors"))
    assert "Saved mine.safetensors" in train.message.value
    restore = RestoreWidget(viewer)
    viewer.window.add_dock_widget(restore)
    restore.image.value = viewer.layers["noisy"]
    restore.open(str(tmp_path / "mine.safetensors"))
    restore.restore()
    wait_for(restore)
    assert viewer.layers[-1] is not trained
    np.testing.assert_array_equal(viewer.layers[-1].data, trained.data)


def test_no_preview_is_added_after_a_short_training(viewer, train, wait_for):
    choose(train, "regression", 5)
    train.train()
    wait_for(train)
    assert train.training.preview is not None
    assert "training preview" not in viewer.layers


def test_dp_ir_with_networks_trained_here(viewer, train, wait_for, tmp_path):
    for recipe in ("regression", "denoiser", "dp-ir"):
        choose(train, recipe)
        assert train.denoiser.native.isVisible() == (recipe == "dp-ir")
        if recipe == "dp-ir":
            train.ir.value = "Regression, trained here"
            assert train.denoiser.value == "Denoising network, trained here"
        train.train()
        wait_for(train)
        assert train.training.step == 4, train.message.value
    assert viewer.layers[-1].name == "noisy · DP-IR, Regression"
    train.save(str(tmp_path / "dp.safetensors"))
    restore = RestoreWidget(viewer)
    viewer.window.add_dock_widget(restore)
    restore.image.value = viewer.layers["noisy"]
    restore.open(str(tmp_path / "dp.safetensors"))
    assert restore.dp_ir_regression_sampler.value
    restore.dp_ir_regression_tau.value = 3
    assert restore.picker.chosen()[-1].tau == 3
    offered = [key for _, key in restore.dp_ir_regression_denoiser._default_choices]
    assert "wavelet" in offered
    assert not {"gaussian", "DP-IR, Regression"} & set(offered)
    restore.restorers.value = ["DP-IR, Regression"]
    restore.restore()
    wait_for(restore)
    restore.dp_ir_regression_ir.value, restore.dp_ir_regression_denoiser.value = "gaussian", "wavelet"
    restore.gaussian_sigma.value = 3.0
    restore.restore()
    wait_for(restore)
    own, other = (layer.data for layer in viewer.layers[-2:])
    assert viewer.layers[-1].name == "noisy · DP-IR, Gaussian"
    assert own.std() != other.std()
    chosen = restore.picker.chosen()[-1]
    assert (chosen.ir.sigma, chosen.denoiser.title) == (3.0, "Wavelet")
    assert restorer_record(chosen)["ir"]["settings"]["sigma"] == 3.0
    restore.program.value = "restore-python"
    restore.copy_button.native.click()
    assert "ir=with_settings(RESTORERS['gaussian'](), sigma=3.0)" in QApplication.clipboard().text()
    train.steps.value = 6
    train.resume_from(str(tmp_path / "dp.safetensors"))
    wait_for(train)
    assert train.training.step == 6, train.message.value


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dp_ir_with_a_network_from_a_file(train, tmp_path, wait_for):
    import torch

    torch.jit.save(torch.jit.script(torch.nn.Identity()), str(tmp_path / "same.pt"))
    choose(train, "dp-ir")
    train.open(str(tmp_path / "same.pt"))
    assert train.ir.value == "same (same.pt)"
    train.train()
    wait_for(train)
    assert train.training.step == 4, train.message.value
    train.save(str(tmp_path / "dp.safetensors"))
    train.steps.value = 6
    train.resume_from(str(tmp_path / "dp.safetensors"))
    wait_for(train)
    assert train.training.step == 6, train.message.value


def test_colour_stacks_and_a_time_limit(viewer, train, wait_for):
    noisy, clean = (np.stack([np.stack([image] * 3, -1)] * 2) for image in pair(size=24))
    layers = [viewer.add_image(image, rgb=True) for image in (noisy, clean)]
    train.degraded.value = layers[0]
    train.clean.value = layers[1]
    choose(train, "ir-cm-1", 100_000)
    train.minutes.value = 0.02
    train.train()
    wait_for(train)
    assert 0 < train.training.step < 100_000
    assert viewer.layers[-1].rgb
    assert viewer.layers[-1].data.shape == noisy.shape


def test_wrong_choices_are_reported(viewer, train, wait_for, tmp_path):
    train.degraded.value = None
    assert not train.run_button.enabled
    assert "No degraded image is chosen" in train.run_button.tooltip
    assert "no training to resume" in train.resume_button.tooltip
    train.train()
    assert "No degraded image is chosen" in train.message.value
    train.degraded.value = viewer.layers["ground truth"]
    train.train()
    assert "the same layer" in train.message.value
    train.degraded.value = viewer.add_image(np.zeros((20, 30), np.uint8))
    train.train()
    assert "shape 20 × 30: shape 24 × 24" in train.message.value
    train.clean.value = viewer.add_image(np.zeros((20, 30), np.uint8))
    train.features.value = 5
    train.train()
    wait_for(train)
    assert "width 5" in train.message.value
    assert train.training is None
    assert not train.resume_button.enabled
    with pytest.raises(EnsembleError, match="no training to save"):
        train.save(str(tmp_path / "nothing"))
    train.resume()
    assert "no training to resume" in train.message.value
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    train.resume_from(str(tmp_path / "bad.safetensors"))
    wait_for(train)
    assert "bad.safetensors" in train.message.value
    train.open(str(tmp_path / "absent.pt"))
    assert "no file" in train.message.value
    assert not list(tmp_path.glob("*nothing*"))


def test_values_can_be_set_by_a_script(viewer, train):
    proxied = train.viewer.layers["noisy"]
    train.update(steps=7, recipe="ir-cm", degraded=proxied, minutes=3.5, features=16, ir="Median")
    other = TrainWidget(viewer)
    viewer.window.add_dock_widget(other, name="other")
    other.update(train.asdict())
    assert other.asdict() == train.asdict()
    settings = other.request().settings
    assert (settings.steps, settings.minutes, settings.width) == (7, 3.5, 16)
    other.minutes.value = None
    assert other.request().settings.minutes is None


def test_a_denoiser_is_trained_without_a_clean_layer(viewer, train, wait_for):
    choose(train, "noise2void")
    assert not train.clean.visible
    assert train.request().layers[0][1] is None
    train.train()
    wait_for(train)
    assert viewer.layers[-1].name == "noisy · Noise2Void"
    choose(train, "noise2noise")
    assert train.clean.visible
    assert train.clean.label == "Second exposure"


def test_several_layers_are_trained_on_together(viewer, train, wait_for):
    first = train.degraded.value, train.clean.value
    train.add_pair_button.native.click()
    assert train.pairs.texts() == ["noisy → ground truth"]
    train.add_pair_button.native.click()
    assert "in the list already" in train.message.value
    stacks = [viewer.add_image(np.stack([image] * 3)[:, ::-1], name="stack") for image in pair()]
    train.degraded.value, train.clean.value = stacks
    choose(train, "regression", 4)
    train.train()
    wait_for(train)
    assert [len(each[0]) for each in train.training.layers] == [3, 24]
    assert len(train.training.trainer.pairs.clean) == 4
    assert viewer.layers[-1].name == "stack · Regression"
    train.degraded.value, train.clean.value = first
    assert len(train.request().layers) == 1  # it is in the list
    train.degraded.value = viewer.add_image(np.zeros((24, 24, 3), np.uint8), rgb=True)
    train.clean.value = viewer.add_image(np.ones((24, 24, 3), np.uint8), rgb=True)
    with pytest.raises(EnsembleError, match="Some layers are RGB"):
        train.request()
    viewer.layers.remove(first[1])
    assert train.pairs.texts() == []


def test_folders_give_the_network_of_the_command_line(viewer, train, wait_for, tmp_path):
    for name, image in zip(("noisy", "clean"), pair(), strict=True):
        (tmp_path / name).mkdir()
        for number in range(2):
            write_image(tmp_path / name / f"{number}.png", np.roll(image, 5 * number))
    choose(train, "regression", 4)
    train.source.value = "files"
    assert not train.degraded.visible
    train.train()
    assert "No folder of degraded images" in train.message.value
    train.degraded_files.value, train.clean_files.value = tmp_path / "noisy", tmp_path / "clean"
    before = list(viewer.layers)
    train.train()
    wait_for(train)
    assert "No layer was added, since the images are files" in train.message.value
    assert list(viewer.layers) == before
    arguments = ["train", "regression", "--steps", "4", "--width", "8", "--device", "cpu"]
    for name in ("degraded", "clean"):
        arguments += [f"--{name}", str(train[f"{name}_files"].value)]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "mine")])
    assert result.exit_code == 0, result.stderr
    command = load_restorer(tmp_path / "mine.safetensors").tensors()
    panel = train.training.trainer.restorer().tensors()
    assert all(bool((each == command[name]).all()) for name, each in panel.items())
    choose(train, "denoiser")
    assert not train.degraded_files.visible
    assert train.request().files == [tmp_path / "clean"]


class Twice:
    """A restorer that enlarges images, which it repeats."""

    name = "twice"
    scale = 2

    def __call__(self, image, *, progress=None):
        return np.kron(np.asarray(image, np.float32), np.ones((2, 2), np.float32))


def test_a_layer_enlarged_by_dp_ir_covers_the_same_area(viewer, train, qtbot, wait_for):
    degraded = viewer.layers["noisy"]
    train.clean.value = viewer.add_image(Twice()(degraded.data).astype(np.uint8), name="large")
    choose(train, "dp-ir", 6)
    train.offer("twice", Twice())
    train.train()
    wait_for(train)
    added = viewer.layers[-1]
    assert added.data.shape == (48, 48)
    np.testing.assert_allclose(added.scale, np.array(degraded.scale) / 2)
    # Corners of pixels, not centres, coincide.
    for layer_corner, added_corner in ((-0.5, -0.5), (23.5, 47.5)):
        world = degraded.data_to_world([layer_corner] * 2)
        np.testing.assert_allclose(added.data_to_world([added_corner] * 2), world, atol=1e-6)
    train.clean.value = viewer.layers["ground truth"]
    train.train()
    wait_for(train)
    assert "must be equal" in train.message.value


def test_a_clean_layer_is_chosen_by_name_unless_the_user_has_chosen(viewer):
    _, train = viewer.window.add_plugin_dock_widget("napari-ensir", "Train a restorer")
    truth = viewer.add_image(np.eye(8), name="Ground truth")
    assert train.clean.value is truth
    train.clean.value = None
    viewer.add_image(np.eye(8), name="gt")
    assert train.clean.value is None


def test_closing_the_panel_cancels_the_training(viewer, train, qtbot):
    choose(train, "regression", 100_000)
    train.train()
    qtbot.waitUntil(lambda: train.training.step >= 2, timeout=60_000)
    task = train.task
    viewer.window.remove_dock_widget(train.native)
    assert task.is_cancelling
    qtbot.waitUntil(lambda: QThreadPool.globalInstance().activeThreadCount() == 0, timeout=60_000)
    train.native.deleteLater()  # a widget without a dock is not deleted with the viewer
    qtbot.wait(100)


@pytest.mark.parametrize("which", ["noisy", "ground truth"])
def test_layers_may_be_removed_during_the_training(viewer, train, pause, wait_for, qtbot, which):
    # napari crashes on a software-rendered canvas if the lower of two images is removed.
    viewer.add_image(np.zeros((24, 24), np.uint8), name="another")
    train._progress_timer.setInterval(100)
    choose(train, "regression", 12)
    go_on = pause(10)
    train.train()
    qtbot.waitUntil(lambda: "training preview" in viewer.layers, timeout=60_000)
    viewer.layers.remove(which)
    assert train.is_running
    go_on.set()
    wait_for(train)
    assert train.training.step == 12
    candidate = next(layer for layer in viewer.layers if layer.name.endswith("· Regression"))
    np.testing.assert_allclose(candidate.scale, (0.5, 0.25))
    assert ("meanwhile" in train.message.value) == (which == "noisy")


def test_a_full_disk_does_not_damage_the_old_checkpoint(train, wait_for, monkeypatch, tmp_path):
    choose(train, "regression", 3)
    train.train()
    wait_for(train)
    path = tmp_path / "mine.safetensors"
    train.save(str(path))
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    with pytest.raises(EnsembleError, match="exists already; choose another name"):
        train.save(str(path))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EnsembleError, match="No space left on device"):
        train.save(str(path), overwrite=True)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before
    assert train.training.step == 3
