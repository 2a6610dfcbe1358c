"""Recipes of training: begin, continue and load a restorer that is trained with this package."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from napari_ensir.errors import EnsembleError, MissingRestorer, errors_of
from napari_ensir.files.sets import Part, open_set
from napari_ensir.files.tensors import brief
from napari_ensir.restorers.base import PARTS, Restorer, check_range, with_settings
from napari_ensir.restorers.classical import CLASSICAL
from napari_ensir.restorers.networks.checkpoint import (
    load_weights,
    parse_settings,
    read_checkpoint,
    strip_prefix,
)
from napari_ensir.restorers.training.dp_ir import DPIR, FusionModel
from napari_ensir.restorers.training.ir_cm import IRCM, ConsistencyModel
from napari_ensir.restorers.training.models import Denoiser, Regression
from napari_ensir.restorers.training.noise2void import Noise2Noise, Noise2Void, noise_of
from napari_ensir.restorers.training.perceptual import vgg_features
from napari_ensir.restorers.training.trainer import Trainer, TrainingPairs, TrainingSettings, common_range
from napari_ensir.settings import TrainSettings, check_settings

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from napari_ensir.restorers.base import Progress
    from napari_ensir.restorers.networks.learned import LearnedRestorer

_TRAINED: tuple[type[LearnedRestorer], ...] = (Regression, IRCM, Denoiser, DPIR, Noise2Void, Noise2Noise)
KINDS = {each.model_type.kind: each for each in _TRAINED}
"""Restorers by the kinds of their models."""

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
    restorer
        Class of the restorer, whose model is trained.
    values
        Settings of the training and of the model that differ from the defaults.
    target
        Images that the degraded images are trained with: the title of a control, "" if there are none.
    needs_degraded
        Whether the degraded images are used.
    """

    title: str
    description: str
    restorer: type[LearnedRestorer]
    values: Mapping[str, Any] = field(default_factory=lambda: _UNET)
    target: str = "Clean"
    needs_degraded: bool = True

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
        Regression,
    ),
    "noise2void": Recipe(
        "Noise2Void, no clean image",
        "A denoiser that learns from noisy images alone to predict pixels from their neighbours. The noise "
        "must be independent from pixel to pixel.",
        Noise2Void,
        _NOISY,
        target="",
    ),
    "noise2noise": Recipe(
        "Noise2Noise, two exposures",
        "A denoiser that learns from two noisy exposures of the same field, with independent noise.",
        Noise2Noise,
        _NOISY,
        target="Second exposure",
    ),
    "ir-cm": Recipe(
        "IR-CM, stages 1 and 2",
        "The consistency model: half of the steps on paths from the degraded image, half from the clean one.",
        IRCM,
    ),
    "ir-cm-1": Recipe(
        "IR-CM, stage 1 only",
        "The consistency model on paths that start at the degraded image.",
        IRCM,
        _UNET | {"linear_share": 1.0},
    ),
    "ir-cm-2": Recipe(
        "IR-CM, stage 2 only",
        "The consistency model on paths that start at the clean image.",
        IRCM,
        _UNET | {"linear_share": 0.0},
    ),
    "ir-cm-paper": Recipe(
        "IR-CM, as in the paper",
        "The consistency model with the paper's noisy skip, and with stage 2 from the clean image only.",
        IRCM,
        _UNET | {"sampled_share": 0.0, "noisy_skip": True},
    ),
    "denoiser": Recipe(
        "Denoiser",
        "A network that removes Gaussian noise of any level, learned from the clean image alone; "
        "DP-IR can use it.",
        Denoiser,
        _UNET | {"steps": 1200},
        needs_degraded=False,
    ),
    "dp-ir": Recipe(
        "DP-IR",
        "A small network that combines the images of a restorer and of a denoiser, which are not changed.",
        DPIR,
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
    data = _training_pairs(chosen, pairs, channel_axis, ir, given.device, data_range, progress)
    values |= {"channels": data.channels, "preview_every": preview_every}
    training = _settings_from(TrainingSettings, values)
    # The initial weights depend on the seed alone, and torch's global generator is left unchanged.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(given.seed)
        restorer = _untrained(chosen, values, data, ir, denoiser)
    return _with_features(Trainer(restorer, data, training, device=given.device), given.vgg)


def _settings_from(kind: Any, values: Mapping[str, Any]) -> Any:
    """Settings of this class with the values that it has and that are not None."""
    names = [each.name for each in fields(kind)]
    return kind(**{name: values[name] for name in names if values.get(name) is not None})


def _untrained(
    recipe: Recipe, values: dict[str, Any], data: TrainingPairs, ir: Restorer | None, denoiser: Any
) -> LearnedRestorer:
    """Untrained restorer for these images."""
    kind: Any = recipe.restorer.model_type
    if issubclass(recipe.restorer, Noise2Void):
        values = values | noise_of(data.split(values["validation"])[0])
    settings = _settings_from(kind.settings_type, values)
    if recipe.restorer is not DPIR:
        return recipe.restorer(model=kind(settings))
    model = copy.deepcopy(denoiser.model) if isinstance(denoiser, Denoiser) else None
    if model is not None and model.channels != data.channels:
        raise EnsembleError(
            f"the denoiser takes {model.channels} colour channels and the images have {data.channels}."
        )
    fusion = FusionModel.for_denoiser(model, settings)
    return DPIR(model=fusion, ir=cast("Restorer", ir), denoiser=denoiser if model is None else None)


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
    if recipe.restorer is DPIR and ir is not None:
        data_range = common_range([(np.asarray(a), np.asarray(b)) for a, b in pairs], data_range)
        apply = with_settings(ir, channel_axis=channel_axis, device=device)
        pairs = [(apply(degraded, progress=progress), clean) for degraded, clean in pairs]
    return TrainingPairs.from_arrays(pairs, channel_axis=channel_axis, data_range=data_range)


def _with_features(trainer: Trainer, vgg: str | None) -> Trainer:
    if vgg is not None and isinstance(trainer.model, ConsistencyModel):
        trainer.model.compare_features(vgg_features(vgg, trainer.device))
    return trainer


def load_restorer(
    path: str | Path,
    *,
    channel_axis: int | None = None,
    device: str = "auto",
    ir: Restorer | None = None,
    denoiser: Restorer | None = None,
) -> LearnedRestorer:
    """Load a restorer that was trained with this package.

    Parameters
    ----------
    path
        A checkpoint. No code in it is run.
    channel_axis, device
        See :class:`LearnedRestorer`.
    ir, denoiser
        Replace the restorer and the denoiser of DP-IR; required where the checkpoint stores only a name.

    Returns
    -------
    LearnedRestorer

    Raises
    ------
    EnsembleError
        If the file is not a checkpoint of this package, or something in it is missing, unknown or does
        not fit.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from napari_ensir.restorers import begin_training
    >>> clean = np.random.default_rng(0).random((16, 16))
    >>> trainer = begin_training("denoiser", [(clean, clean)], steps=1, width=8, device="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trainer.save(f"{folder}/mine.safetensors")
    ...     load_restorer(f"{folder}/mine.safetensors", device="cpu")(clean).shape
    (16, 16)
    """
    tensors, header = read_checkpoint(path)
    settings = {"channel_axis": channel_axis, "device": device, "ir": ir, "denoiser": denoiser}
    return _restorer(tensors, header, str(path), **settings)


def resume_training(
    path: str | Path,
    pairs: TrainingPairs,
    *,
    device: str = "auto",
    ir: Restorer | None = None,
    denoiser: Restorer | None = None,
) -> Trainer:
    """Resume a training from a checkpoint of :meth:`Trainer.save`.

    Parameters
    ----------
    path
        The checkpoint.
    pairs
        Training images; with the same images, the result equals that of an uninterrupted training.
    device, ir, denoiser
        As in :func:`load_restorer`.

    Returns
    -------
    Trainer

    Raises
    ------
    EnsembleError
        As in :func:`load_restorer`; and if the checkpoint cannot be resumed, or the pairs have another data
        range.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from napari_ensir.restorers import TrainingPairs, begin_training
    >>> clean = np.random.default_rng(0).random((16, 16))
    >>> trainer = begin_training("denoiser", [(clean, clean)], steps=2, width=8, device="cpu")
    >>> next(trainer.run()).step
    1
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trainer.save(f"{folder}/mine.safetensors")
    ...     pairs = TrainingPairs.from_arrays([(clean, clean)])
    ...     again = resume_training(f"{folder}/mine.safetensors", pairs, device="cpu")
    >>> [event.step for event in again.run()]
    [2]
    """
    where = str(path)
    tensors, header = read_checkpoint(path)
    restorer = _restorer(tensors, header, where, device=device, ir=ir, denoiser=denoiser)
    if restorer.data_range != pairs.data_range:
        raise EnsembleError(
            f"{where} was trained on the data range {restorer.data_range}; the images have "
            f"{pairs.data_range}. Give the checkpoint's data range."
        )
    settings = parse_settings(TrainingSettings, header.get("training"), where)
    trainer = Trainer(restorer, pairs, settings, device=device)
    trainer.restore_state(restorer.trained_steps, tensors, where)
    return trainer


def _restorer(
    tensors: Mapping[str, Tensor], header: Mapping[str, Any], where: str, **given: Any
) -> LearnedRestorer:
    """Restorer from a checkpoint; `given` are fields of the restorer, and the parts of DP-IR."""
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise EnsembleError(
            f"{where} is of the unknown kind {brief(kind)}; known kinds are {', '.join(KINDS)}."
        )
    restorer_type = KINDS[kind]
    model_type = restorer_type.model_type
    settings = parse_settings(model_type.settings_type, header.get("settings"), where)
    step, data_range = header.get("step"), _data_range(header.get("data_range"), where)
    if type(step) is not int or step < 0:
        raise EnsembleError(f"{where}: step is {brief(step)}; it must be a number of steps.")
    prefixes = ("model.", "optimizer.", "training.") + ("ir.", "denoiser.") * (kind == "dp-ir")
    if strays := [name for name in tensors if not name.startswith(prefixes)]:
        raise EnsembleError(f"{where}: tensor {strays[0][:80]} is unknown.")
    with torch.device("meta"):
        model = model_type(settings)
    load_weights(model, strip_prefix(tensors, "model."), where)
    for part in PARTS:
        restorer = given.pop(part, None)
        if kind == "dp-ir":
            if restorer is None and (part == "ir" or part in header):
                stored = strip_prefix(tensors, f"{part}.")
                restorer = _load_described(header.get(part), stored, where, part, given["device"])
            given[part] = restorer
    return restorer_type(model=model, trained_steps=step, data_range=data_range, **given)


def _load_described(
    entry: object, tensors: Mapping[str, Tensor], where: str, part: str, device: str
) -> Restorer:
    """Restorer from the entry that :func:`.dp_ir.describe` made."""
    if not isinstance(entry, dict):
        raise EnsembleError(f"{where} does not describe the {part} that DP-IR is built around.")
    if entry.get("kind") == "other" and part == "denoiser":
        raise EnsembleError(
            f"{where} was trained with the denoiser {brief(entry.get('name'))}, which it does not contain; "
            "give it, with --denoiser FILE on the command line."
        )
    if entry.get("kind") == "other":
        raise MissingRestorer(where, brief(entry.get("name")), entry.get("name"))
    if entry.get("kind") != "classical":
        return _restorer(tensors, entry, f"{where}, {part}", device=device)
    kind, settings = CLASSICAL.get(str(entry.get("method"))), entry.get("settings")
    if kind is None or not isinstance(settings, dict):
        raise EnsembleError(f"{where}: the classical restorer {brief(entry.get('method'))} is unknown.")
    if settings.keys() != {each.name for each in fields(kind)}:
        raise EnsembleError(f"{where}: the settings of {kind.title} do not match its fields.")
    data_range = _data_range(settings["data_range"], where)
    # DP-IR sets the channel axis, and the noise models are estimated from each image.
    restorer = kind(**settings | {"data_range": data_range, "channel_axis": None, "noise_models": None})
    check_settings(restorer, f"{where}: ")
    return restorer


def _data_range(value: object, where: str) -> tuple[float, float] | None:
    with errors_of(where):
        return None if value is None else check_range(value)


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
        As in :func:`resume_training`, or if the checkpoint is of another
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
    inner = getattr(restorer, "ir", None)
    data = _training_pairs(
        RECIPES[same[0]], pairs, channel_axis, inner, device, restorer.data_range, progress
    )
    trainer = resume_training(path, data, device=device, ir=ir, denoiser=denoiser)
    share = trainer.settings.validation
    if validation not in (0, share):
        raise EnsembleError(f"{path} keeps {share:g} of the images for validation, not {validation:g}.")
    trainer.settings = replace(trainer.settings, preview_every=preview_every)
    return _with_features(trainer, vgg)


def snapshot(trainer: Trainer) -> Any:
    """Return the restorer as trained so far, with a copy of the model."""
    restorer = trainer.restorer()
    return replace(restorer, model=copy.deepcopy(restorer.model))
