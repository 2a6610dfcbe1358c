"""Learns from noisy images alone, with restorers that did not see the pixels they are judged by.

What is called to learn, and to restore and combine in one go. The pairs that are learned from are made in
:mod:`.blind_pairs`, weights estimated in :mod:`napari_ensir.ensemble`.

The error of a prediction that did not see a pixel and that pixel's own noise are uncorrelated, where the
noise of a pixel says nothing of its neighbours' (Batson and Royer 2019, arXiv 1901.11365). So the noisy image
is to these predictions what a second exposure is to ordinary ones: a reference whose noise changes every
squared error by the same number, and with it no weight of least squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from napari_ensir.ensemble.arrays.image_set import check_names
from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.restorers.self_supervised.j_invariant import restore_checked
from napari_ensir.restorers.self_supervised.reference import (
    HIDING,
    LEARNING,
    BlindReference,
    CorrelatedNoiseWarning,
    blind_reference,
    images_of,
    restorers_of,
)
from napari_ensir.settings import BlindSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import ArrayLike, NDArray

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.restorers.base import AnyRestorer, Progress

__all__ = [
    "BlindKeywords",
    "BlindReference",
    "Combined",
    "CorrelatedNoiseWarning",
    "blind_reference",
    "learn_blind",
    "restore_and_combine",
    "restore_and_refer",
]


class BlindKeywords(TypedDict, total=False):
    """The fields of :class:`~napari_ensir.settings.BlindSettings`, as keywords."""

    stride: int
    offsets: int
    seed: int
    bin_width: float | Literal["auto"] | None
    shrinkage: float | Literal["auto"]
    channel_axis: int | None
    data_range: tuple[float, float] | None
    device: str


def learn_blind(
    images: ArrayLike | Sequence[ArrayLike],
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None = None,
    *,
    stride: int = 6,
    offsets: int = 6,
    bin_width: float | Literal["auto"] | None = None,
    data_range: tuple[float, float] | None = None,
    channel_axis: int | None = None,
    mask: ArrayLike | Sequence[ArrayLike | None] | None = None,
    shrinkage: float | Literal["auto"] = 1000.0,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> WeightLUT:
    """Learn from noisy images alone how far to trust each restorer at each intensity.

    Hides one pixel in ``stride`` x ``stride``, restores, keeps what each restorer makes of the hidden pixels,
    and repeats that for other pixels; restores once with no pixel hidden. Then least squares of the hidden
    pixels' predictions against the noisy pixels, and of the ordinary ones against the noisy pixels with as
    much of their noise taken off as can be told (:mod:`.noise_told`), both counting alike. The table is meant
    for the restorers' ordinary results.

    It is for denoising: a noisy image is noise about the truth. An image that is blurred, or behind rain, is
    about something else, and would teach to leave it so. It works best where a pixel can be guessed from
    its neighbours; structures finer than that make sharp restorers look worse than they are. And
    the noise must not be correlated between pixels; a warning is given where it shows in the image.

    Parameters
    ----------
    images : an array, or a sequence of arrays
        Noisy images of any integer or float dtype, with at least two axes beside the channels. Axes before
        the last two count planes, each of which has a grid of its own.
    restorers : sequence of M restorers
        Any of :mod:`napari_ensir.restorers`, networks included, or functions from an image to one of its
        shape. They compute where, and in tiles of the size, that each is set to.
    names : M strings, optional
        None: the restorers' own.
    stride : int
        Pixels from one hidden pixel to the next along rows and columns, 2 or more. Nearer ones cost fewer
        runs per pixel, and spoil each other's surroundings more.
    offsets : int
        How often each restorer runs with pixels hidden: each run hides others, so ``offsets / stride ** 2``
        of all.
    bin_width, data_range, shrinkage
        As for :func:`napari_ensir.fit_lut`.
    channel_axis : int, optional
        Axis of the channels: hidden together, told to the restorers, and each with a table of its own. None:
        channels are hidden together along the restorers' own ``channel_axis``, and pooled.
    mask : array, or sequence of arrays (or None), one per image, optional
        Where to learn: bool, of the image's shape, the channel axis left out or not.
    device : str or torch.device
        Where to count pixels.
    seed : int
        Of the order in which pixels are hidden; the same one gives the same table.
    progress
        Called with (done, total, text); what it raises stops the work and passes through.

    Returns
    -------
    WeightLUT
        Its report says ``"truth_noise": "unknown"``, as ``"blind"`` how pixels were hidden, and as
        ``"scores"`` what can be said of the candidates, their average and the ensemble.

    Raises
    ------
    EnsembleError
        If an image cannot be used, a name is missing, or a number is out of its limits.

    Warns
    -----
    CorrelatedNoiseWarning
        If the noise of neighbouring pixels is correlated. The report's ``"warnings"`` have the sentence too.

    References
    ----------
    J. Batson and L. Royer. Noise2Self: Blind Denoising by Self-Supervision. ICML 2019, arXiv 1901.11365.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir.restorers.classical import Gaussian
    >>> rows, columns = np.mgrid[:60, :60]
    >>> noisy = 100 + rows + np.random.default_rng(0).normal(0, 9, rows.shape)
    >>> restorers = {"as it is": Gaussian(sigma=0.1), "smooth": Gaussian(sigma=2)}
    >>> lut = learn_blind(noisy, list(restorers.values()), list(restorers), device="cpu")
    >>> bool(lut.weights_for((130, 130))[1] > 0.9)
    True
    """
    given = BlindSettings(
        stride=stride,
        offsets=offsets,
        seed=seed,
        bin_width=bin_width,
        shrinkage=shrinkage,
        channel_axis=channel_axis,
        data_range=data_range,
        device=str(device),
    )
    reference = blind_reference(
        images, restorers, names, mask=mask, progress=progress, **given.keywords(*HIDING)
    )
    return reference.learn(progress=progress, **given.keywords(*LEARNING))


@dataclass(frozen=True)
class Combined:
    """What :func:`restore_and_combine` makes of a noisy image.

    Attributes
    ----------
    candidates : tuple of M float32 arrays of the image's shape
    ensemble : float32 array of that shape
    lut : WeightLUT
    reference : BlindReference
        What the table was learned from; scores and rankings can be made of it.
    """

    candidates: tuple[NDArray[np.float32], ...]
    ensemble: NDArray[np.float32]
    lut: WeightLUT
    reference: BlindReference

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the candidates."""
        return self.lut.names


