"""Training loop of all models; a resumed training gives the same weights, bit by bit.

All random numbers of a step are drawn from a generator seeded with (seed, step).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from napari_ensir.devices import resolve_device
from napari_ensir.errors import EnsembleError
from napari_ensir.restorers.base import channels_first, check_image, data_range_of, no_progress
from napari_ensir.restorers.networks.checkpoint import write_checkpoint
from napari_ensir.restorers.training.models import check_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_ensir.restorers.networks.learned import LearnedRestorer, Model

_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of a training.

    Parameters
    ----------
    steps
        Number of steps; the learning rate falls to a hundredth along a cosine.
    batch
        Number of patches in a step.
    patch
        Greatest side of a patch in pixels; less where an image is smaller.
    learning_rate
        Greatest learning rate of AdamW.
    seed
        Seed of patches, times and noise.
    preview_every
        Steps between previews; 0 makes none.
    average
        Decay of the moving average of the weights, which is then what is applied and saved; 0: no average.
    validation
        Share of the images that is not trained on; 0: none.
    """

    ADDED: ClassVar[dict[str, float]] = {"average": 0.0, "validation": 0.0}
    """Values for checkpoints that lack these settings."""

    steps: int = 2000
    batch: int = 8
    patch: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    preview_every: int = 0
    average: float = 0.0
    validation: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainingStep:
    """State of a training after a step.

    Parameters
    ----------
    step, steps
        Number of steps made, and of all steps.
    loss
        Loss of this step's batch, before the step.
    preview
        The first training image, restored; None where no preview was due. float32, shape (channels, rows,
        columns), sides of at most 256 pixels, data range 0..1.
    """

    step: int
    steps: int
    loss: float
    preview: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TrainingPairs:
    """Degraded and clean planes, from which patches are cut.

    Parameters
    ----------
    degraded, clean
        float32 planes of shape (channels, rows, columns), data range 0..1.
    data_range
        The intensities that were mapped to 0 and 1.
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
        """Split pairs of images into planes.

        Parameters
        ----------
        pairs
            (degraded, clean) images; both of a pair have the same shape. Axes before the last two, except
            the channel axis, are split into planes.
        channel_axis
            Colour axis of every image; None if there is none.
        data_range
            See :class:`napari_ensir.restorers.base.ImageRestorer`; None is the range over all images.

        Returns
        -------
        TrainingPairs

        Raises
        ------
        EnsembleError
            If there is no pair, an image cannot be used, or shapes or numbers of channels differ.

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
            raise EnsembleError("no pair of images to train on was given.")
        for number, (degraded, clean) in enumerate(images, start=1):
            if degraded.shape != clean.shape:
                raise EnsembleError(
                    f"pair {number}: the degraded image has shape {degraded.shape} and the clean one "
                    f"{clean.shape}; the shapes must be equal."
                )
        low, high = common_range(images, data_range)
        planes = [
            tuple(plane for pair in images for plane in _planes(pair[side], channel_axis, low, high))
            for side in (0, 1)
        ]
        channels = sorted({len(plane) for plane in planes[0]})
        if len(channels) > 1:
            raise EnsembleError(
                f"the images have {channels} colour channels; the number must be the same in all."
            )
        if (least := min(min(plane.shape[1:]) for plane in planes[0])) < 8:
            raise EnsembleError(f"an image has {least} pixels along one side; training needs at least 8.")
        return cls(planes[0], planes[1], (low, high))

    @property
    def channels(self) -> int:
        """Number of colour channels."""
        return len(self.clean[0])

    def split(self, share: float) -> tuple[TrainingPairs, TrainingPairs | None]:
        """Split off the last planes for validation, or the last rows if there is one plane.

        Parameters
        ----------
        share : float
            Share of the planes or rows.

        Returns
        -------
        training, validation : TrainingPairs
            The validation is None if the share is 0.

        Raises
        ------
        EnsembleError
            If the only plane has too few rows.

        Examples
        --------
        >>> clean = np.zeros((10, 16, 24), np.uint8)
        >>> training, validation = TrainingPairs.from_arrays([(clean, clean)]).split(0.1)
        >>> len(training.clean), len(validation.clean)
        (9, 1)
        """
        if not share:
            return self, None
        if (count := len(self.clean)) > 1:
            kept = count - max(round(share * count), 1)
            sides = [(side[:kept], side[kept:]) for side in (self.degraded, self.clean)]
        else:
            rows = self.clean[0].shape[1]
            kept = rows - max(round(share * rows), 8)
            if kept < 8:
                raise EnsembleError(f"an image of {rows} rows is too small to be split for validation.")
            sides = [((p[:, :kept],), (p[:, kept:],)) for (p,) in (self.degraded, self.clean)]
        (degraded, held_degraded), (clean, held_clean) = sides
        return (
            replace(self, degraded=degraded, clean=clean),
            replace(self, degraded=held_degraded, clean=held_clean),
        )

    def batch(self, rng: np.random.Generator, size: int, patch: int, multiple: int) -> tuple[Tensor, Tensor]:
        """Draw random patches, randomly rotated and mirrored.

        Parameters
        ----------
        rng : numpy.random.Generator
        size : int
            Number of patches.
        patch : int
            Greatest side, in pixels; less where an image is smaller.
        multiple : int
            The side is a multiple of it.

        Returns
        -------
        degraded, clean : float32 tensors (size, channels, side, side)
            Intensities in 0..1.

        Raises
        ------
        EnsembleError
            If an image is smaller than ``multiple``.
        """
        smallest = min(min(plane.shape[1:]) for plane in self.clean)
        side = max(min(patch, smallest) // multiple, 1) * multiple
        if side > smallest:
            raise EnsembleError(f"patches need sides of at least {side} pixels; an image has {smallest}.")
        areas = np.array([plane[0].size for plane in self.clean], float)
        chosen = rng.choice(len(areas), size, p=areas / areas.sum())
        patches: tuple[list[NDArray[np.float32]], ...] = ([], [])
        for index in chosen:
            rows, columns = self.clean[index].shape[1:]
            r, c = rng.integers(rows - side + 1), rng.integers(columns - side + 1)
            turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
            for kept, planes in zip(patches, (self.degraded, self.clean), strict=True):
                cut = np.rot90(planes[index][:, r : r + side, c : c + side], turns, (1, 2))
                kept.append(cut[:, :, ::-1] if mirrored else cut)
        degraded, clean = (torch.from_numpy(np.stack(each)) for each in patches)
        return degraded, clean


class Trainer:
    """Train a model; iterate over :meth:`run`, and stop, save or resume after any step.

    Parameters
    ----------
    restorer
        Untrained or loaded restorer, whose model is trained: its parameters that require a gradient.
    pairs
        Training images; the share ``settings.validation`` of them is held out.
    settings
        Settings of the training.
    device
        See :func:`napari_ensir.devices.resolve_device`.

    Attributes
    ----------
    model
        The trained model.
    step
        Number of steps made.
    losses
        Loss of each step.
    held_out
        Pairs for :meth:`validate`; None: no validation.

    Examples
    --------
    >>> from napari_ensir.restorers.training.models import NetworkShape, Regression, RegressionModel
    >>> clean = np.random.default_rng(0).random((16, 16))
    >>> trainer = Trainer(
    ...     Regression(model=RegressionModel(NetworkShape(width=8))),
    ...     TrainingPairs.from_arrays([(clean, clean)]),
    ...     TrainingSettings(steps=2, batch=1),
    ...     device="cpu",
    ... )
    >>> [event.step for event in trainer.run()]
    [1, 2]
    >>> trainer.restorer().name
    'Regression'
    """

    def __init__(
        self,
        restorer: LearnedRestorer,
        pairs: TrainingPairs,
        settings: TrainingSettings,
        *,
        device: str = "auto",
    ) -> None:
        model = restorer.model
        if model.channels != pairs.channels:
            raise EnsembleError(
                f"the network takes {model.channels} colour channels; the images have {pairs.channels}."
            )
        self.model, self.settings, self._restorer = model, settings, restorer
        self.device = resolve_device(device)
        self.step = 0
        self.losses: list[float] = []
        self.pairs, self.held_out = pairs.split(settings.validation)
        restorer.prepare_training(self.device)
        self._trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._averaged = None
        if settings.average:
            average = get_ema_multi_avg_fn(settings.average)  # type: ignore[no-untyped-call]
            self._averaged = AveragedModel(model, multi_avg_fn=average)
        self._optimizer = torch.optim.AdamW(
            self._trained.values(), lr=settings.learning_rate, weight_decay=1e-4
        )

    def extend(self, steps: int) -> None:
        """Set the total number of steps.

        Parameters
        ----------
        steps : int
            More than were made so far.

        Raises
        ------
        EnsembleError
            If they are completed already.
        """
        if steps <= self.step:
            raise EnsembleError(f"All {self.step} steps are completed; give more steps to continue.")
        self.settings = replace(self.settings, steps=steps)

    def run(self) -> Iterator[TrainingStep]:
        """Train to the last step; yield a :class:`TrainingStep` after each. Stop iterating to cancel.

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

    @property
    def applied(self) -> Model:
        """The model that is applied and saved: the trained one, or the average of its weights."""
        averaged = self._averaged
        return self.model if averaged is None else cast("Model", averaged.module)

    def validate(self, model: Model | None = None, batches: int = 4) -> float:
        """Return the mean loss of a model on the held-out pairs, without an effect on the training.

        Parameters
        ----------
        model : Model, optional
            Default: :attr:`applied`.
        batches : int
            Number of batches, which are the same in every call.

        Returns
        -------
        float
        """
        assert self.held_out is not None
        model, settings, losses = model or self.applied, self.settings, []
        model.to(self.device)
        for number in range(batches):
            rng = np.random.default_rng([settings.seed, 2**31, number])
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            images = self.held_out.batch(rng, settings.batch, settings.patch, self.model.multiple)
            degraded, clean = (each.to(self.device) for each in images)
            with torch.no_grad():
                losses.append(float(model.loss(degraded, clean, generator, 1.0)))
        return float(np.mean(losses))

    def restorer(self) -> LearnedRestorer:
        """Return the restorer as trained so far; it shares the model with the trainer."""
        return replace(
            self._restorer,
            model=self.applied,
            trained_steps=self.step,
            data_range=self.pairs.data_range,
            device=str(self.device),
        )

    def save(self, path: str | Path) -> None:
        """Save a checkpoint, which can be applied and resumed.

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
        tensors = restorer.tensors() | self._state()
        write_checkpoint(path, tensors, restorer.header() | {"training": asdict(self.settings)})

    def _state(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint that only a resumed training needs."""
        tensors = {"training.losses": torch.tensor(self.losses, dtype=torch.float64)}
        for name, parameter in self._trained.items():
            if self._averaged is not None:
                tensors[f"training.weights.{name}"] = parameter
            moments = self._optimizer.state.get(parameter, {})
            for moment in _MOMENTS:
                tensors[f"optimizer.{moment}.{name}"] = moments.get(moment, torch.zeros_like(parameter))
        return tensors

    def restore_state(self, step: int, tensors: Mapping[str, Tensor], where: str) -> None:
        """Restore the state of the optimizer that :meth:`save` wrote.

        Parameters
        ----------
        step : int
            Number of steps made.
        tensors : mapping of str to tensor
            Tensors of the checkpoint.
        where : str
            Name of the checkpoint in messages.

        Raises
        ------
        EnsembleError
            If the state is incomplete, or does not fit the network.
        """
        wanted = self._state() | {"training.losses": torch.zeros(step, dtype=torch.float64)}
        given = {name: each for name, each in tensors.items() if name.startswith(("optimizer.", "training."))}
        kinds = [{name: (each.shape, each.dtype) for name, each in one.items()} for one in (wanted, given)]
        if kinds[0] != kinds[1]:
            raise EnsembleError(
                f"{where} has no complete training state for its network; it can be applied, but not resumed."
            )
        self.step, self.losses = step, given["training.losses"].tolist()
        for name, parameter in self._trained.items():
            if self._averaged is not None:
                parameter.data.copy_(given[f"training.weights.{name}"])
            moments = {each: given[f"optimizer.{each}.{name}"].to(self.device).clone() for each in _MOMENTS}
            self._optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
        if self._averaged is not None:
            self._averaged.n_averaged.fill_(step)

    def _advance(self) -> float:
        """Make a step and return its loss."""
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
                f"the training diverged at step {self.step + 1}; choose a lower learning rate "
                f"({settings.learning_rate})."
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        self._optimizer.step()
        if self._averaged is not None:
            self._averaged.update_parameters(self.model)
        self.step += 1
        self.losses.append(value)
        return value

    def _preview(self) -> NDArray[np.float32]:
        """Restore the centre of the first degraded plane."""
        plane = self.pairs.degraded[0]
        cut = tuple(slice(max(n - 256, 0) // 2, max(n - 256, 0) // 2 + 256) for n in plane.shape[1:])
        restorer = replace(self.restorer(), channel_axis=0, data_range=(0.0, 1.0))
        image = plane[(slice(None), *cut)]
        return restorer.restore_unit(image, 1.0, no_progress)


def common_range(
    pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]], given: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Return the range of all images of all pairs; see :func:`~napari_ensir.restorers.base.data_range_of`.

    Examples
    --------
    >>> common_range([(np.zeros((2, 2), np.uint16), np.array([[3, 5], [4, 4]]))])
    (0.0, 5.0)
    """
    ranges = [data_range_of(image, given) for pair in pairs for image in pair]
    return min(each[0] for each in ranges), max(each[1] for each in ranges)


def _planes(
    image: NDArray[Any], channel_axis: int | None, low: float, high: float
) -> list[NDArray[np.float32]]:
    """Planes (channels, rows, columns) of an image, scaled to 0..1."""
    unit = (np.subtract(image, low, dtype=np.float64) / (high - low)).astype(np.float32)
    unit = channels_first(unit, channel_axis)
    return [np.ascontiguousarray(unit[(slice(None), *index)]) for index in np.ndindex(unit.shape[1:-2])]
