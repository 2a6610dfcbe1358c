"""Recipes: a model and training settings that suit it on a small machine."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from napari_ensir.devices import resolve_device
from napari_ensir.errors import EnsembleError
from napari_ensir.files.sets import Part, open_set
from napari_ensir.restorers.base import Restorer, with_settings
from napari_ensir.restorers.training.dp_ir import DPIR, FusionModel, denoising_function
from napari_ensir.restorers.training.ir_cm import ConsistencyModel
from napari_ensir.restorers.training.load import KINDS, load_restorer, resume_training
from napari_ensir.restorers.training.models import Denoiser, DenoiserModel, RegressionModel
from napari_ensir.restorers.training.noise2void import Noise2NoiseModel, Noise2VoidModel, noise_of
from napari_ensir.restorers.training.perceptual import vgg_features
from napari_ensir.restorers.training.trainer import (
    Trainer,
    TrainingPairs,
    TrainingSettings,
    common_range,
)
from napari_ensir.settings import TrainSettings

if TYPE_CHECKING:
    from pathlib import Path

    from napari_ensir.restorers.base import Progress
    from napari_ensir.restorers.networks.learned import LearnedRestorer, Model

# Patches of 96 pixels allow a quarter of the steps in the same time and, at a learning rate of 2e-3, reach
# 28.8 dB where these settings reach 31.2 dB (benchmarks/restorers.md).
_UNET = {"steps": 2400, "width": 32, "depth": 3, "batch": 8, "patch": 48, "learning_rate": 1e-3}
_NOISY = _UNET | {"steps": 1500, "batch": 8, "patch": 64}


@dataclass(frozen=True)
class Recipe:
    """A model with the settings to train it.

    Parameters
    ----------
    title, description
        A label and a sentence.
    model
        Class of the model.
    values
        Settings of the training and of the model that differ from the defaults.
    target
        Images that the degraded images are trained with: the title of a control, "" if there are none.
    needs_degraded
        Whether the degraded images are used.
    """

    title: str
    description: str
    model: type[Model]
    values: Mapping[str, Any] = field(default_factory=lambda: _UNET)
    target: str = "Clean"
    needs_degraded: bool = True

    @property
    def restorer(self) -> type[LearnedRestorer]:
        """Class of the restorer that applies the model."""
        return KINDS[self.model.kind][1]

    @property
    def steps(self) -> int:
        """Default number of steps."""
        return int(self.values["steps"])

    @property
    def width(self) -> int:
        """Default number of features."""
        return int(self.values["width"])


RECIPES: dict[str, Recipe] = {
    "regression": Recipe(
        "Regression",
        "A network trained to return the clean image by the mean absolute error. Start here.",
        RegressionModel,
    ),
    "noise2void": Recipe(
        "Noise2Void, no clean image",
        "A denoiser that learns from noisy images alone to predict pixels from their neighbours. The noise "
        "must be independent from pixel to pixel.",
        Noise2VoidModel,
        _NOISY,
        target="",
    ),
    "noise2noise": Recipe(
        "Noise2Noise, two exposures",
        "A denoiser that learns from two noisy exposures of the same field, with independent noise.",
        Noise2NoiseModel,
        _NOISY,
        target="Second exposure",
    ),
    "ir-cm": Recipe(
        "IR-CM, stages 1 and 2",
        "The consistency model: half of the steps on paths from the degraded image, half from the clean one.",
        ConsistencyModel,
    ),
    "ir-cm-1": Recipe(
        "IR-CM, stage 1 only",
        "The consistency model on paths that start at the degraded image.",
        ConsistencyModel,
        _UNET | {"linear_share": 1.0},
    ),
    "ir-cm-2": Recipe(
        "IR-CM, stage 2 only",
        "The consistency model on paths that start at the clean image.",
        ConsistencyModel,
        _UNET | {"linear_share": 0.0},
    ),
    "ir-cm-paper": Recipe(
        "IR-CM, as in the paper",
        "The consistency model with the paper's noisy skip, and with stage 2 from the clean image only.",
        ConsistencyModel,
        _UNET | {"sampled_share": 0.0, "noisy_skip": True},
    ),
    "denoiser": Recipe(
        "Denoiser",
        "A network that removes Gaussian noise of any level, learned from the clean image alone; "
        "DP-IR can use it.",
        DenoiserModel,
        _UNET | {"steps": 1200},
        needs_degraded=False,
    ),
    "dp-ir": Recipe(
        "DP-IR",
        "A small network that combines the images of a restorer and of a denoiser, which are not changed.",
        FusionModel,
        {"steps": 600, "width": 64, "batch": 4, "patch": 32, "learning_rate": 2e-4},
    ),
}
"""Recipes by key."""


def read_training_images(
    paths: Sequence[Path], channel_axis: int | None = None
) -> tuple[list[Any], int | None]:
    """Read the images to train on from one or two images, folders, patterns or Zarr arrays.

    Parameters
    ----------
    paths : one or two paths
        Of the degraded images, of the clean ones with the same names, or of both, in this order.
    channel_axis : int, optional
        Default: that of the files.

    Returns
    -------
    images
        Arrays, or pairs of arrays; see :func:`begin_training`.
    channel_axis : int or None

    Raises
    ------
    EnsembleError
        If an image cannot be read or has no partner.
    """
    axis = open_set({}, {Part.IMAGE: paths[0]}).choose_channel_axis(channel_axis)
    images = open_set({}, dict(zip((Part.IMAGE, Part.TRUTH), paths, strict=False)))
    # Not `load`, since the clean images of DP-IR may be larger.
    pairs = [
        tuple(np.asarray(images.array(n, role)[...]) for role in images.roles) for n in range(len(images))
    ]
    return pairs if len(paths) > 1 else [image for (image,) in pairs], axis


def begin_training(
    recipe: str,
    pairs: Sequence[Any],
    *,
    channel_axis: int | None = None,
    data_range: tuple[float, float] | None = None,
    preview_every: int = 0,
    ir: Restorer | None = None,
    denoiser: Restorer | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Trainer:
    """Make a trainer for a recipe.

    Parameters
    ----------
    recipe
        A key of :data:`RECIPES`.
    pairs
        (degraded, clean) images; for "noise2noise" two exposures. Recipes that learn from one kind of image
        also take images alone: "noise2void" noisy ones, "denoiser" clean ones. For DP-IR, the clean images
        have the size of the restored ones.
    channel_axis
        Colour axis of every image; None if there is none.
    data_range
        See :class:`napari_ensir.restorers.base.ImageRestorer`; None is the range over all images.
    preview_every
        Steps between previews; 0 makes none.
    ir, denoiser
        For DP-IR: the restorer, which is required, and the denoiser (None: :class:`LocalWiener`), which
        :func:`napari_ensir.restorers.training.dp_ir.denoising_function` describes. Neither is changed.
    progress
        Called while the restorer of DP-IR is applied to the degraded images.
    **settings
        Fields of :class:`napari_ensir.settings.TrainSettings`, such as ``steps``, ``width`` and ``device``.

    Returns
    -------
    Trainer
        A trainer that has made no step yet.

    Raises
    ------
    EnsembleError
        If the recipe is unknown, or the images or settings cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> clean = np.random.default_rng(0).random((16, 16))
    >>> trainer = begin_training("denoiser", [clean], steps=1, width=8, device="cpu")
    >>> [event.step for event in trainer.run()]
    [1]
    """
    if recipe not in RECIPES:
        raise EnsembleError(f"there is no training {recipe!r}; choose one of {', '.join(RECIPES)}.")
    if recipe == "dp-ir" and ir is None:
        raise EnsembleError("DP-IR is built around a restorer; give one as its IR network (ir).")
    chosen, given = RECIPES[recipe], TrainSettings(**settings)
    values = {**given.keywords(), **chosen.values}
    values |= {name: getattr(given, name) for name, each in settings.items() if each is not None}
    whole = _training_pairs(chosen, pairs, channel_axis, ir, given.device, data_range, progress)
    data, held_out = whole.split(given.validation) if given.validation else (whole, None)
    values |= {"channels": data.channels, "preview_every": preview_every}
    # The initial weights depend on the seed alone, and torch's global generator is left unchanged.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(given.seed)
        model = _untrained(chosen.model, values, data, denoiser)
    make: Any = chosen.restorer
    if isinstance(model, FusionModel):
        outer = None if isinstance(denoiser, Denoiser) else denoiser
        make = partial(DPIR, ir=cast("Restorer", ir), denoiser=outer)
        if outer is not None:
            model.denoise_with(denoising_function(outer, data.channels, resolve_device(given.device)))
    trainer = Trainer(
        model,
        data,
        _settings_from(TrainingSettings, values),
        make=make,
        device=given.device,
    )
    return _with_extras(trainer, held_out, given.vgg)


def _settings_from(kind: Any, values: Mapping[str, Any]) -> Any:
    """Settings of this class with the values that it has and that are not None."""
    names = [each.name for each in fields(kind)]
    return kind(**{name: values[name] for name in names if values.get(name) is not None})


def _untrained(kind: type[Any], values: dict[str, Any], data: TrainingPairs, denoiser: Any) -> Model:
    """Untrained model for these images."""
    if issubclass(kind, Noise2VoidModel):
        values = values | noise_of(data)
    if kind is not FusionModel:
        model: Model = kind(_settings_from(kind.settings_type, values))
        return model
    d = copy.deepcopy(denoiser.model) if isinstance(denoiser, Denoiser) else None
    if d is not None and d.channels != data.channels:
        raise EnsembleError(
            f"the denoiser takes {d.channels} colour channels and the images have {data.channels}."
        )
    return FusionModel.for_denoiser(d, _settings_from(FusionModel.settings_type, values))


def _training_pairs(
    recipe: Recipe,
    pairs: Any,
    channel_axis: int | None,
    ir: Restorer | None,
    device: str,
    data_range: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> TrainingPairs:
    """Training pairs of a recipe; those of DP-IR are the images restored by `ir` and the clean ones."""
    if not (recipe.target and recipe.needs_degraded):
        pairs = [pair if isinstance(pair, tuple) else (pair, pair) for pair in pairs]
    if recipe.model is FusionModel and ir is not None:
        data_range = common_range([(np.asarray(a), np.asarray(b)) for a, b in pairs], data_range)
        apply = with_settings(ir, channel_axis=channel_axis, device=device)
        pairs = [(apply(degraded, progress=progress), clean) for degraded, clean in pairs]
    return TrainingPairs.from_arrays(pairs, channel_axis=channel_axis, data_range=data_range)


def _with_extras(trainer: Trainer, held_out: TrainingPairs | None, vgg: str | None) -> Trainer:
    trainer.held_out = held_out
    if vgg is not None and isinstance(trainer.model, ConsistencyModel):
        trainer.model.compare_features(vgg_features(vgg, trainer.device))
    return trainer


def continue_training(
    path: str | Path,
    pairs: Sequence[Any],
    *,
    channel_axis: int | None = None,
    preview_every: int = 0,
    device: str = "auto",
    ir: Restorer | None = None,
    denoiser: Restorer | None = None,
    validation: float = 0.0,
    vgg: str | None = None,
    recipe: str | None = None,
    progress: Progress | None = None,
) -> Trainer:
    """Make a trainer that continues from a checkpoint.

    With the same images, the result equals that of an uninterrupted training. Other images are scaled to the
    checkpoint's data range.

    Parameters
    ----------
    path
        A checkpoint that :meth:`Trainer.save` wrote.
    pairs, channel_axis, preview_every, progress
        As in :func:`begin_training`.
    device
        See :func:`napari_ensir.devices.resolve_device`.
    ir, denoiser
        The restorer and the denoiser of DP-IR, where the checkpoint stores only a name.
    validation
        As in :class:`napari_ensir.settings.TrainSettings`; 0: the share of the checkpoint.
    vgg
        File of the weights of a VGG-16 for the perceptual loss of IR-CM, which no checkpoint contains.
    recipe
        A key of :data:`RECIPES` that the checkpoint must be of. None: any.

    Returns
    -------
    Trainer

    Raises
    ------
    EnsembleError
        As in :func:`napari_ensir.restorers.training.load.resume_training`, or if the checkpoint is of another
        recipe or keeps another share of the images for validation.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> clean = np.random.default_rng(0).random((16, 16))
    >>> trainer = begin_training("denoiser", [clean], steps=2, width=8, device="cpu")
    >>> next(trainer.run()).step
    1
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trainer.save(f"{folder}/mine.safetensors")
    ...     again = continue_training(f"{folder}/mine.safetensors", [clean], device="cpu")
    >>> [event.step for event in again.run()]
    [2]
    """
    restorer = load_restorer(path, device=device, ir=ir, denoiser=denoiser)
    same = [key for key, each in RECIPES.items() if each.restorer is type(restorer)]
    if recipe is not None and recipe not in same:
        raise EnsembleError(f"{path} is a training of {' or '.join(same)}, not of {recipe}.")
    inner = restorer.ir if isinstance(restorer, DPIR) else None
    data = _training_pairs(
        RECIPES[same[0]], pairs, channel_axis, inner, device, restorer.data_range, progress
    )
    trainer = resume_training(path, data, device=device, ir=ir, denoiser=denoiser)
    share, held_out = trainer.settings.validation, None
    if validation not in (0, share):
        raise EnsembleError(f"{path} keeps {share:g} of the images for validation, not {validation:g}.")
    if share:
        trainer.pairs, held_out = data.split(share)
    trainer.settings = replace(trainer.settings, preview_every=preview_every)
    return _with_extras(trainer, held_out, vgg)


def snapshot(trainer: Trainer) -> Any:
    """Return the restorer as trained so far, with a copy of the model."""
    restorer = trainer.restorer()
    return replace(restorer, model=copy.deepcopy(restorer.model))
