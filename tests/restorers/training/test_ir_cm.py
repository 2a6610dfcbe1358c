from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_ensir.errors import Cancelled, EnsembleError
from napari_ensir.restorers import begin_training
from napari_ensir.restorers.networks.tiling import Tiles
from napari_ensir.restorers.training.ir_cm import IRCM, ConsistencyModel, ConsistencySettings
from napari_ensir.restorers.training.perceptual import vgg_features
from tests.restorers.training.test_schedules import noise_for, origin

SETTINGS = ConsistencySettings(channels=1, width=8, depth=2, linear_share=0.5)
PAPER = replace(SETTINGS, sampled_share=0.0, noisy_skip=True)


def lively(settings: ConsistencySettings = SETTINGS, **more: object) -> ConsistencyModel:
    """A model whose weights are all random: untrained, its network returns 0."""
    torch.manual_seed(0)
    model = ConsistencyModel(settings, **more)
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.1)
    return model


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_f_at_time_zero_is_its_argument_and_at_the_end_the_origin():
    model = lively()
    x, mu = torch.rand(2, 3, 1, 8, 8)
    assert torch.equal(model(x, mu, torch.tensor([0])), x)
    end = torch.full((3,), 100)
    torch.testing.assert_close(model(x, mu, end), model.origin(x, mu, end))


def test_f_is_the_formula_of_the_paper_with_the_noise_of_the_head():
    model = lively().double()
    x, mu = torch.rand(2, 3, 1, 8, 8, dtype=torch.float64)
    t = torch.tensor([1, 50, 100])
    residual = model.network(2 * torch.cat([x, mu], dim=1) - 1, t)
    noise = noise_for(model.sde, x, mu, t, residual)
    share = (t / 100).reshape(-1, 1, 1, 1)
    expected = (1 - share) * x + share * origin(model.sde, x, mu, t, noise)
    torch.testing.assert_close(model(x, mu, t), expected)


@pytest.mark.parametrize("done", [0.0, 0.9])
def test_the_gradient_stops_where_the_paper_stops_it(done):
    model = lively(PAPER)
    degraded, clean = torch.rand(2, 4, 1, 8, 8, generator=generator())
    forwards = []
    model.network.register_forward_hook(lambda module, inputs, output: forwards.append(output))
    model.loss(degraded, clean, generator(), done).backward()
    assert [each.requires_grad for each in forwards] == [False, True]

    # The same gradient as with f(x_n) a constant, and another one than with it left in the graph.
    drawn = generator()
    n = torch.randint(1, 100, (4,), generator=drawn)
    noise = torch.randn(clean.shape, generator=drawn)
    start = degraded if done < 0.5 else clean
    points = [model.sde.sample(start, degraded, time, noise) for time in (n, n + 1)]

    def gradient(stopped: bool) -> torch.Tensor:
        target, estimate = model(points[0], degraded, n), model(points[1], degraded, n + 1)
        loss = ((estimate - (target.detach() if stopped else target)) ** 2).mean()
        loss = loss + 0.8 * (estimate - clean).abs().mean()
        return torch.autograd.grad(loss, model.network.stem.weight)[0]

    torch.testing.assert_close(model.network.stem.weight.grad, gradient(stopped=True))
    assert not torch.allclose(model.network.stem.weight.grad, gradient(stopped=False))


def watched(model):
    """Where the paths of a model start, in order."""
    starts = []
    sample, mean = model.sde.sample, model.sde.mean

    class Watched:
        def sample(self, x0, *more):
            starts.append(x0)
            return sample(x0, *more)

        def mean(self, *more):
            return mean(*more)

    model.sde = Watched()
    return starts


def test_part_of_stage_2_starts_where_sampling_does():
    degraded, clean = torch.rand(2, 3, 1, 8, 8)
    model = lively(replace(SETTINGS, sampled_share=1.0))
    starts = watched(model)
    model.loss(degraded, clean, generator(), 0.9)
    assert torch.equal(starts[0], degraded)  # the first step, from noise around the degraded image
    assert starts[1] is starts[2]
    assert not starts[1].requires_grad
    assert not torch.allclose(starts[1], clean, atol=0.01)
    assert not torch.allclose(starts[1], degraded, atol=0.01)
    model.loss(degraded, clean, generator(), 0.1)
    assert starts[3] is starts[4] is degraded  # stage 1


@pytest.mark.parametrize("skip", ["mean", "paper"])
def test_what_the_skip_passes_on(skip):
    # A network that returns 0 estimates the degraded image, so that the rest is what the skip passes.
    restorer = IRCM(model=ConsistencyModel(SETTINGS), steps=2, restart=0.5, skip=skip, device="cpu")
    image = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    noise = (replace(restorer, data_range=(0.0, 1.0))(image) - image).std()
    expected = 0.5 * float(restorer.model.sde.variance(torch.tensor([50])).sqrt())
    assert noise == pytest.approx(expected if skip == "paper" else 0, abs=0.05 * expected)


def test_restarts():
    model = lively()
    assert model.times_of(3, 0.25) == [100, 25, 6]
    with pytest.raises(EnsembleError, match=r"restart 0\.05 it makes 1 to 2"):
        model.times_of(3, 0.05)


