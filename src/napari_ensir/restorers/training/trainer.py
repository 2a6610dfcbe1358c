"""The training loop that all models here share: exact to resume, free to stop at any step.

Everything random in a step is drawn from a generator seeded with (seed, step). A training that was
interrupted, saved and resumed therefore goes on bit by bit as if it never had been.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_ensir.devices import resolve_device
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import check_image, data_range_of
from napari_ensir.restorers.networks.checkpoint import under, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_ensir.restorers.networks.learned import LearnedRestorer, Model

__all__ = ["Trainer", "TrainingPairs", "TrainingSettings", "TrainingStep"]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to train.

    Parameters
    ----------
    steps
        Steps in all; the learning rate falls to a hundredth over them, along a cosine.
    batch
        Patches in a step.
    patch
        Side of a patch in pixels, at most; smaller where an image is smaller.
    learning_rate
        Of AdamW, at its highest.
    seed
        Of everything random: patches, times, noise.
    preview_every
        Steps between previews; 0: none.
    """

    steps: int = 2000
    batch: int = 8
    patch: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    preview_every: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.patch < 8 or self.seed < 0 or self.preview_every < 0:
            raise EnsembleError(
                f"training settings {asdict(self)}: steps and batch start at 1, patch at 8, the others at 0."
            )
        if not 0 < self.learning_rate < 1:
            raise EnsembleError(f"the learning rate {self.learning_rate} does not lie between 0 and 1.")


