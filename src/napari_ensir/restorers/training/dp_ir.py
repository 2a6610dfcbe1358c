"""DP-IR: diffusion with a restorer, a denoiser and a small fusion network.

"Modular Conditional Diffusion Framework for Image Reconstruction" (DP-IR, NeurIPS 2024):

    E[x0 | y, x_t]  ~  F(IR(y), D(x_t / sqrt(ab_t), s_t), t),   s_t^2 = (1 - ab_t) / ab_t

IR is any restorer and D a Gaussian denoiser. Both are frozen; only F is trained, with the mean squared error.
Sampling jumps from pure noise to a time tau in closed form, with IR(y) in place of x0
(:meth:`Diffusion.jump`), and makes tau steps from there, or fewer longer ones. F and D are evaluated in each
step, IR once. With a small tau the result stays close to IR(y); a large tau adds more detail that is not in
the data. IR may enlarge the image: the diffusion runs on the grid of IR(y).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import (
    FunctionRestorer,
    Progress,
    Restorer,
    check_image,
    data_range_of,
    scale_of,
    with_settings,
)
from napari_ensir.restorers.classical import CLASSICAL
from napari_ensir.restorers.networks.external import ExternalNetwork
from napari_ensir.restorers.networks.learned import Draw, LearnedRestorer, Model, NetworkRestorer, Tiled
from napari_ensir.restorers.training.models import (
    Denoiser,
    DenoiserModel,
    FusionNetwork,
    LocalWiener,
    NetworkShape,
    check_fields,
)
from napari_ensir.settings import evaluations_setting, setting, tau_setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Diffusion:
    """Schedule and steps of the diffusion; arrays are indexed by t, with the clean image at t = 0.

    Parameters
    ----------
    steps
        T, the number of steps.
    first, last
        beta_1 and beta_T; beta is linear in t.

    Examples
    --------
    >>> float(round(Diffusion().sigma(5), 4))
    0.0264
    """

    steps: int = 1000
    first: float = 1e-4
    last: float = 2e-2

    @cached_property
    def beta(self) -> NDArray[np.float64]:
        """beta_t, shape (T + 1,); beta_0 = 0."""
        beta = np.zeros(self.steps + 1)
        beta[1:] = np.linspace(self.first, self.last, self.steps)
        return beta

    @cached_property
    def kept(self) -> NDArray[np.float64]:
        """ab_t, product of 1 - beta up to t, shape (T + 1,)."""
        return np.asarray(np.cumprod(1 - self.beta, dtype=np.float64))

    def sigma(self, t: int) -> float:
        """s_t = sqrt((1 - ab_t) / ab_t), standard deviation of the noise in x_t / sqrt(ab_t)."""
        return float(np.sqrt((1 - self.kept[t]) / self.kept[t]))

    def posterior(self, t: int) -> tuple[float, float, float]:
        """Weight of x0, weight of x_t, and variance of the step from t to t - 1.

        The variance is beta_t, the larger choice of Ho et al. (2020), as in Lemma 3.2 of DP-IR; it is 0 for
        the last step.
        """
        beta, before, now = self.beta[t], self.kept[t - 1], self.kept[t]
        weight_x0 = np.sqrt(before) * beta / (1 - now)
        weight_xt = np.sqrt(1 - beta) * (1 - before) / (1 - now)
        return float(weight_x0), float(weight_xt), float(beta) if t > 1 else 0.0

    def jump(self, tau: int, start: int | None = None) -> tuple[float, float, float]:
        """Weights of x0 and x_T, and variance, of all steps from T to `tau` with fixed x0 (Lemma 3.2, eq. 8).

        M0 = sqrt(ab_tau) (1 - ab_T / ab_tau) / (1 - ab_T)
        MX = sqrt(ab_T / ab_tau) (1 - ab_tau) / (1 - ab_T)
        V  = sum_{i<k} G(T-i-1, tau+1)^2 beta_{T-i},  k = T - tau
        G(i, j) = sqrt(prod_{n=j..i} alpha_n) (1 - ab_{j-1}) / (1 - ab_i), 1 for i < j

        `start` takes the place of T.

        Examples
        --------
        >>> weight_x0, weight_xt, variance = Diffusion().jump(5)
        >>> print(f"{weight_x0:.4f} {weight_xt:.1e} {variance:.1e}")
        0.9997 4.4e-06 8.3e-04
        """
        kept, last = self.kept, self.steps if start is None else start
        between = kept[last] / kept[tau]
        weight_x0 = np.sqrt(kept[tau]) * (1 - between) / (1 - kept[last])
        weight_xt = np.sqrt(between) * (1 - kept[tau]) / (1 - kept[last])
        # Noise added in the step from n to n - 1 passes the steps n - 1 .. tau + 1.
        n = np.arange(tau + 1, last + 1)
        passed = np.sqrt(kept[n - 1] / kept[tau]) * (1 - kept[tau])
        # For n = tau + 1 it passes no step; the quotient would be 0 / 0 for tau = 0.
        gain = np.divide(passed, 1 - kept[n - 1], out=np.ones(len(n)), where=n > tau + 1)
        added = np.where(n > 1, self.beta[n], 0.0)  # as in `posterior`
        return float(weight_x0), float(weight_xt), float((gain**2 * added).sum())

    def times(self, tau: int, evaluations: int | None = None) -> list[int]:
        """Times tau, ..., 0 at equal distances, rounded, for this number of evaluations (None: tau).

        Examples
        --------
        >>> Diffusion().times(20, 3)
        [20, 13, 7, 0]
        """
        count = tau if evaluations is None else min(evaluations, tau)
        return [round(tau * each / count) for each in range(count, -1, -1)] if count else [tau]

    def ancestral_step(
        self, x: Tensor, x0: Tensor, t: int, noise: Tensor | None, to: int | None = None
    ) -> Tensor:
        """x_{t-1}, or x at the time `to`, from x_t and the estimate of x0.

        `noise` is standard normal; unused at the time 0.
        """
        weight_x0, weight_xt, variance = self.posterior(t) if to in (None, t - 1) else self.jump(to or 0, t)
        stepped = weight_x0 * x0 + weight_xt * x
        return stepped if noise is None or variance == 0 else stepped + variance**0.5 * noise

    def ddim_step(self, x: Tensor, x0: Tensor, t: int, to: int | None = None) -> Tensor:
        """x_{t-1}, or x at `to`, without new noise (Song, Meng and Ermon 2021, eq. 12 with eta = 0)."""
        now, before = self.kept[t], self.kept[t - 1 if to is None else to]
        noise = (x - float(np.sqrt(now)) * x0) / float(np.sqrt(1 - now))
        return float(np.sqrt(before)) * x0 + float(np.sqrt(1 - before)) * noise


def describe(restorer: Restorer) -> dict[str, Any]:
    """Header entry of a restorer: its settings where it is one of this package, else its name."""
    if isinstance(restorer, LearnedRestorer):
        return restorer.header()
    for key, kind in CLASSICAL.items():
        if type(restorer) is kind:
            return {"kind": "classical", "method": key, "settings": asdict(restorer)}
    return {"kind": "other", "name": restorer.name}


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """Settings of a :class:`FusionModel`.

    Parameters
    ----------
    channels, width
        Number of colour channels and of features of F.
    denoiser_width, denoiser_depth
        Shape of D, a :class:`DenoiserModel`; with width 0, D is :class:`LocalWiener`.
    latest
        F is trained for t = 1..latest, the greatest `tau`; 1000 in the paper. Late times must be included: at
        early times x_t shows the clean image, and F would only learn to copy D.
    sampled_share
        Share of training points x_t drawn around IR(y), as in sampling; the others are drawn around the clean
        image. It is 0 in the paper; F then relies on details of x_t that IR(y) does not have.
    """

    channels: int = 1
    width: int = 64
    denoiser_width: int = 0
    denoiser_depth: int = 3
    latest: int = 1000
    sampled_share: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        NetworkShape(channels=self.channels, width=self.width)
        _ = self.denoiser_shape

    @property
    def denoiser_shape(self) -> NetworkShape | None:
        """Shape of D; None: D has no weights."""
        shape = {"width": self.denoiser_width, "depth": self.denoiser_depth}
        return NetworkShape(channels=self.channels, **shape) if self.denoiser_width else None


class FusionModel(Model):
    """Fusion network F with a frozen denoiser D.

    Parameters
    ----------
    settings
        See :class:`FusionSettings`.
    denoiser
        A trained D whose settings agree with `settings`; None makes an untrained one.

    Examples
    --------
    >>> model = FusionModel(FusionSettings(width=8))
    >>> ir, x = torch.rand(2, 1, 1, 8, 8)
    >>> bool((model(ir, x, torch.tensor([3])) == ir).all())  # untrained
    True
    """

    kind: ClassVar[str] = "dp-ir"
    settings_type = FusionSettings

    def __init__(self, settings: FusionSettings, denoiser: DenoiserModel | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.diffusion = Diffusion()
        self.fusion = FusionNetwork(settings.channels, settings.width)
        shape = settings.denoiser_shape
        if denoiser is not None and denoiser.settings != shape:
            raise EnsembleError(
                f"the denoiser has {denoiser.settings}, but the settings of DP-IR require {shape}."
            )
        self.denoiser: DenoiserModel | LocalWiener
        self.denoiser = denoiser or (DenoiserModel(shape) if shape else LocalWiener())
        self.denoiser.requires_grad_(False)
        self.denoise_with(None)
        self.multiple = self.denoiser.multiple

    @classmethod
    def for_denoiser(cls, denoiser: DenoiserModel | None, settings: FusionSettings) -> FusionModel:
        """Make an untrained F for a denoiser (None: :class:`LocalWiener`), whose shape is put in."""
        if denoiser is not None:
            shape = denoiser.settings
            settings = replace(settings, denoiser_width=shape.width, denoiser_depth=shape.depth)
        return cls(settings, denoiser)

    def denoise_with(self, function: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        """Set a function that replaces D in training; None removes it."""
        self._denoise = (function,)  # in a tuple, so that torch does not register it as a submodule

    def forward(
        self, restored: Tensor, x: Tensor, t: Tensor, denoise: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """Estimate x0 from IR(y) and x_t, images in -1..1, and t of shape (batch,).

        `denoise` replaces D.
        """
        denoise = denoise or self.denoiser
        kept = torch.from_numpy(self.diffusion.kept)[t.cpu()].to(x).reshape(-1, 1, 1, 1)
        with torch.no_grad():
            denoised: Tensor = denoise(x / kept.sqrt(), ((1 - kept) / kept).sqrt().flatten())
        estimate: Tensor = self.fusion(restored, denoised, t.to(x.device))
        return estimate

    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """Mean squared error of the estimate of x0; `degraded` is IR(y)."""
        count = len(clean)
        t = torch.randint(1, self.settings.latest + 1, (count,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        sampled = torch.rand(count, generator=generator) < self.settings.sampled_share
        image, restored = 2 * clean - 1, 2 * degraded - 1
        x = torch.empty_like(image)
        for each in range(count):
            if sampled[each]:
                weight_x0, weight_xt, variance = self.diffusion.jump(int(t[each]))
                mean, variance = weight_x0 * restored[each], weight_xt**2 + variance
            else:
                kept = float(self.diffusion.kept[t[each]])
                mean, variance = kept**0.5 * image[each], 1 - kept
            x[each] = mean + variance**0.5 * noise[each]
        loss: Tensor = functional.mse_loss(self(restored, x, t, *self._denoise), image)
        return loss


def denoising_function(
    restorer: Restorer, channels: int, device: str | torch.device = "cpu"
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return D(x, s) for images in -1..1 from a restorer or a network.

    Parameters
    ----------
    restorer
        A restorer with a setting ``noise``, or an external network for images in 0..1 that takes the standard
        deviation of the noise as a second argument of shape (batch,), or as a last channel.
    channels
        Number of colour channels of the images.
    device
        Device of the images.

    Returns
    -------
    callable
        From images (batch, channels, rows, columns) and standard deviations (batch,) to images.

    Raises
    ------
    EnsembleError
        If the restorer has no such setting or argument.

    Examples
    --------
    >>> denoise = denoising_function(CLASSICAL["wavelet"](), 1)
    >>> denoise(torch.zeros(2, 1, 16, 16), torch.ones(2)).shape
    torch.Size([2, 1, 16, 16])
    """
    if isinstance(restorer, NetworkRestorer):
        restorer.to_device(torch.device(device))
    if isinstance(restorer, Denoiser) and restorer.model.channels == channels:
        return restorer.model
    if "noise" in getattr(restorer, "__dataclass_fields__", ()):

        def restore(x: Tensor, sigma: Tensor) -> Tensor:
            settings = {"channel_axis": 0, "data_range": (-1.0, 1.0)}
            images = [
                with_settings(restorer, noise=float(each), **settings)(image)
                for image, each in zip(x.cpu().numpy(), sigma, strict=True)
            ]
            return torch.from_numpy(np.stack(images)).to(x)

        return restore
    if isinstance(restorer, ExternalNetwork):
        network = restorer.network

        def with_channel(x: Tensor, sigma: Tensor) -> Tensor:
            level = sigma.reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
            return network(torch.cat([x, level], dim=1))

        sides = np.broadcast_to(np.multiply(restorer.sides, 4), 2).tolist()
        image = torch.zeros(1, channels, *sides, device=device)
        calls: tuple[Callable[..., Tensor], ...] = (network, with_channel)
        for call in calls:
            with suppress(Exception):  # networks raise errors of any type
                if call(image, image.new_ones(1)).shape == image.shape:
                    return partial(_on_unit_scale, call)
    raise EnsembleError(
        f"{restorer.name} cannot be the denoiser of DP-IR, since it does not take the level of the noise of "
        f"images of {channels} channel(s); give a restorer with a setting noise, or a network with a second "
        "argument or a last channel for it."
    )