def test_checkpoints_of_before_these_settings_load(tmp_path):
    from napari_ensir.restorers import load_restorer
    from napari_ensir.restorers.networks.checkpoint import write_checkpoint

    old = IRCM(model=lively(), trained_steps=3, device="cpu")
    header = old.header()
    for name in ("sampled_share", "noisy_skip"):
        del header["settings"][name]
    write_checkpoint(tmp_path / "a.safetensors", old.tensors(), header)
    assert load_restorer(tmp_path / "a.safetensors", device="cpu").model.settings == PAPER


def test_the_stages_start_their_paths_where_they_should():
    model = lively(PAPER)
    starts = []
    sample = model.sde.sample
    model.sde = type(
        "Watched", (), {"sample": lambda self, x0, *more: starts.append(x0) or sample(x0, *more)}
    )()
    degraded, clean = torch.rand(2, 2, 1, 8, 8)
    model.loss(degraded, clean, generator(), 0.49)
    model.loss(degraded, clean, generator(), 0.5)
    assert [each is degraded for each in starts] == [True, True, False, False]
    assert [each is clean for each in starts] == [False, False, True, True]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_evaluations_are_counted(steps):
    model = lively()
    calls = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    told = []
    IRCM(model=model, steps=steps, device="cpu")(
        np.random.default_rng(0).random((16, 20)), progress=lambda *what: told.append(what[:2])
    )
    assert len(calls) == steps
    assert told == [(each, steps) for each in range(steps + 1)]


@pytest.mark.parametrize("steps", [0, 8])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(EnsembleError, match="1 to 7"):
        IRCM(model=lively(), steps=steps, restart=0.5, device="cpu")(np.zeros((8, 8)))


def test_the_same_seed_gives_the_same_image_whatever_the_batch():
    image = np.random.default_rng(0).random((3, 50, 60))
    restorer = IRCM(model=lively(), steps=2, device="cpu", tiles=Tiles(size=32, overlap=8, batch=1))
    once = restorer(image)
    np.testing.assert_array_equal(restorer(image), once)
    batched = replace(restorer, tiles=Tiles(size=32, overlap=8, batch=5))
    np.testing.assert_allclose(batched(image), once, atol=1e-5)
    assert not np.allclose(replace(restorer, seed=1)(image), once, atol=1e-3)
    # Planes have noise of their own.
    same = restorer(np.stack([image[0], image[0]]))
    assert not np.allclose(same[0], same[1], atol=1e-4)


def test_restoring_can_be_cancelled_and_leaves_the_random_state_alone():
    def stop(done: int, total: int, text: str) -> None:
        if done == 1:
            raise Cancelled

    state = torch.random.get_rng_state()
    restorer = IRCM(model=lively(), device="cpu", tiles=Tiles(size=16, overlap=4, batch=1))
    state = torch.random.get_rng_state()
    with pytest.raises(Cancelled):
        restorer(np.random.default_rng(0).random((40, 40)), progress=stop)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_perceptual_term_is_off_without_weights_and_on_with_them(tmp_path):
    degraded, clean = torch.rand(2, 1, 1, 16, 16, generator=generator())
    model = lively()
    plain = model.loss(degraded, clean, generator(), 0.0)
    with_features = lively(features=lambda image: 2 * image)
    assert with_features.loss(degraded, clean, generator(), 0.0) > plain
    assert with_features.state_dict().keys() == model.state_dict().keys()

    widths = {
        0: (3, 64),
        2: (64, 64),
        5: (64, 128),
        7: (128, 128),
        10: (128, 256),
        12: (256, 256),
        14: (256, 256),
    }
    weights = {}
    for index, (before, after) in widths.items():
        weights[f"features.{index}.weight"] = 0.05 * torch.randn(after, before, 3, 3)
        weights[f"features.{index}.bias"] = torch.zeros(after)
    save_file(weights, tmp_path / "vgg.safetensors")
    features = vgg_features(tmp_path / "vgg.safetensors")
    assert features(torch.rand(2, 1, 16, 16)).shape == (2, 256, 4, 4)
    assert lively(features=features).state_dict().keys() == model.state_dict().keys()
    with pytest.raises(EnsembleError, match="grey or RGB"):
        features(torch.rand(1, 2, 16, 16))
    clean = np.random.default_rng(0).random((16, 16))
    common = {"steps": 1, "width": 8, "depth": 1, "batch": 1, "patch": 16, "device": "cpu"}
    with_term, without = (
        begin_training("ir-cm", [(clean, clean**2)], vgg=vgg, perceptual_weight=1000, **common)
        for vgg in (str(tmp_path / "vgg.safetensors"), None)
    )
    assert next(with_term.run()).loss > next(without.run()).loss
    del weights["features.14.bias"]
    save_file(weights, tmp_path / "vgg.safetensors")
    with pytest.raises(EnsembleError, match="not hold the weights of a VGG-16"):
        vgg_features(tmp_path / "vgg.safetensors")
    with pytest.raises(EnsembleError, match="cannot be read"):
        vgg_features(tmp_path / "none.pth")
