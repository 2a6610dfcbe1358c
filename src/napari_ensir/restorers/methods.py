"""Restorers that need no file: the classical ones, and Noise2Void trained on the image that it restores."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from napari_ensir.restorers.base import ImageRestorer, Progress
from napari_ensir.restorers.classical import CLASSICAL
from napari_ensir.settings import check_settings, device_setting, seed_setting, setting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_ensir.restorers.base import FloatImage


@dataclass(frozen=True, kw_only=True)
class Noise2VoidFromImage(ImageRestorer):
    """Noise2Void, trained on the image that it restores; see :mod:`.training.noise2void`.

    The time depends on the number of steps, hardly on the size of the image. The noise must be independent
    from pixel to pixel.
    """

    title: ClassVar[str] = "Noise2Void"
    description: ClassVar[str] = (
        "Learns from this image itself, without a clean image: trains a small network, which takes about "
        "three minutes on one core, whatever the size of the image."
    )

    training_steps: int = setting(
        1500,
        "Number of training steps; the time is proportional to it.",
        title="Training steps",
        limits=(1, 1_000_000),
        step=100,
    )
    width: int = setting(
        32,
        "Number of features at the finest level; a wider network trains more slowly.",
        title="Width",
        limits=(4, 512),
        step=8,
    )
    seed: int = seed_setting()
    device: str = device_setting()

    network: Any = field(default=None, repr=False, compare=False)
    """Trained restorer; None: it is trained when an image is restored. See :meth:`trained_on`."""

    def trained_on(
        self, images: Sequence[NDArray[Any]], progress: Progress | None = None
    ) -> Noise2VoidFromImage:
        """Return a restorer that is trained on images, for these images.

        Parameters
        ----------
        images : arrays
            With the channel axis of the restorer.
        progress
            See :data:`napari_ensir.restorers.base.Progress`; called after each step.

        Returns
        -------
        Noise2VoidFromImage
            The restorer itself if it is trained.
        """
        if self.network is not None:
            return self
        from napari_ensir.restorers.training.recipes import begin_training

        check_settings(self, f"{self.name}: ")
        trainer = begin_training(
            "noise2void",
            images,
            channel_axis=self.channel_axis,
            data_range=self.data_range,
            steps=self.training_steps,
            width=self.width,
            seed=self.seed,
            device=self.device,
        )
        began = time.monotonic()
        for event in trainer.run():
            seconds = (time.monotonic() - began) / event.step * (event.steps - event.step)
            if progress is not None:
                text = f"{self.name}: step {event.step} of {event.steps}, {format_seconds(seconds)} left"
                progress(event.step, event.steps, text)
        return replace(self, data_range=trainer.pairs.data_range, network=trainer.restorer())

    def restore_unit(self, image: FloatImage, scale: float, progress: Progress) -> FloatImage:
        """See :meth:`ImageRestorer.restore_unit`."""
        unit: dict[str, Any] = {"channel_axis": 0, "data_range": (0.0, 1.0)}
        network = replace(replace(self, **unit).trained_on([image], progress).network, **unit)
        restored: FloatImage = network(image, progress=progress if self.network else None)
        return restored


def format_seconds(seconds: float) -> str:
    """Format a duration to a minute, or below two minutes to ten seconds.

    Examples
    --------
    >>> format_seconds(43), format_seconds(301)
    ('about 50 s', 'about 6 min')
    """
    if seconds < 120:
        return f"about {-(-int(seconds) // 10) * 10} s"
    return f"about {-(-int(seconds) // 60)} min"


RESTORERS: Mapping[str, type[Any]] = {**CLASSICAL, "noise2void": Noise2VoidFromImage}
"""Restorers by the keys that scripts and the command line use: the classical ones, and "noise2void".

Each class has a ``title`` and a ``description``; its settings are listed by
:func:`napari_ensir.settings.settings_of`."""