def _on_unit_scale(call: Callable[..., Tensor], x: Tensor, sigma: Tensor) -> Tensor:
    return 2 * call((x + 1) / 2, sigma / 2) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class DPIR(LearnedRestorer):
    """Restorer that combines another restorer with a :class:`FusionModel`.

    :class:`LearnedRestorer` has the other parameters.

    Parameters
    ----------
    ir
        The other restorer, which may enlarge images. Its channel axis and device are replaced by those of
        this one.
    denoiser
        Replaces the denoiser of the model; see :func:`denoising_function`.
    tau
        First time, 0 (returns IR(y)) to ``model.settings.latest``.
    evaluations
        Number of steps from tau to 0, in each of which the networks are evaluated; None: tau.
    sampler
        "ancestral" adds noise in each step, "ddim" does not.
    """

    title: ClassVar[str] = "DP-IR"
    model_type = FusionModel
    model: FusionModel
    ir: Restorer
    denoiser: Restorer | None = None
    tau: int = tau_setting(5)
    evaluations: int | None = evaluations_setting()
    sampler: str = setting(
        "ancestral",
        title="Sampler",
        description="Ancestral adds noise in each step, DDIM does not.",
        choices=("ancestral", "ddim"),
    )

    @property
    def name(self) -> str:
        """Title with the name of the other restorer."""
        return f"{super().name}, {self.ir.name}"

    @property
    def scale(self) -> int | None:
        """Scale of the other restorer."""
        return scale_of(self.ir)

    @property
    def calls(self) -> int:
        """See :class:`NetworkRestorer`; does not include that of `ir`."""
        return len(self.model.diffusion.times(self.tau, self.evaluations)) - 1

    def __call__(self, image: ArrayLike, *, progress: Progress | None = None) -> NDArray[np.float32]:
        """See :meth:`ImageRestorer.__call__`; `progress` reports `ir` first, then the diffusion."""
        if not 0 <= self.tau <= self.model.settings.latest or self.sampler not in ("ancestral", "ddim"):
            raise EnsembleError(
                f"DP-IR has tau = {self.tau} and the sampler {self.sampler!r}; tau must be 0 to "
                f'{self.model.settings.latest} and the sampler "ancestral" or "ddim".'
            )
        checked = check_image(image, self.channel_axis)
        ir = with_settings(self.ir, channel_axis=self.channel_axis, device=self.device)
        restored = ir(checked, progress=progress)
        # The diffusion keeps the size of IR(y).
        done = FunctionRestorer(np.asarray, self.ir.name)
        fusion = replace(self, ir=done, data_range=data_range_of(checked, self.data_range))
        return super(DPIR, fusion).__call__(restored, progress=progress)

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`; `plane` is IR(y)."""
        model, diffusion, ir = self.model, self.model.diffusion, 2 * plane - 1
        denoise = None
        if self.denoiser is not None:
            denoise = denoising_function(self.denoiser, len(plane), plane.device)
        weight_x0, weight_xt, variance = diffusion.jump(self.tau)
        x: Tensor = weight_x0 * ir + weight_xt * draw() + variance**0.5 * draw()
        for t, to in pairwise(diffusion.times(self.tau, self.evaluations)):
            now = torch.tensor([t])
            x0 = tiled(lambda ir, x, now=now: model(ir, x, now.expand(len(x)), denoise), ir, x)
            if self.sampler == "ddim":
                x = diffusion.ddim_step(x, x0, t, to)
            else:
                x = diffusion.ancestral_step(x, x0, t, draw() if to > 0 else None, to)
        return (x + 1) / 2

    def prepare_training(self, device: torch.device) -> None:
        """See :class:`LearnedRestorer`; the denoiser also replaces that of the model in training."""
        super().prepare_training(device)
        if self.denoiser is not None:
            self.model.denoise_with(denoising_function(self.denoiser, self.model.channels, device))

    def header(self) -> dict[str, Any]:
        """See :class:`LearnedRestorer`; adds the entries of the other restorers."""
        parts = {name: describe(each) for name, each in self._parts.items()}
        return super().header() | parts

    def tensors(self) -> dict[str, Tensor]:
        """See :class:`LearnedRestorer`; adds those of trained other restorers under their fields' names."""
        inner = {
            f"{part}.{name}": each
            for part, restorer in self._parts.items()
            if isinstance(restorer, LearnedRestorer)
            for name, each in restorer.tensors().items()
        }
        return super().tensors() | inner

    @property
    def _parts(self) -> dict[str, Restorer]:
        return {"ir": self.ir} | ({} if self.denoiser is None else {"denoiser": self.denoiser})
