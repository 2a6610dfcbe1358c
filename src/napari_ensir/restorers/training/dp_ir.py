"""DP-IR: diffusion put together from a restorer, a denoiser and a small fusion network.

"Modular Conditional Diffusion Framework for Image Reconstruction" (DP-IR, NeurIPS 2024):

    E[x0 | y, x_t]  ~  F(IR(y), D(x_t / sqrt(ab_t), s_t), t),   s_t^2 = (1 - ab_t) / ab_t

IR is any restorer and D a Gaussian denoiser; both stay as they are, and only F is trained, on the
mean squared error. Sampling starts at a time tau, to which a closed form jumps from pure noise
with IR(y) for x0 (:meth:`napari_ensir.restorers.training.dp_ir.Diffusion.jump`), and makes tau steps. IR is
called once and F tau times: tau + 1 evaluations. A small tau stays faithful to IR(y); a large one
invents more detail.

The degraded image y enters through IR(y) alone, so the diffusion runs on that image.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import (
    Progress,
    Restorer,
    check_image,
    check_keeps_size,
    data_range_of,
    with_settings,
)
from napari_ensir.restorers.classical import CLASSICAL
from napari_ensir.restorers.networks.learned import Draw, LearnedRestorer, Model, Tiled
from napari_ensir.restorers.training.models import (
    DenoiserModel,
    DenoiserSettings,
    FusionNetwork,
    LocalWiener,
    check_network,
)
from napari_ensir.settings import setting, tau_setting

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from napari_ensir.restorers.base import Restorer

__all__ = ["DPIR", "Diffusion", "FusionModel", "FusionSettings", "describe"]


@dataclass(frozen=True)
class Diffusion:
    """Schedule and single steps; all arrays are indexed by t, entry 0 being the clean image.

    Parameters
    ----------
    steps
        T.
    first, last
        beta_1 and beta_T; beta is linear between them.

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
        """ab_t, the product of 1 - beta up to t, shape (T + 1,)."""
        kept: NDArray[np.float64] = np.cumprod(1 - self.beta, dtype=np.float64)
        return kept

    def sigma(self, t: int) -> float:
        """s_t = sqrt((1 - ab_t) / ab_t), the noise in x_t / sqrt(ab_t)."""
        return float(np.sqrt((1 - self.kept[t]) / self.kept[t]))

    def posterior(self, t: int) -> tuple[float, float, float]:
        """Weight of x0, weight of x_t and variance of the step from t to t - 1.

        The variance is beta_t, the larger of the two choices of Ho et al. and the one in Lemma 3.2;
        it is 0 for the last step, which returns x0.
        """
        beta, before, now = self.beta[t], self.kept[t - 1], self.kept[t]
        of_x0 = np.sqrt(before) * beta / (1 - now)
        of_xt = np.sqrt(1 - beta) * (1 - before) / (1 - now)
        return float(of_x0), float(of_xt), float(beta) if t > 1 else 0.0

    def jump(self, tau: int) -> tuple[float, float, float]:
        """Weights of x0 and x_T and variance of all steps from T to `tau` at once, x0 held fixed.

        M0 = sqrt(ab_tau) (1 - ab_T / ab_tau) / (1 - ab_T)
        MX = sqrt(ab_T / ab_tau) (1 - ab_tau) / (1 - ab_T)
        V  = sum_{i<k} G(T-i-1, tau+1)^2 beta_{T-i},  k = T - tau
        G(i, j) = sqrt(prod_{n=j..i} alpha_n) (1 - ab_{j-1}) / (1 - ab_i), 1 for i < j

        Examples
        --------
        >>> of_x0, of_xt, variance = Diffusion().jump(5)
        >>> print(f"{of_x0:.4f} {of_xt:.1e} {variance:.1e}")
        0.9997 4.4e-06 8.3e-04
        """
        kept, last = self.kept, self.steps
        between = kept[last] / kept[tau]
        of_x0 = np.sqrt(kept[tau]) * (1 - between) / (1 - kept[last])
        of_xt = np.sqrt(between) * (1 - kept[tau]) / (1 - kept[last])
        # The noise that comes in at step n (n - 1 is where it ends) passes the steps n - 1 .. tau + 1.
        n = np.arange(tau + 1, last + 1)
        passed = np.sqrt(kept[n - 1] / kept[tau]) * (1 - kept[tau])
        # Through no step at all (n = tau + 1) it comes whole: the quotient would be 0 / 0 for tau = 0.
        gain = np.divide(passed, 1 - kept[n - 1], out=np.ones(len(n)), where=n > tau + 1)
        added = np.where(n > 1, self.beta[n], 0.0)  # as in `posterior`
        return float(of_x0), float(of_xt), float((gain**2 * added).sum())

    def ancestral_step(self, x: Tensor, x0: Tensor, t: int, noise: Tensor | None) -> Tensor:
        """x_{t-1} from x_t and the estimate of x0; `noise` is standard normal, unused for t = 1."""
        of_x0, of_xt, variance = self.posterior(t)
        stepped = of_x0 * x0 + of_xt * x
        return stepped if noise is None or variance == 0 else stepped + variance**0.5 * noise

    def ddim_step(self, x: Tensor, x0: Tensor, t: int) -> Tensor:
        """x_{t-1} without new noise (Song, Meng and Ermon 2021, eq. 12 with eta = 0)."""
        now, before = self.kept[t], self.kept[t - 1]
        noise = (x - float(np.sqrt(now)) * x0) / float(np.sqrt(1 - now))
        return float(np.sqrt(before)) * x0 + float(np.sqrt(1 - before)) * noise