@dataclass(frozen=True)
class TrainingStep:
    """What the training tells after each step.

    Parameters
    ----------
    step, steps
        Steps made, and to be made in all.
    loss
        Of this step's batch, before the step.
    preview
        The first training image as restored now, where a preview was due: float32, shape (channels,
        rows, columns), at most 256 pixels a side, data range 0..1.
    """

    step: int
    steps: int
    loss: float
    preview: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TrainingPairs:
    """Degraded and clean planes to cut patches from; see :meth:`from_arrays`.

    Parameters
    ----------
    degraded, clean
        float32 planes of shape (channels, rows, columns), data range 0..1.
    data_range
        The intensities that became 0 and 1.
    """

    degraded: tuple[NDArray[np.float32], ...]
    clean: tuple[NDArray[np.float32], ...]
    data_range: tuple[float, float]

    @classmethod
    def from_arrays(
        cls,
        pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]],
        *,
        channel_axis: int | None = None,
        data_range: tuple[float, float] | None = None,
    ) -> TrainingPairs:
        """Take pairs of images apart into planes.

        Parameters
        ----------
        pairs
            (degraded, clean) images of one shape each; axes before the last two (beside the channel
            axis) become planes of their own.
        channel_axis
            Of every image.
        data_range
            As in :class:`napari_ensir.restorers.base.ImageRestorer`, over all images together.

        Returns
        -------
        TrainingPairs

        Raises
        ------
        EnsembleError
            If there is no pair, or an image cannot be used, or shapes or channels differ.

        Examples
        --------
        >>> clean = np.zeros((2, 16, 24), np.uint8)
        >>> [each.shape for each in TrainingPairs.from_arrays([(clean, clean)]).clean]
        [(1, 16, 24), (1, 16, 24)]
        """
        images = [
            (check_image(degraded, channel_axis), check_image(clean, channel_axis))
            for degraded, clean in pairs
        ]
        if not images:
            raise EnsembleError("there is no pair of images to train on.")
        for number, (degraded, clean) in enumerate(images, start=1):
            if degraded.shape != clean.shape:
                raise EnsembleError(
                    f"pair {number}: the degraded image has shape {degraded.shape} and the clean one "
                    f"{clean.shape}; they have to be the same."
                )
        ranges = [data_range_of(image, data_range) for pair in images for image in pair]
        low, high = min(each[0] for each in ranges), max(each[1] for each in ranges)
        planes = [
            tuple(plane for pair in images for plane in _planes(pair[side], channel_axis, low, high))
            for side in (0, 1)
        ]
        channels = sorted({len(plane) for plane in planes[0]})
        if len(channels) > 1:
            raise EnsembleError(f"the images have {channels} colour channels; it has to be one number.")
        if (least := min(min(plane.shape[1:]) for plane in planes[0])) < 8:
            raise EnsembleError(
                f"an image has {least} pixels along one side; at least 8 are needed to train."
            )
        return cls(planes[0], planes[1], (low, high))

    @property
    def channels(self) -> int:
        """Colour channels."""
        return len(self.clean[0])

    def batch(self, rng: np.random.Generator, size: int, patch: int, multiple: int) -> tuple[Tensor, Tensor]:
        """Random patches, randomly turned and mirrored.

        Parameters
        ----------
        rng : numpy.random.Generator
        size : int
            Number of patches.
        patch : int
            Side, in pixels; less where an image is smaller.
        multiple : int
            What the side is a multiple of.

        Returns
        -------
        degraded, clean : float32 tensors (size, channels, side, side)
            On a scale of 0..1.

        Raises
        ------
        EnsembleError
            If an image is smaller than ``multiple``.
        """
        smallest = min(min(plane.shape[1:]) for plane in self.clean)
        side = max(min(patch, smallest) // multiple, 1) * multiple
        if side > smallest:
            raise EnsembleError(f"patches need at least {side} pixels a side and an image has {smallest}.")
        areas = np.array([plane[0].size for plane in self.clean], float)
        chosen = rng.choice(len(areas), size, p=areas / areas.sum())
        degraded: list[NDArray[np.float32]] = []
        clean: list[NDArray[np.float32]] = []
        for index in chosen:
            rows, columns = self.clean[index].shape[1:]
            r, c = rng.integers(rows - side + 1), rng.integers(columns - side + 1)
            turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            for patches, planes in ((degraded, self.degraded), (clean, self.clean)):
                cut = np.rot90(planes[index][:, r : r + side, c : c + side], turns, (1, 2))
                patches.append(cut[:, :, ::-1] if mirrored else cut)
        return torch.from_numpy(np.stack(degraded)), torch.from_numpy(np.stack(clean))


class Trainer:
    """Trains a model: iterate over :meth:`run`, stop whenever, save, resume.

    Parameters
    ----------
    model
        What to train: those of its parameters that require a gradient.
    pairs
        What to train on.
    settings
        How.
    make
        Builds the restorer from ``model``, ``trained_steps``, ``data_range`` and ``device``: its
        class, for instance :class:`napari_ensir.restorers.training.ir_cm.IRCM`.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Attributes
    ----------
    step
        Steps made.
    losses
        The loss of each of them.

    Examples
    --------
    >>> from napari_ensir.restorers.training.models import Regression, RegressionModel, RegressionSettings
    >>> clean = np.random.default_rng(0).random((16, 16))
    >>> trainer = Trainer(
    ...     RegressionModel(RegressionSettings(width=8)),
    ...     TrainingPairs.from_arrays([(clean, clean)]),
    ...     TrainingSettings(steps=2, batch=1),
    ...     make=Regression,
    ...     device="cpu",
    ... )
    >>> [event.step for event in trainer.run()]
    [1, 2]
    >>> trainer.restorer().name
    'Regression'
    """

    def __init__(
        self,
        model: Model,
        pairs: TrainingPairs,
        settings: TrainingSettings,
        *,
        make: Callable[..., LearnedRestorer],
        device: str = "auto",
    ) -> None:
        if model.channels != pairs.channels:
            raise EnsembleError(
                f"the network takes {model.channels} colour channels and the images have {pairs.channels}."
            )
        self.model, self.pairs, self.settings, self.make = model, pairs, settings, make
        self.device = resolve_device(device)
        self.step = 0
        self.losses: list[float] = []
        model.to(self.device)
        self._trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._trained.values(), lr=settings.learning_rate, weight_decay=1e-4
        )

    def run(self) -> Iterator[TrainingStep]:
        """Train on to the last step, one :class:`TrainingStep` after each; stop iterating to cancel.

        Raises
        ------
        EnsembleError
            If the loss is no longer finite.
        """
        while self.step < self.settings.steps:
            loss = self._advance()
            every = self.settings.preview_every
            preview = self._preview() if every and self.step % every == 0 else None
            yield TrainingStep(self.step, self.settings.steps, loss, preview)

    def restorer(self) -> LearnedRestorer:
        """The restorer as trained so far. It shares the model, which further training changes."""
        return self.make(
            model=self.model,
            trained_steps=self.step,
            data_range=self.pairs.data_range,
            device=str(self.device),
        )

    def save(self, path: str | Path) -> None:
        """Save a checkpoint that can both be restored with and be resumed from.

        Parameters
        ----------
        path : str or Path
            A ``.safetensors`` file.

        Raises
        ------
        EnsembleError
            If the file cannot be written.
        """
        restorer = self.restorer()
        tensors = restorer.tensors()
        tensors["training.losses"] = torch.tensor(self.losses, dtype=torch.float64)
        for name, parameter in self._trained.items():
            state = self._optimizer.state.get(parameter, {})
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"optimizer.{moment}.{name}"] = state.get(moment, torch.zeros_like(parameter))
        write_checkpoint(path, tensors, restorer.header() | {"training": asdict(self.settings)})

    def restore_state(self, step: int, tensors: Mapping[str, Tensor], where: str) -> None:
        """Go on from the optimizer's state that :meth:`save` wrote.

        Parameters
        ----------
        step : int
            Steps made so far.
        tensors : mapping of str to tensor
            Those of the checkpoint.
        where : str
            What messages call it.

        Raises
        ------
        EnsembleError
            If the state is incomplete, or does not fit the network.
        """
        moments = under(tensors, "optimizer.")
        wanted = {
            f"{m}.{name}": each for m in ("exp_avg", "exp_avg_sq") for name, each in self._trained.items()
        }
        losses = tensors.get("training.losses")
        if moments.keys() != wanted.keys() or losses is None or losses.shape != (step,):
            raise EnsembleError(f"{where} holds no complete state of a training; it cannot be resumed.")
        for name, each in wanted.items():
            if moments[name].shape != each.shape or moments[name].dtype != each.dtype:
                raise EnsembleError(f"{where}: the optimizer's {name} does not fit the network.")
        self.step, self.losses = step, losses.tolist()
        for name, each in self._trained.items():
            self._optimizer.state[each] = {
                "step": torch.tensor(float(step)),
                "exp_avg": moments[f"exp_avg.{name}"].to(self.device).clone(),
                "exp_avg_sq": moments[f"exp_avg_sq.{name}"].to(self.device).clone(),
            }

    def _advance(self) -> float:
        """One step."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, self.step])
        degraded, clean = self.pairs.batch(rng, settings.batch, settings.patch, self.model.multiple)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        done = self.step / settings.steps
        rise = min(1.0, (self.step + 1) / min(100, max(settings.steps // 10, 1)))
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * rise * (0.505 + 0.495 * math.cos(math.pi * done))
        self.model.train()
        loss = self.model.loss(degraded.to(self.device), clean.to(self.device), generator, done)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise EnsembleError(
                f"the training diverged at step {self.step + 1}; lower the learning rate "
                f"({settings.learning_rate})."
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        self._optimizer.step()
        self.step += 1
        self.losses.append(value)
        return value

    def _preview(self) -> NDArray[np.float32]:
        """The first degraded plane, or its middle, as restored now."""
        plane = self.pairs.degraded[0]
        cut = tuple(slice(max(n - 256, 0) // 2, max(n - 256, 0) // 2 + 256) for n in plane.shape[1:])
        restorer = replace(self.restorer(), channel_axis=0, data_range=(0.0, 1.0))
        image = plane[(slice(None), *cut)]
        return restorer.restore_unit(image, 1.0, lambda done, total, text: None)


def _planes(
    image: NDArray[Any], channel_axis: int | None, low: float, high: float
) -> list[NDArray[np.float32]]:
    """The image's planes (channels, rows, columns), scaled to 0..1."""
    unit = (np.subtract(image, low, dtype=np.float64) / (high - low)).astype(np.float32)
    unit = unit[np.newaxis] if channel_axis is None else np.moveaxis(unit, channel_axis, 0)
    return [np.ascontiguousarray(unit[(slice(None), *index)]) for index in np.ndindex(unit.shape[1:-2])]
