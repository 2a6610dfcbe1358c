"""IR-CM: restoration in one or a few steps with a consistency model.

"Image restoration with consistency models" (IR-CM, OpenReview 2bon4HLFkN), along the mean-reverting
equation of IR-SDE. The consistency function takes any point of a path to
the path's origin, the clean image:

    x0hat = mu (1 - e^TH) + e^TH (x_t - sqrt(v_t) eps)              origin estimate
    f(x_t, mu, t) = c_skip x_t + c_out x0hat,  c_out = t / T,  c_skip = 1 - t / T

so that f(x, mu, 0) = x. **The head.** A network that returns eps is multiplied by e^TH, 200 at
t = T, and does not train from scratch (6 to 9 dB on rain). The algebraically equal head does: the
network returns a residual r and eps := ((x_t - mu) - e^-TH r) / sqrt(v_t), whereby x0hat = mu + r.

**The skip.** The sampler draws the noise in x_t itself, and c_skip x_t passes a share of it on to the
result: half of it at t = T / 2, which a small network does not cancel. A deviation from the paper takes
it off, c_skip m_t + c_out x0hat with the mean m_t of x_t; both forms are there, in training
(``noisy_skip``) and in sampling (``skip``). Another: part of stage 2 starts its paths where sampling
does, at the model's own first step (``sampled_share``), and not at the clean image alone.

The paper claims perception and speed for this, not the highest PSNR; nor is a second step
always better than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.networks.learned import Draw, LearnedRestorer, Model, Tiled
from napari_ensir.restorers.training.models import UNet, check_network
from napari_ensir.settings import setting, steps_setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["IRCM", "ConsistencyModel", "ConsistencySettings", "MeanRevertingSDE"]


_SHIFT = 0.008  # s of the cosine schedule, which keeps its first rate from being 0


@dataclass(frozen=True)
class MeanRevertingSDE:
    """Schedule and marginals, at the times t = 0, 1, ..., `steps`.

    Parameters
    ----------
    steps
        T, the last time.
    noise
        lam, the standard deviation that the noise tends to, on the scale of intensities.
    rest
        How much of x(0) - mu is left at t = T: exp(-TH_T).

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

        f is evaluated on a grid of T' = T + 2 intervals, of which the ends are dropped.
        """
        grid = np.arange(self.steps + 3) / (self.steps + 2)
        f = np.cos((grid + _SHIFT) / (1 + _SHIFT) * np.pi / 2) ** 2
        rate: NDArray[np.float64] = (1 - f / f[0])[1:-1]
        return rate

    @property
    def dt(self) -> float:
        """The length of a time step, such that TH_T = -ln(`rest`)."""
        return float(-np.log(self.rest) / self.rate[1:].sum())

    @cached_property
    def integral(self) -> NDArray[np.float64]:
        """TH_t, the integral of th from 0 to t, shape (T + 1,); TH_0 = 0."""
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

    def origin(self, x: Tensor, mu: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The x(0) that leads to x_t with this noise: mu (1 - e^TH) + e^TH (x_t - sqrt(v_t) noise).

        The origin estimate of IR-CM. Its factor e^TH grows to 1 / `rest` = 200, by which an error in
        `noise` is multiplied: see :mod:`napari_ensir.restorers.training.ir_cm` for how that is avoided.
        """
        growth = 1 / self.decay(t).to(x)
        return mu * (1 - growth) + growth * (x - self.variance(t).to(x).sqrt() * noise)

    def noise_for(self, x: Tensor, mu: Tensor, t: Tensor, residual: Tensor) -> Tensor:
        """The noise for which :meth:`origin` is mu + residual: ((x_t - mu) - e^-TH r) / sqrt(v_t), t > 0."""
        return (x - mu - self.decay(t).to(x) * residual) / self.variance(t).to(x).sqrt()

    @staticmethod
    def _at(values: NDArray[np.float64], t: Tensor) -> Tensor:
        # float64 until the caller casts: MPS has none, so look up on the CPU.
        return torch.from_numpy(values)[t.cpu()].reshape(-1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class ConsistencySettings:
    """Shape of the network, schedule, and how to train.

    Parameters
    ----------
    channels, width, depth
        Colour channels, features at the finest level, levels. (The paper's network has width 64,
        depth 4 and 137 million parameters; this one is for small data and CPUs.)
    times
        N = T, the number of time steps.
    noise
        lam, on a scale of intensities of 0..1.
    linear_share
        Share of the training that goes to stage 1, whose paths start at the degraded image itself;
        stage 2 starts them at the clean one.
    origin_weight, perceptual_weight
        Weights of the origin-guided term, and of the perceptual distance within it.
    sampled_share
        Share of stage 2 whose paths start at what the model makes of the degraded image in one step. The
        paper has 0; sampling has no clean image to start from.
    noisy_skip
        Whether the skip passes the noise of x_t in training, as in the paper; see :mod:`.ir_cm`.
    """

    ADDED: ClassVar[dict[str, float]] = {"sampled_share": 0.0, "noisy_skip": True}
    """What checkpoints without these settings were trained with."""

    channels: int = 1
    width: int = 32
    depth: int = 3
    times: int = 100
    noise: float = 10 / 255
    linear_share: float = 0.5
    origin_weight: float = 0.8
    perceptual_weight: float = 0.125
    sampled_share: float = 0.5
    noisy_skip: bool = False

    def __post_init__(self) -> None:
        check_network(self.channels, self.width, self.depth)
        shares = 0 <= self.linear_share <= 1 and 0 <= self.sampled_share <= 1
        if not (2 <= self.times <= 10000 and 0 < self.noise < 1 and shares):
            raise EnsembleError(
                f"IR-CM is not possible with times = {self.times}, noise = {self.noise}, linear_share = "
                f"{self.linear_share}, sampled_share = {self.sampled_share}: 2 to 10000, between 0 and 1, "
                "and twice 0 to 1 are."
            )


class ConsistencyModel(Model):
    """The consistency function, its loss and its sampler.

    Parameters
    ----------
    settings
        See :class:`ConsistencySettings`.
    features
        From images of shape (batch, channels, rows, columns), data range 0..1, to what the perceptual
        term compares, for instance :func:`napari_ensir.restorers.training.perceptual.vgg_features`; None
        leaves the term out.

    Examples
    --------
    >>> model = ConsistencyModel(ConsistencySettings(width=8))
    >>> x, mu = torch.rand(2, 1, 1, 8, 8)
    >>> bool((model(x, mu, torch.tensor([0])) == x).all())
    True
    """

    kind: ClassVar[str] = "ir-cm"
    settings_type = ConsistencySettings

    def __init__(
        self, settings: ConsistencySettings, features: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.sde = MeanRevertingSDE(steps=settings.times, noise=settings.noise)
        self.network = UNet(
            2 * settings.channels, settings.channels, width=settings.width, depth=settings.depth
        )
        self.multiple = self.network.multiple
        self._features = (features,)  # in a tuple: a module would become a part of this one

    def origin(self, x: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        """x0hat = mu + r: the origin estimate with the head that trains."""
        residual: Tensor = self.network(2 * torch.cat([x, mu], dim=1) - 1, t.to(x.device))
        return mu + residual

    def forward(self, x: Tensor, mu: Tensor, t: Tensor, skip: Tensor | None = None) -> Tensor:
        """f(x_t, mu, t), for t of shape (batch,) or (1,); `skip` instead of x_t where that is given."""
        share: Tensor = (t.to(x) / self.settings.times).reshape(-1, 1, 1, 1)
        return (1 - share) * (x if skip is None else skip) + share * self.origin(x, mu, t.expand(len(x)))

    def _at(self, start: Tensor, mu: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Give f at the point of a path from `start` at the times t."""
        skip = None if self.settings.noisy_skip else self.sde.mean(start, mu, t)
        estimate: Tensor = self(self.sde.sample(start, mu, t, noise), mu, t, skip)
        return estimate

    def _starts(self, degraded: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Where the paths of stage 2 start: at clean images, or at the model's own first step."""
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

        f without argument is f(x_{n+1}), d the mean squared difference, n uniform in 1..N-1 for each
        image, and both points have the same noise. (With the absolute difference for d as well, its
        weight of 1 would outvote the 0.8 of the clean image at every pixel, and f would drift back
        to f(x_0), the degraded image in stage 1.)
        """
        settings = self.settings
        n = torch.randint(1, settings.times, (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        start = degraded if done < settings.linear_share else self._starts(degraded, clean, generator)
        with torch.no_grad():  # the target of the consistency term; the paper's stop-gradient
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
        """The times at which `steps` steps evaluate f: N, N r, N r^2, ... for r = `restart`, rounded down.

        Examples
        --------
        >>> ConsistencyModel(ConsistencySettings(width=8)).times_of(3)
        [100, 50, 25]
        """
        times = [int(self.settings.times * restart**index) for index in range(max(steps, 0))]
        if not times or times[-1] < 1:
            most = next(count for count in range(10**4) if self.settings.times * restart**count < 1)
            raise EnsembleError(
                f"IR-CM cannot take {steps} steps; with {self.settings.times} times and restarts at "
                f"{restart:g} of them it takes 1 to {most}."
            )
        return times

    def sample(
        self,
        mu: Tensor,
        draw: Draw,
        steps: int,
        tiled: Tiled,
        *,
        restart: float = 0.5,
        noisy_skip: bool = False,
    ) -> Tensor:
        """Restore a plane mu of shape (channels, rows, columns) in `steps` evaluations of f.

        Parameters
        ----------
        mu, draw, tiled
            See :meth:`NetworkRestorer.restore_plane`.
        steps, restart
            See :meth:`times_of`.
        noisy_skip
            Whether the skip passes the drawn noise on, as in the paper.
        """
        x0 = mu  # so that the first point is drawn from N(mu, v_N)
        for n in self.times_of(steps, restart):
            t = torch.tensor([n])
            x = self.sde.sample(x0[None], mu[None], t, draw()[None])[0]
            skip = x if noisy_skip else self.sde.mean(x0[None], mu[None], t)[0]
            x0 = tiled(lambda x, mu, skip, t=t: self(x, mu, t, skip), x, mu, skip)
        return x0


@dataclass(frozen=True, kw_only=True, eq=False)
class IRCM(LearnedRestorer):
    """Restores with a :class:`ConsistencyModel`; see :class:`LearnedRestorer` for the other parameters.

    Parameters
    ----------
    steps
        Evaluations of the network: 1 or a few.
    restart
        At which part of the time before it each further step starts. The paper halves; a quarter is what
        measured best (``benchmarks/restorers.md``).
    skip : "mean" or "paper"
        What f passes on besides its estimate: the mean of the point it starts from, or, as in the paper, that
        point with the noise that was drawn for it.
    """

    title: ClassVar[str] = "IR-CM"
    model: ConsistencyModel
    steps: int = steps_setting(1)
    restart: float = setting(
        0.25,
        title="Restart",
        description="At which part of the time before it a further step starts.",
        minimum=0.05,
        maximum=0.95,
        step=0.05,
    )
    skip: str = setting(
        "mean",
        title="Skip",
        description="What passes the network by: the mean of its point, or, as in the paper, its noise too.",
        choices=("mean", "paper"),
    )

    @property
    def evaluations(self) -> int:
        """See :class:`NetworkRestorer`."""
        return self.steps

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`."""
        return self.model.sample(
            plane, draw, self.steps, tiled, restart=self.restart, noisy_skip=self.skip == "paper"
        )