def describe(restorer: Restorer) -> dict[str, Any]:
    """What a header can say of a restorer: enough to rebuild it where it is one of ours, else its name."""
    if isinstance(restorer, LearnedRestorer):
        return restorer.header()
    for key, kind in CLASSICAL.items():
        if type(restorer) is kind:
            return {"kind": "classical", "method": key, "settings": asdict(restorer)}
    return {"kind": "other", "name": restorer.name}


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """Shapes of the networks, and the times to train for.

    Parameters
    ----------
    channels, width
        Colour channels and features of F.
    denoiser_width, denoiser_depth
        Of D, a :class:`DenoiserModel`; width 0: D is :class:`LocalWiener`.
    latest
        F is trained for t = 1..latest, and `tau` can be no later. The paper trains for all 1000. It
        is no saving to leave out the late ones: at early times x_t gives the clean image away, and an F
        that knows only those leans on D and learns nothing of how to improve IR(y).
    sampled_share
        Share of the training on points x_t as sampling meets them, drawn around IR(y); the others are
        drawn around the clean image. The paper has only the latter. Sampling has no clean image to
        draw around, and an F that was always given one trusts x_t for detail that IR(y) does not have.
    """

    channels: int = 1
    width: int = 64
    denoiser_width: int = 0
    denoiser_depth: int = 3
    latest: int = 1000
    sampled_share: float = 0.5

    def __post_init__(self) -> None:
        check_network(self.channels, self.width, 1)
        if self.denoiser_width:
            check_network(self.channels, self.denoiser_width, self.denoiser_depth)
        if not 1 <= self.latest <= Diffusion().steps:
            raise EnsembleError(
                f"latest = {self.latest} is no time of the diffusion: 1 to {Diffusion().steps} are."
            )
        if not 0 <= self.sampled_share <= 1:
            raise EnsembleError(f"sampled_share = {self.sampled_share} is no share: 0 to 1 are.")


