"""Loading and resuming of restorers trained with this package."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_ensir.devices import resolve_device
from napari_ensir.errors import EnsembleError, MissingRestorer
from napari_ensir.files.tensors import brief
from napari_ensir.restorers.classical import CLASSICAL
from napari_ensir.restorers.networks.checkpoint import (
    load_weights,
    parse_settings,
    read_checkpoint,
    strip_prefix,
)
from napari_ensir.restorers.training.dp_ir import DPIR, FusionModel, denoising_function
from napari_ensir.restorers.training.ir_cm import IRCM, ConsistencyModel
from napari_ensir.restorers.training.models import Denoiser, DenoiserModel, Regression, RegressionModel
from napari_ensir.restorers.training.noise2void import (
    Noise2Noise,
    Noise2NoiseModel,
    Noise2Void,
    Noise2VoidModel,
)
from napari_ensir.restorers.training.trainer import Trainer, TrainingPairs, TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from napari_ensir.restorers.base import Restorer
    from napari_ensir.restorers.networks.learned import LearnedRestorer, Model

KINDS: dict[str, tuple[type[Model], type[LearnedRestorer]]] = {
    "regression": (RegressionModel, Regression),
    "ir-cm": (ConsistencyModel, IRCM),
    "denoiser": (DenoiserModel, Denoiser),
    "dp-ir": (FusionModel, DPIR),
    "noise2void": (Noise2VoidModel, Noise2Void),
    "noise2noise": (Noise2NoiseModel, Noise2Noise),
}
"""Model and restorer class of each kind."""


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
    parts = {"ir": ir, "denoiser": denoiser}
    return _restorer(tensors, header, str(path), parts, channel_axis=channel_axis, device=device)


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
    restorer = _restorer(tensors, header, where, {"ir": ir, "denoiser": denoiser}, device=device)
    if restorer.data_range != pairs.data_range:
        raise EnsembleError(
            f"{where} was trained on the data range {restorer.data_range}; the images have "
            f"{pairs.data_range}. Give the checkpoint's data range."
        )
    settings = parse_settings(TrainingSettings, header.get("training"), where)
    make: Callable[..., LearnedRestorer] = type(restorer)
    if isinstance(restorer, DPIR):
        make = partial(DPIR, ir=restorer.ir, denoiser=restorer.denoiser)
        if restorer.denoiser is not None:
            function = denoising_function(restorer.denoiser, pairs.channels, resolve_device(device))
            restorer.model.denoise_with(function)
    trainer = Trainer(restorer.model, pairs, settings, make=make, device=device)
    trainer.restore_state(restorer.trained_steps, tensors, where)
    return trainer


def _restorer(
    tensors: Mapping[str, Tensor],
    header: Mapping[str, Any],
    where: str,
    parts: Mapping[str, Restorer | None] | None = None,
    *,
    channel_axis: int | None = None,
    device: str = "auto",
) -> LearnedRestorer:
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise EnsembleError(
            f"{where} is of the unknown kind {brief(kind)}; known kinds are {', '.join(KINDS)}."
        )
    model_type, restorer_type = KINDS[kind]
    settings = parse_settings(model_type.settings_type, header.get("settings"), where)
    step, data_range = header.get("step"), _data_range(header.get("data_range"), where)
    if type(step) is not int or step < 0:
        raise EnsembleError(f"{where}: step is {brief(step)}; it must be a number of steps.")
    prefixes = ("model.", "optimizer.", "training.") + (("ir.", "denoiser.") if kind == "dp-ir" else ())
    if strays := [name for name in tensors if not name.startswith(prefixes)]:
        raise EnsembleError(f"{where}: tensor {strays[0][:80]} is unknown.")
    with torch.device("meta"):
        model = model_type(settings)
    load_weights(model, strip_prefix(tensors, "model."), where)
    inner: dict[str, Any] = {}
    for part in ("ir", "denoiser") if kind == "dp-ir" else ():
        inner[part] = (parts or {}).get(part)
        if inner[part] is None and (part == "ir" or part in header):
            stored = strip_prefix(tensors, f"{part}.")
            inner[part] = _load_described(header.get(part), stored, where, device, part)
    return restorer_type(
        model=model,
        trained_steps=step,
        data_range=data_range,
        channel_axis=channel_axis,
        device=device,
        **inner,
    )


def _load_described(
    entry: object, tensors: Mapping[str, Tensor], where: str, device: str, part: str
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
    kind = CLASSICAL.get(str(entry.get("method")))
    settings = entry.get("settings")
    if kind is None or not isinstance(settings, dict):
        raise EnsembleError(f"{where}: the classical restorer {brief(entry.get('method'))} is unknown.")
    known = asdict(kind())
    data_range = _data_range(settings.get("data_range"), where)
    settings = settings | {"data_range": None}
    # A setting that is None by default may also hold a number.
    number = (int, float, type(None))
    wanted = {name: number if value is None else type(value) for name, value in known.items()}
    if settings.keys() != known.keys() or not all(isinstance(settings[n], t) for n, t in wanted.items()):
        raise EnsembleError(f"{where}: the settings of {kind.title} do not match its fields.")
    try:
        return kind(**settings | {"data_range": data_range})
    except EnsembleError as error:
        raise EnsembleError(f"{where}: {error}") from error


def _data_range(value: object, where: str) -> tuple[float, float] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(type(each) in (int, float) for each in value):
        try:
            low, high = float(value[0]), float(value[1])
        except OverflowError:  # JSON allows integers of any size
            low = high = float("inf")
        if np.isfinite([low, high]).all() and low < high:
            return low, high
    raise EnsembleError(
        f"{where}: the data range is {brief(value)}; it must be two numbers, low before high."
    )
