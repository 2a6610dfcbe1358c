"""IR-CM: restoration in one or a few steps with a consistency model.

"Image restoration with consistency models" (IR-CM, OpenReview 2bon4HLFkN), with the mean-reverting SDE of
IR-SDE (Luo et al. 2023). The consistency function maps any point of a path to its origin, the clean image:

    x0hat = mu (1 - e^TH) + e^TH (x_t - sqrt(v_t) eps)              origin estimate
    f(x_t, mu, t) = c_skip x_t + c_out x0hat,  c_out = t / T,  c_skip = 1 - t / T

so that f(x, mu, 0) = x. There are three deviations from the paper:

- The head. A network that returns eps is multiplied by e^TH, 200 at t = T, and does not train from scratch
  (6 to 9 dB on rain). Here it returns a residual r, with eps := ((x_t - mu) - e^-TH r) / sqrt(v_t), so that
  x0hat = mu + r, which is algebraically equal.
- The skip. c_skip x_t passes a share of the drawn noise on to the result, half of it at t = T / 2, which a
  small network does not cancel. By default the mean m_t of x_t replaces it: c_skip m_t + c_out x0hat. The
  paper's form is available in training (``noisy_skip``) and in sampling (``skip``).
- The start of stage 2. A part of its paths (``sampled_share``) starts at the model's own first step, as in
  sampling, instead of the clean image.

The paper claims better perception and speed, not the highest PSNR. A second step is not always better than
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.networks.learned import Draw, LearnedRestorer, Tiled
from napari_ensir.restorers.training.models import NetworkShape, UNetModel
from napari_ensir.settings import setting, steps_setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

_SHIFT = 0.008  # s of the cosine schedule, which keeps its first rate from being 0


@dataclass(frozen=True)
class MeanRevertingSDE:
    """Mean-reverting SDE: schedule and marginals at the times t = 0, 1, ..., `steps`.

    Parameters
    ----------
    steps
        T, the last time.
    noise
        lam, the standard deviation of the noise for t -> infinity, in intensity units.
    rest
        Share of x(0) - mu that is left at t = T: exp(-TH_T).

    Examples
    --------
    >>> sde = MeanRevertingSDE()
    >>> float(round(np.exp(-sde.integral[100]), 6))
    0.005
    """

    steps: int = 100
    noise: float = 10 / 255
    rest: float = 0.005

    @cached_property
    def rate(self) -> NDArray[np.float64]:
        """th_t = 1 - f(t) / f(0), f(t) = cos^2(((t / T' + s) / (1 + s)) pi / 2), shape (T + 1,).

        f is evaluated on a grid of T' = T + 2 intervals; the first and last points are dropped.
        """
        grid = np.arange(self.steps + 3) / (self.steps + 2)
        f = np.cos((grid + _SHIFT) / (1 + _SHIFT) * np.pi / 2) ** 2
        rate: NDArray[np.float64] = (1 - f / f[0])[1:-1]
        return rate

    @property
    def dt(self) -> float:
        """Length of a time step, chosen so that TH_T = -ln(`rest`)."""
        return float(-np.log(self.rest) / self.rate[1:].sum())

    @cached_property
    def integral(self) -> NDArray[np.float64]:
        """TH_t, integral of th from 0 to t, shape (T + 1,); TH_0 = 0."""
        integral: NDArray[np.float64] = (np.cumsum(self.rate) - self.rate[0]) * self.dt
        return integral

    def decay(self, t: Tensor) -> Tensor:
        """exp(-TH_t), shaped (batch, 1, 1, 1) for times of shape (batch,)."""
        return self._at(np.exp(-self.integral), t)

    def variance(self, t: Tensor) -> Tensor:
        """v_t = lam^2 (1 - exp(-2 TH_t)), shaped (batch, 1, 1, 1)."""
        return self._at(self.noise**2 * -np.expm1(-2 * self.integral), t)

    def mean(self, x0: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        """m_t = mu + (x0 - mu) exp(-TH_t)."""
        return mu + (x0 - mu) * self.decay(t).to(x0)

    def sample(self, x0: Tensor, mu: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = m_t + sqrt(v_t) noise, of the marginal N(m_t, v_t)."""
        return self.mean(x0, mu, t) + self.variance(t).to(x0).sqrt() * noise

    @staticmethod
    def _at(values: NDArray[np.float64], t: Tensor) -> Tensor:
        # MPS has no float64, so the lookup is done on the CPU and the caller casts.
        return torch.from_numpy(values)[t.cpu()].reshape(-1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class ConsistencySettings(NetworkShape):
    """Settings of a :class:`ConsistencyModel`: network, schedule and loss.

    Parameters
    ----------
    channels, width, depth
        Number of colour channels, of features at the finest level, of levels. (The paper's network has width
        64, depth 4 and 137 million parameters.)
    times
        N = T, the number of time steps.
    noise
        lam, for intensities in 0..1.
    linear_share
        Share of the steps in stage 1, whose paths start at the degraded image. Paths of stage 2 start at the
        clean image.
    origin_weight, perceptual_weight
        Weights of the origin-guided term, and of the perceptual distance within it.
    sampled_share
        Share of stage 2 whose paths start at the model's one-step restoration; 0 in the paper.
    noisy_skip
        Whether the skip passes the noise of x_t in training, as in the paper.
    """

    ADDED: ClassVar[dict[str, float]] = {"sampled_share": 0.0, "noisy_skip": True}
    """Values for checkpoints that lack these settings."""

    times: int = 100
    noise: float = 10 / 255
    linear_share: float = 0.5
    origin_weight: float = 0.8
    perceptual_weight: float = 0.125
    sampled_share: float = 0.5
    noisy_skip: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.noise < 1:
            raise EnsembleError(f"IR-CM has noise = {self.noise}; it must lie between 0 and 1.")


class ConsistencyModel(UNetModel):
    """Consistency function of IR-CM with its loss and sampler.

    Parameters
    ----------
    settings
        See :class:`ConsistencySettings`.
    features
        Function from images (batch, channels, rows, columns), data range 0..1, to the features that the
        perceptual term compares, such as
        :func:`napari_ensir.restorers.training.perceptual.vgg_features`; None omits the term.

    Examples
    --------
    >>> model = ConsistencyModel(ConsistencySettings(width=8))
    >>> x, mu = torch.rand(2, 1, 1, 8, 8)
    >>> bool((model(x, mu, torch.tensor([0])) == x).all())
    True
    """

    kind: ClassVar[str] = "ir-cm"
    settings_type = ConsistencySettings
    settings: ConsistencySettings
    inputs = 2  # the point of the path, and the degraded image

    def __init__(
        self, settings: ConsistencySettings, features: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__(settings)
        self.sde = MeanRevertingSDE(steps=settings.times, noise=settings.noise)
        self.compare_features(features)

    def compare_features(self, features: Callable[[Tensor], Tensor] | None) -> None:
        """Set the function of the perceptual term; None omits the term."""
        self._features = (features,)  # in a tuple, so that torch does not register it as a submodule

    def origin(self, x: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        """Estimate of the origin x0hat = mu + r."""
        residual: Tensor = self.network(2 * torch.cat([x, mu], dim=1) - 1, t.to(x.device))
        return mu + residual

    def forward(self, x: Tensor, mu: Tensor, t: Tensor, skip: Tensor | None = None) -> Tensor:
        """f(x_t, mu, t) for t of shape (batch,) or (1,); `skip`, if given, replaces x_t in the skip."""
        share: Tensor = (t.to(x) / self.settings.times).reshape(-1, 1, 1, 1)
        return (1 - share) * (x if skip is None else skip) + share * self.origin(x, mu, t.expand(len(x)))

    def _at(self, start: Tensor, mu: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Evaluate f at the times t of paths from `start`."""
        skip = None if self.settings.noisy_skip else self.sde.mean(start, mu, t)
        estimate: Tensor = self(self.sde.sample(start, mu, t, noise), mu, t, skip)
        return estimate

    def _starts(self, degraded: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Starts of the paths of stage 2: clean images, or the model's one-step restorations."""
        if not self.settings.sampled_share:
            return clean
        own = torch.rand(len(clean), generator=generator) < self.settings.sampled_share
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        start = clean.clone()
        if bool(own.any()):
            own = own.to(clean.device)
            last = torch.tensor([self.settings.times])
            with torch.no_grad():
                mu = degraded[own]
                start[own] = self(self.sde.sample(mu, mu, last, noise[own]), mu, last)
        return start

    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """d(f(x_{n+1}), stopgrad f(x_n)) + 0.8 (|f - clean| + 0.125 |VGG(f) - VGG(clean)|^2).

        f without argument is f(x_{n+1}), d the mean squared difference, n uniform in 1..N-1 for each image;
        both points have the same noise. (If d were the absolute difference, its weight of 1 would exceed the
        0.8 of the clean image at every pixel, and f would drift to the degraded image in stage 1.)
        """
        settings = self.settings
        n = torch.randint(1, settings.times, (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        start = degraded if done < settings.linear_share else self._starts(degraded, clean, generator)
        with torch.no_grad():  # the paper's stop-gradient
            target = self._at(start, degraded, n, noise)
        estimate = self._at(start, degraded, n + 1, noise)
        origin: Tensor = functional.l1_loss(estimate, clean)
        (features,) = self._features
        if features is not None:
            distance = functional.mse_loss(features(estimate), features(clean))
            origin = origin + settings.perceptual_weight * distance
        loss: Tensor = functional.mse_loss(estimate, target) + settings.origin_weight * origin
        return loss

    def times_of(self, steps: int, restart: float = 0.5) -> list[int]:
        """Times at which f is evaluated: N, N r, N r^2, ... with r = `restart`, rounded down.

        Examples
        --------
        >>> ConsistencyModel(ConsistencySettings(width=8)).times_of(3)
        [100, 50, 25]
        """
        times = [int(self.settings.times * restart**index) for index in range(max(steps, 0))]
        if not times or times[-1] < 1:
            most = next(count for count in range(10**4) if self.settings.times * restart**count < 1)
            raise EnsembleError(
                f"IR-CM cannot make {steps} steps; with {self.settings.times} times and restart "
                f"{restart:g} it makes 1 to {most}."
            )
        return times


@dataclass(frozen=True, kw_only=True, eq=False)
class IRCM(LearnedRestorer):
    """Restorer that applies a :class:`ConsistencyModel`.

    :class:`LearnedRestorer` has the other parameters.

    Parameters
    ----------
    steps
        Number of evaluations of the network.
    restart
        Time of each further step as a share of the previous time. The paper has 0.5; values from 0.1 to 0.5
        hardly differ (``benchmarks/restorers.md``).
    skip : "mean" or "paper"
        The image in the skip: the mean of the point, or, as in the paper, the point with its noise.
    """

    title: ClassVar[str] = "IR-CM"
    model_type = ConsistencyModel
    model: ConsistencyModel
    steps: int = steps_setting(1)
    restart: float = setting(
        0.25,
        "Time of each further step as a share of the previous time.",
        title="Restart",
        limits=(0.05, 0.95),
        step=0.05,
    )
    skip: str = setting(
        "mean",
        "Image in the skip: the mean of the point or, as in the paper, the point with its noise.",
        title="Skip",
        choices=("mean", "paper"),
    )

    @property
    def calls(self) -> int:
        """See :class:`NetworkRestorer`."""
        return self.steps

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`."""
        model, x0 = self.model, plane  # the first point is drawn from N(plane, v_N)
        for n in model.times_of(self.steps, self.restart):
            t = torch.tensor([n])
            x = model.sde.sample(x0[None], plane[None], t, draw()[None])[0]
            skip = x if self.skip == "paper" else model.sde.mean(x0[None], plane[None], t)[0]
            x0 = tiled(lambda x, mu, skip, t=t: model(x, mu, t, skip), x, plane, skip)
        return x0
