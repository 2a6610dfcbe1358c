"""DP-IR: diffusion put together from a restorer, a denoiser and a small fusion network.

"Modular Conditional Diffusion Framework for Image Reconstruction" (DP-IR, NeurIPS 2024):

    E[x0 | y, x_t]  ~  F(IR(y), D(x_t / sqrt(ab_t), s_t), t),   s_t^2 = (1 - ab_t) / ab_t

IR is any restorer and D a Gaussian denoiser; both stay as they are, and only F is trained, on the
mean squared error. Sampling starts at a time tau, to which a closed form jumps from pure noise
with IR(y) for x0 (:meth:`napari_ensir.restorers.ddpm.Diffusion.jump`), and makes tau steps. IR is
called once and F tau times: tau + 1 evaluations. A small tau stays faithful to IR(y); a large one
invents more detail.

The degraded image y enters through IR(y) alone, so the diffusion runs on that image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import (
    Progress,
    Restorer,
    check_image,
    data_range_of,
    with_settings,
)
from napari_ensir.restorers.ddpm import Diffusion
from napari_ensir.restorers.denoiser import DenoiserModel, DenoiserSettings, LocalWiener
from napari_ensir.restorers.described import describe
from napari_ensir.restorers.enlarging import check_keeps_size
from napari_ensir.restorers.learned import Draw, LearnedRestorer, Model, Tiled
from napari_ensir.restorers.networks import FusionNetwork, check_network
from napari_ensir.settings import setting, tau_setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

__all__ = ["DPIR", "FusionModel", "FusionSettings"]


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
