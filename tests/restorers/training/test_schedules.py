from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from napari_ensir.restorers.training.dp_ir import Diffusion
from napari_ensir.restorers.training.ir_cm import MeanRevertingSDE


def origin(sde, x, mu, t, noise):
    """The paper's estimate of the origin, mu (1 - e^TH) + e^TH (x_t - sqrt(v_t) noise)."""
    growth = 1 / sde.decay(t).to(x)
    return mu * (1 - growth) + growth * (x - sde.variance(t).to(x).sqrt() * noise)


def noise_for(sde, x, mu, t, residual):
    """Noise for which the origin is mu + residual: ((x_t - mu) - e^-TH r) / sqrt(v_t), t > 0."""
    return (x - mu - sde.decay(t).to(x) * residual) / sde.variance(t).to(x).sqrt()


def test_the_sde_starts_and_ends_where_it_should():
    sde = MeanRevertingSDE()
    assert sde.integral[0] == 0
    assert sde.integral[100] == pytest.approx(-math.log(0.005))
    assert len(sde.rate) == 101
    assert (np.diff(sde.rate) > 0).all()
    ends = torch.tensor([0, 100])
    torch.testing.assert_close(
        sde.variance(ends).flatten(), torch.tensor([0, (10 / 255) ** 2 * (1 - 0.005**2)], dtype=torch.float64)
    )


def test_marginals_against_a_simulation_of_the_equation():
    sde = MeanRevertingSDE(steps=20)
    rng = np.random.default_rng(0)
    x0, mu, substeps = 0.9, 0.2, 40
    paths = np.full(40_000, x0)
    for t in range(1, 21):
        h = sde.dt / substeps
        theta = sde.rate[t]
        sigma = math.sqrt(2 * sde.noise**2 * theta)
        for _ in range(substeps):  # Euler and Maruyama
            step = sigma * math.sqrt(h) * rng.standard_normal(len(paths))
            paths += theta * (mu - paths) * h + step
        if t in (5, 12, 20):
            now = torch.tensor([t])
            mean = sde.mean(torch.full((1, 1, 1, 1), x0), torch.full((1, 1, 1, 1), mu), now).item()
            assert paths.mean() == pytest.approx(mean, abs=2e-3)
            assert paths.var() == pytest.approx(sde.variance(now).item(), rel=0.04)


def test_the_origin_is_found_exactly_given_the_true_noise():
    sde = MeanRevertingSDE()
    generator = torch.Generator().manual_seed(0)
    x0, mu = torch.rand(2, 100, 1, 4, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    t = torch.arange(1, 101)
    x = sde.sample(x0, mu, t, noise)
    torch.testing.assert_close(origin(sde, x, mu, t, noise), x0, atol=1e-12, rtol=0)
    # The head that trains: the true residual stands for the true noise, and leads to the same origin.
    torch.testing.assert_close(noise_for(sde, x, mu, t, x0 - mu), noise, atol=1e-9, rtol=0)
    residual = torch.rand(x0.shape, generator=generator, dtype=torch.float64)
    found = origin(sde, x, mu, t, noise_for(sde, x, mu, t, residual))
    torch.testing.assert_close(found, mu + residual, atol=1e-12, rtol=0)


@pytest.mark.parametrize("tau", [0, 1, 5, 100, 999, 1000])
def test_the_jump_equals_single_posterior_steps(tau):
    diffusion = Diffusion()
    of_x0, of_xt, variance = 0.0, 1.0, 0.0
    for t in range(diffusion.steps, tau, -1):
        step_x0, step_xt, step_variance = diffusion.posterior(t)
        of_x0 = step_x0 + step_xt * of_x0
        of_xt *= step_xt
        variance = step_xt**2 * variance + step_variance
    assert diffusion.jump(tau) == pytest.approx((of_x0, of_xt, variance), abs=1e-6, rel=1e-6)


def test_the_posterior_agrees_with_the_forward_process():
    # x_{t-1} drawn from x0 and x_t has the mean that the forward process gives it.
    diffusion = Diffusion()
    for t in (2, 50, 1000):
        of_x0, of_xt, _ = diffusion.posterior(t)
        assert of_x0 + of_xt * math.sqrt(diffusion.kept[t]) == pytest.approx(math.sqrt(diffusion.kept[t - 1]))
    assert diffusion.posterior(1) == pytest.approx((1.0, 0.0, 0.0))


def test_ddim_steps_keep_to_the_path_of_the_true_image():
    diffusion = Diffusion()
    x0, noise = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    x = math.sqrt(diffusion.kept[30]) * x0 + math.sqrt(1 - diffusion.kept[30]) * noise
    for t in range(30, 10, -1):
        x = diffusion.ddim_step(x, x0, t)
    torch.testing.assert_close(
        x, math.sqrt(diffusion.kept[10]) * x0 + math.sqrt(1 - diffusion.kept[10]) * noise
    )
    torch.testing.assert_close(diffusion.ddim_step(x, x0, 1).shape, x0.shape)
