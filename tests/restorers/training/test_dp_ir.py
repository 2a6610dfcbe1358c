from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_ensir.errors import Cancelled, EnsembleError
from napari_ensir.restorers import CLASSICAL, SelfEnsemble, begin_training, load_restorer
from napari_ensir.restorers.base import as_restorer
from napari_ensir.restorers.networks.external import ExternalNetwork
from napari_ensir.restorers.networks.tiling import Tiles
from napari_ensir.restorers.training.dp_ir import DPIR, FusionModel, FusionSettings, denoising_function
from napari_ensir.restorers.training.models import (
    DenoiserModel,
    FusionNetwork,
    NetworkShape,
    Regression,
    RegressionModel,
)
from napari_ensir.restorers.training.trainer import Trainer, TrainingPairs


def lively(**settings: object) -> FusionModel:
    torch.manual_seed(0)
    model = FusionModel(FusionSettings(width=8, **settings))
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.05)
    return model


def test_the_fusion_network_has_the_papers_size():
    count = sum(each.numel() for each in FusionNetwork(3, 64).parameters())
    assert count == pytest.approx(0.73e6, rel=0.01)


def test_an_untrained_fusion_returns_the_restorers_image():
    model = FusionModel(FusionSettings(channels=3, width=16))
    restored, x = torch.rand(2, 2, 3, 8, 8)
    assert torch.equal(model(restored, x, torch.tensor([1, 90])), restored)
    image = np.random.default_rng(0).random((12, 16, 3))
    ir = CLASSICAL["median"]()
    same = DPIR(model=model, ir=ir, tau=5, channel_axis=-1, device="cpu")(image)
    np.testing.assert_allclose(same, replace(ir, channel_axis=-1)(image), atol=1e-5)


class Counting:
    """A restorer that counts its calls and is no dataclass."""

    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image, *, progress=None):
        self.calls += 1
        return np.asarray(image, np.float32)


@pytest.mark.parametrize(
    ("tau", "given"), [(0, None), (1, None), (5, None), (12, None), (12, 3), (5, 9), (0, 2)]
)
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_evaluations_are_counted(tau, given, sampler):
    expected = tau if given is None else min(tau, given)
    model, ir = lively(), Counting()
    fusions, denoisings = [], []
    model.fusion.register_forward_hook(lambda *_: fusions.append(1))
    model.denoiser.register_forward_hook(lambda *_: denoisings.append(1))
    restorer = DPIR(model=model, ir=ir, tau=tau, sampler=sampler, evaluations=given, device="cpu")
    restored = restorer(np.eye(16))
    assert (ir.calls, len(fusions), len(denoisings)) == (1, expected, expected)
    if tau == 0:
        np.testing.assert_allclose(restored, np.eye(16), atol=1e-6)


def test_frozen_networks_are_unchanged_bit_by_bit_after_training(images, pairs, brief):
    torch.manual_seed(0)
    regression = RegressionModel(NetworkShape(channels=3, width=8, depth=2))
    denoiser = DenoiserModel(NetworkShape(channels=3, width=8, depth=2))
    for network in (regression, denoiser):
        torch.nn.init.normal_(network.network.head.weight, std=0.05)
    before = [{n: each.clone() for n, each in net.state_dict().items()} for net in (regression, denoiser)]
    ir = Regression(model=regression, channel_axis=-1, data_range=pairs.data_range, device="cpu")
    restored = [(ir(degraded), clean) for degraded, clean in images]
    data = TrainingPairs.from_arrays(restored, channel_axis=-1, data_range=pairs.data_range)
    model = FusionModel.for_denoiser(denoiser, FusionSettings(channels=3, width=8, latest=20))
    fusion = {name: each.clone() for name, each in model.fusion.state_dict().items()}
    trainer = Trainer(DPIR(model=model, ir=ir), data, replace(brief, steps=5), device="cpu")
    assert len(list(trainer.run())) == 5
    for network, states in zip((regression, denoiser), before, strict=True):
        assert all(torch.equal(each, states[name]) for name, each in network.state_dict().items())
    assert not all(torch.equal(each, fusion[name]) for name, each in model.fusion.state_dict().items())
    assert all(each.grad is None and not each.requires_grad for each in denoiser.parameters())


@pytest.mark.parametrize(("share", "around_clean"), [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)])
def test_training_meets_the_points_of_sampling(share, around_clean):
    """At early times x_t lies at the image that it was drawn around: the clean one or the restorer's."""
    model = FusionModel(FusionSettings(width=8, latest=3, sampled_share=share))
    seen: list[torch.Tensor] = []
    model.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    restored, clean = torch.full((200, 1, 8, 8), 0.25), torch.full((200, 1, 8, 8), 0.75)
    model.loss(restored, clean, torch.Generator().manual_seed(0), 0.0)
    at_clean = (seen[0].mean((1, 2, 3)) > 0).float()  # 0.75 is 0.5 on the scale of -1..1, 0.25 is -0.5
    assert at_clean.mean() == pytest.approx(around_clean, abs=0.1)
    assert seen[0].std((1, 2, 3)).max() < 0.05


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(EnsembleError, match="sampled_share"):
        FusionSettings(sampled_share=share)