class FusionModel(Model):
    """F with its frozen D.

    Parameters
    ----------
    settings
        See :class:`FusionSettings`.
    denoiser
        A trained D whose settings agree with `settings`; None: as `settings` say, untrained.

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
        shape: DenoiserSettings | None = None
        if settings.denoiser_width:
            shape = DenoiserSettings(
                channels=settings.channels, width=settings.denoiser_width, depth=settings.denoiser_depth
            )
        if denoiser is not None and denoiser.settings != shape:
            raise EnsembleError(f"the denoiser has {denoiser.settings}; the settings of DP-IR say {shape}.")
        self.denoiser: DenoiserModel | LocalWiener
        self.denoiser = denoiser or (DenoiserModel(shape) if shape else LocalWiener())
        self.denoiser.requires_grad_(False)
        self.multiple = self.denoiser.multiple

    @classmethod
    def around(
        cls, denoiser: DenoiserModel | None, *, channels: int, width: int = 64, latest: int = 1000
    ) -> FusionModel:
        """A new F for this denoiser (None: :class:`LocalWiener`)."""
        settings = FusionSettings(channels=channels, width=width, latest=latest)
        if denoiser is not None:
            shape = denoiser.settings
            settings = replace(settings, denoiser_width=shape.width, denoiser_depth=shape.depth)
        return cls(settings, denoiser)

    def forward(self, restored: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The estimate of x0 from IR(y) and x_t, images on a scale of -1..1, and t of shape (batch,)."""
        kept = torch.from_numpy(self.diffusion.kept)[t.cpu()].to(x).reshape(-1, 1, 1, 1)
        with torch.no_grad():
            denoised: Tensor = self.denoiser(x / kept.sqrt(), ((1 - kept) / kept).sqrt().flatten())
        estimate: Tensor = self.fusion(restored, denoised, t.to(x.device))
        return estimate

    def loss(self, degraded: Tensor, clean: Tensor, generator: torch.Generator, done: float) -> Tensor:
        """The mean squared error of F's estimate; `degraded` is IR(y)."""
        count = len(clean)
        t = torch.randint(1, self.settings.latest + 1, (count,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        sampled = torch.rand(count, generator=generator) < self.settings.sampled_share
        image, restored = 2 * clean - 1, 2 * degraded - 1
        x = torch.empty_like(image)
        for each in range(count):
            if sampled[each]:
                of_x0, of_xt, variance = self.diffusion.jump(int(t[each]))
                mean, variance = of_x0 * restored[each], of_xt**2 + variance
            else:
                kept = float(self.diffusion.kept[t[each]])
                mean, variance = kept**0.5 * image[each], 1 - kept
            x[each] = mean + variance**0.5 * noise[each]
        loss: Tensor = functional.mse_loss(self(restored, x, t), image)
        return loss

    def sample(self, restored: Tensor, draw: Draw, tau: int, sampler: str, tiled: Tiled) -> Tensor:
        """Restore a plane from IR(y), shape (channels, rows, columns), data range 0..1."""
        ir = 2 * restored - 1
        of_x0, of_xt, variance = self.diffusion.jump(tau)
        x = of_x0 * ir + of_xt * draw() + variance**0.5 * draw()
        for t in range(tau, 0, -1):
            now = torch.tensor([t])
            x0 = tiled(lambda ir, x, now=now: self(ir, x, now.expand(len(x))), ir, x)
            if sampler == "ddim":
                x = self.diffusion.ddim_step(x, x0, t)
            else:
                x = self.diffusion.ancestral_step(x, x0, t, draw() if t > 1 else None)
        sampled: Tensor = (x + 1) / 2
        return sampled


@dataclass(frozen=True, kw_only=True, eq=False)
class DPIR(LearnedRestorer):
    """Restores with any restorer and a :class:`FusionModel`.

    See :class:`LearnedRestorer` for the other parameters.

    Parameters
    ----------
    ir
        The restorer. Its channel axis and device become those of this one, where it has them.
    tau
        Where to start, 0 (IR(y) itself) to the latest time trained for; evaluations are tau + 1.
    sampler
        "ancestral" adds noise at each step, "ddim" does not.
    """

    title: ClassVar[str] = "DP-IR"
    model: FusionModel
    ir: Restorer
    tau: int = tau_setting(5)
    sampler: str = setting(
        "ancestral",
        title="Sampler",
        description="Ancestral adds noise at each step, DDIM does not.",
        choices=("ancestral", "ddim"),
    )

    @property
    def name(self) -> str:
        """The method's title with its restorer's name."""
        return f"{super().name}, {self.ir.name}"

    @property
    def evaluations(self) -> int:
        """See :class:`NetworkRestorer`; the one of `ir` is not among them."""
        return self.tau

    def __call__(self, image: ArrayLike, *, progress: Progress | None = None) -> NDArray[np.float32]:
        """See :meth:`ImageRestorer.__call__`; `progress` first follows `ir`, then the diffusion."""
        if not 0 <= self.tau <= self.model.settings.latest or self.sampler not in ("ancestral", "ddim"):
            raise EnsembleError(
                f"DP-IR cannot start at tau = {self.tau} with the sampler {self.sampler!r}; this one takes 0 "
                f'to {self.model.settings.latest} and "ancestral" or "ddim".'
            )
        checked = check_image(image, self.channel_axis)
        scaled = replace(self, data_range=data_range_of(checked, self.data_range))
        ir = with_settings(self.ir, channel_axis=self.channel_axis, device=self.device)
        check_keeps_size(ir)
        restored = ir(checked, progress=progress)
        check_keeps_size(ir, checked, restored)
        return super(DPIR, scaled).__call__(restored, progress=progress)

    def restore_plane(self, plane: Tensor, draw: Draw, tiled: Tiled) -> Tensor:
        """See :class:`NetworkRestorer`; `plane` is IR(y)."""
        return self.model.sample(plane, draw, self.tau, self.sampler, tiled)

    def header(self) -> dict[str, Any]:
        """See :class:`LearnedRestorer`; the restorer is described as far as a file can hold it."""
        return super().header() | {"ir": describe(self.ir)}

    def tensors(self) -> dict[str, Tensor]:
        """See :class:`LearnedRestorer`; a trained restorer's own are among them, under ``ir.``."""
        inner = self.ir.tensors() if isinstance(self.ir, LearnedRestorer) else {}
        return super().tensors() | {f"ir.{name}": each for name, each in inner.items()}