def restore_and_combine(
    image: ArrayLike,
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None = None,
    *,
    mask: ArrayLike | None = None,
    progress: Progress | None = None,
    **settings: Unpack[BlindKeywords],
) -> Combined:
    """Restore a noisy image in several ways and combine the results, with nothing but the image.

    Parameters
    ----------
    image : array
        One noisy image.
    restorers, names, mask, progress
        As for :func:`learn_blind`.
    **settings
        ``stride``, ``offsets``, ``seed``, ``bin_width``, ``shrinkage``, ``channel_axis``, ``data_range``,
        ``device``: as for that, too.

    Returns
    -------
    Combined
        The ``candidates``, their ``ensemble``, the ``lut`` that combined them, and the ``reference`` it was
        learned from.

    Raises
    ------
    EnsembleError
        As :func:`learn_blind`.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir.restorers.classical import Gaussian, Median
    >>> noisy = np.random.default_rng(0).normal(100, 9, (48, 60))
    >>> combined = restore_and_combine(noisy, [Gaussian(), Median()], device="cpu")
    >>> combined.names, combined.ensemble.shape
    (('Gaussian', 'Median'), (48, 60))
    """
    given = BlindSettings(**settings)
    masks = None if mask is None else [mask]
    (candidates,), reference = restore_and_refer(
        [image], restorers, names, settings=given, masks=masks, progress=progress
    )
    lut = reference.learn(**given.keywords(*LEARNING))
    ensemble = lut.apply(candidates, given.device)
    return Combined(candidates, ensemble, lut, reference)


def restore_and_refer(
    images: Sequence[ArrayLike],
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None = None,
    *,
    settings: BlindSettings | None = None,
    masks: Sequence[ArrayLike | None] | None = None,
    progress: Progress | None = None,
) -> tuple[list[tuple[NDArray[np.float32], ...]], BlindReference]:
    """Restore noisy images, and make a reference of them without restoring any of them again.

    Parameters
    ----------
    images, restorers, names, masks, progress
        As for :func:`learn_blind`.
    settings : BlindSettings, optional
        How pixels are hidden.

    Returns
    -------
    candidates : for each image M float32 arrays of its shape
    reference : BlindReference

    Raises
    ------
    EnsembleError
        As :func:`learn_blind`.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_ensir.restorers.classical import Gaussian, Median
    >>> noisy = np.random.default_rng(0).normal(100, 9, (48, 60))
    >>> ((gaussian, median),), reference = restore_and_refer([noisy], [Gaussian(), Median()])
    >>> median.shape, reference.names
    ((48, 60), ('Gaussian', 'Median'))
    """
    given = settings or BlindSettings()
    arrays = images_of(images, given.channel_axis)
    chosen = restorers_of(restorers, given.channel_axis)
    checked = check_names(names or [each.name for each in chosen], len(chosen))
    once = len(arrays) * len(chosen)
    runs = once * (given.offsets + 1)
    candidates = [
        tuple(
            restore_checked(array, restorer, scaled_progress(progress, number * len(chosen) + place, runs))
            for place, restorer in enumerate(chosen)
        )
        for number, array in enumerate(arrays)
    ]
    reference = blind_reference(
        arrays,
        chosen,
        checked,
        mask=masks,
        progress=scaled_progress(progress, once, runs, runs - once),
        restored=candidates,
        **given.keywords(*HIDING),
    )
    return candidates, reference