def test_the_same_seed_gives_the_same_image_whatever_the_batch():
    image = np.random.default_rng(0).random((40, 50))
    small = Tiles(size=32, overlap=8, batch=1)
    restorer = DPIR(model=lively(), ir=CLASSICAL["gaussian"](), tau=3, device="cpu", tiles=small)
    once = restorer(image)
    np.testing.assert_array_equal(restorer(image), once)
    np.testing.assert_allclose(replace(restorer, tiles=replace(small, batch=4))(image), once, atol=1e-5)
    assert not np.allclose(replace(restorer, seed=1)(image), once, atol=1e-4)
    assert not np.allclose(replace(restorer, sampler="ddim")(image), once, atol=1e-4)


def test_intensities_keep_their_units_through_both():
    image = np.random.default_rng(0).integers(0, 4000, (3, 24, 24)).astype(np.uint16)
    restorer = DPIR(model=FusionModel(FusionSettings(width=8)), ir=CLASSICAL["median"](), device="cpu")
    np.testing.assert_allclose(restorer(image), CLASSICAL["median"]()(image), atol=0.5)


@pytest.mark.parametrize("settings", [{"tau": -1}, {"tau": 1001}, {"sampler": "euler"}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(EnsembleError, match="0 to 1000"):
        DPIR(model=lively(), ir=CLASSICAL["median"](), device="cpu", **settings)(np.zeros((8, 8)))


def test_its_restorer_computes_where_it_does():
    ir = Regression(model=RegressionModel(NetworkShape(width=8, depth=2)), device="no such device")
    for inner in (ir, SelfEnsemble(restorer=ir)):
        DPIR(model=lively(), ir=inner, tau=1, device="cpu")(np.eye(12))
    with pytest.raises(EnsembleError, match="no such device"):
        ir(np.eye(12))


def test_cancelling_reaches_the_diffusion():
    def stop(done: int, total: int, text: str) -> None:
        if text.startswith("DP-IR") and done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        DPIR(model=lively(), ir=CLASSICAL["median"](), device="cpu")(np.eye(12), progress=stop)


def test_a_checkpoint_holds_a_trained_restorer(tmp_path):
    torch.manual_seed(0)
    regression = RegressionModel(NetworkShape(width=8, depth=2))
    torch.nn.init.normal_(regression.network.head.weight, std=0.05)
    ir = Regression(model=regression, trained_steps=1, data_range=(0.0, 1.0), device="cpu")
    model = lively(denoiser_width=8, denoiser_depth=2)
    before = DPIR(model=model, ir=ir, trained_steps=1, data_range=(0.0, 1.0), device="cpu")
    before.save(tmp_path / "dp-ir.safetensors")
    after = load_restorer(tmp_path / "dp-ir.safetensors", device="cpu")
    assert after.name == before.name == "DP-IR, Regression"
    image = np.random.default_rng(0).random((16, 16))
    np.testing.assert_allclose(after(image), before(image), atol=1e-5)


def test_a_checkpoint_names_a_restorer_that_it_cannot_hold(tmp_path):
    ir = SelfEnsemble(restorer=CLASSICAL["median"]())
    before = DPIR(model=lively(), ir=ir, trained_steps=1, device="cpu")
    before.save(tmp_path / "dp-ir.safetensors")
    with pytest.raises(EnsembleError, match="'Median x8'"):
        load_restorer(tmp_path / "dp-ir.safetensors")
    after = load_restorer(tmp_path / "dp-ir.safetensors", ir=ir, device="cpu")
    np.testing.assert_allclose(after(np.eye(12)), before(np.eye(12)), atol=1e-5)


def test_a_denoiser_of_another_shape_is_refused():
    with pytest.raises(EnsembleError, match="the denoiser has"):
        FusionModel(FusionSettings(width=8), DenoiserModel(NetworkShape(width=8)))


def test_fewer_evaluations_make_longer_steps():
    image = np.random.default_rng(0).random((24, 24))
    restorer = DPIR(model=lively(), ir=CLASSICAL["gaussian"](), tau=6, device="cpu")
    for sampler in ("ancestral", "ddim"):
        whole = replace(restorer, sampler=sampler)(image)
        np.testing.assert_array_equal(replace(restorer, sampler=sampler, evaluations=6)(image), whole)
        assert not np.allclose(replace(restorer, sampler=sampler, evaluations=2)(image), whole, atol=1e-4)


class Twice:
    """A restorer that enlarges images, which it repeats."""

    name = "twice"
    scale = 2

    def __call__(self, image, *, progress=None):
        return np.kron(np.asarray(image, np.float32), np.ones((2, 2), np.float32))


def test_a_restorer_may_enlarge(tmp_path):
    image = np.random.default_rng(0).random((2, 12, 16)).astype(np.float32)
    model = FusionModel(FusionSettings(width=8))
    restorer = DPIR(model=model, ir=Twice(), data_range=(0.0, 1.0), device="cpu")
    assert restorer.scale == 2
    # An untrained fusion returns the restorer's image.
    np.testing.assert_allclose(restorer(image), Twice()(image), atol=1e-5)


def test_training_is_on_the_grid_of_the_restorer():
    clean = np.random.default_rng(0).random((32, 48))
    small = clean.reshape(16, 2, 24, 2).mean((1, 3))
    trainer = begin_training("dp-ir", [(small, clean)], ir=Twice(), steps=1, width=8, device="cpu")
    assert trainer.pairs.degraded[0].shape == trainer.pairs.clean[0].shape == (1, 32, 48)
    assert len(list(trainer.run())) == 1
    assert trainer.restorer()(small).shape == clean.shape
    with pytest.raises(EnsembleError, match="must be equal"):
        begin_training("dp-ir", [(small, clean)], ir=CLASSICAL["median"](), steps=1, width=8)


def test_a_restorer_may_combine_the_frames_of_a_burst():
    burst = np.random.default_rng(0).random((5, 16, 24))
    mean = as_restorer(lambda frames: frames.mean(axis=0))
    trainer = begin_training("dp-ir", [(burst, burst.mean(axis=0))], ir=mean, steps=1, width=8, device="cpu")
    list(trainer.run())
    assert trainer.restorer()(burst).shape == (16, 24)


class Argument(torch.nn.Module):
    """A network that takes the level of the noise as its second argument."""

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x - 0.1 * sigma.reshape(-1, 1, 1, 1)


class Channel(torch.nn.Module):
    """The same with the level as the last channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :-1] - 0.1 * x[:, -1:]


@pytest.mark.parametrize("network", [Argument(), Channel()])
def test_a_network_with_the_level_of_the_noise_is_a_denoiser(network):
    denoise = denoising_function(ExternalNetwork(network=network, label="mine"), 3)
    x, sigma = torch.rand(2, 3, 8, 8), torch.tensor([0.2, 0.4])
    # On the scale of 0 to 1, both x and sigma are halved.
    torch.testing.assert_close(denoise(x, sigma), x - 0.1 * sigma.reshape(-1, 1, 1, 1))


def test_a_restorer_with_a_noise_setting_is_a_denoiser():
    denoise = denoising_function(CLASSICAL["total-variation"](), 1)
    noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    weak, strong = denoise(0.2 * noise, torch.tensor([0.01, 0.2])).std((1, 2, 3))
    assert strong < 0.3 * weak


@pytest.mark.parametrize(
    "restorer", [CLASSICAL["median"](), ExternalNetwork(network=torch.nn.Identity(), label="same")]
)
def test_what_cannot_be_a_denoiser_is_refused_in_a_sentence(restorer):
    with pytest.raises(EnsembleError, match=f"{restorer.name} cannot be the denoiser of DP-IR"):
        DPIR(model=lively(), ir=CLASSICAL["median"](), denoiser=restorer, device="cpu")(np.eye(16))


def test_the_denoiser_can_be_replaced_after_training_and_is_kept(tmp_path):
    image = np.random.default_rng(0).random((16, 16))
    before = DPIR(
        model=lively(), ir=CLASSICAL["median"](), trained_steps=1, tau=400, evaluations=1, device="cpu"
    )
    settings = {"tau": before.tau, "evaluations": before.evaluations}
    swapped = replace(before, denoiser=CLASSICAL["wavelet"]())
    assert not np.allclose(swapped(image), before(image), atol=1e-4)
    swapped.save(tmp_path / "swapped.safetensors")
    after = replace(load_restorer(tmp_path / "swapped.safetensors", device="cpu"), **settings)
    np.testing.assert_allclose(after(image), swapped(image), atol=1e-5)
    other = load_restorer(
        tmp_path / "swapped.safetensors", denoiser=CLASSICAL["total-variation"](), device="cpu"
    )
    other = replace(other, **settings)
    assert not np.allclose(other(image), swapped(image), atol=1e-4)
    replace(before, denoiser=ExternalNetwork(network=Argument(), label="mine")).save(
        tmp_path / "a.safetensors"
    )
    with pytest.raises(EnsembleError, match="the denoiser 'mine', which it does not contain"):
        load_restorer(tmp_path / "a.safetensors")


def test_training_uses_a_denoiser_from_elsewhere(tmp_path):
    clean = np.random.default_rng(0).random((32, 32))
    parts = {"ir": CLASSICAL["gaussian"](), "denoiser": CLASSICAL["wavelet"]()}
    common = {"steps": 2, "width": 8, "batch": 2, "patch": 16, "device": "cpu"}
    trainers = [
        begin_training("dp-ir", [(clean, clean)], **common, **one) for one in (parts, {"ir": parts["ir"]})
    ]
    for trainer in trainers:
        list(trainer.run())
    assert trainers[0].losses != trainers[1].losses
    trainers[0].save(tmp_path / "mine.safetensors")
    assert load_restorer(tmp_path / "mine.safetensors").denoiser == parts["denoiser"]
