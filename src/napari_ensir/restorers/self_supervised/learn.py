"""Learning lookup tables from noisy images alone.

A prediction that does not see a pixel has an error that is uncorrelated with the noise of that pixel, if
the noise is independent from pixel to pixel (Batson and Royer 2019, arXiv 1901.11365). The noisy image is
to such predictions what a second exposure is to ordinary results: a reference whose noise adds the same
number to every squared error, so that it changes no weight of least squares.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from napari_ensir.ensemble.arrays.parallel import scaled_progress
from napari_ensir.ensemble.fit import FitSession
from napari_ensir.ensemble.scoring.scores import verdict
from napari_ensir.restorers.base import as_restorer, check_image, with_channel_axis
from napari_ensir.restorers.self_supervised.j_invariant import restore_checked
from napari_ensir.restorers.self_supervised.reference import (
    LEARN_KEYWORDS,
    REFERENCE_KEYWORDS,
    BlindReference,
    blind_reference,
)
from napari_ensir.settings import SHRINKAGE, BlindSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import ArrayLike, NDArray

    from napari_ensir.ensemble.lut.lut import WeightLUT
    from napari_ensir.ensemble.scoring.scores import NoisyScores
    from napari_ensir.restorers.base import AnyRestorer, Progress


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
    shrinkage: float | Literal["auto"] = SHRINKAGE,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> WeightLUT:
    """Learn from noisy images alone how far to trust each restorer at each intensity.

    If the noise is white, one pixel in ``stride`` x ``stride`` is hidden, the image is restored, the
    results at the hidden pixels are kept, and this is repeated for other pixels; each restorer also runs
    once with no pixel hidden. Weights are those of least squares of the predictions against the noisy
    pixels, and of the ordinary results against the noisy pixels minus an estimate of their noise
    (:mod:`napari_ensir.restorers.self_supervised.noise`), with equal weight.

    If the noise of neighbouring pixels is significantly correlated, hidden pixels would favour restorers
    that keep it. Then the errors are those of Stein's unbiased risk estimate
    (:mod:`napari_ensir.restorers.self_supervised.sure`), which takes two runs of each restorer, and the
    shrinkage is 20 times as large. The report states which was used and why. The table is meant for the
    restorers' ordinary results in both cases.

    The method is for denoising: the noisy image has to be the truth plus noise of mean zero. Blur or rain
    would be kept. It works best where a pixel can be predicted from its neighbours; finer structures make
    sharp restorers seem worse than they are.

    Parameters
    ----------
    images : an array, or a sequence of arrays
        Noisy images of any integer or float dtype, with at least two axes beside the channels. Axes before
        the last two count planes, each of which has its own grid of hidden pixels.
    restorers : sequence of M restorers
        Any of :mod:`napari_ensir.restorers`, networks included, or functions from an image to one of its
        shape. Each uses its own device and tile size.
    names : M strings, optional
        Default: the names of the restorers.
    stride : int
        Distance of hidden pixels along rows and columns, 2 or more. A small stride needs fewer runs per
        pixel, but more neighbours of a hidden pixel are replaced.
    offsets : int
        Number of runs with hidden pixels. Each hides other pixels, ``offsets / stride ** 2`` of all together.
    bin_width, data_range, shrinkage
        As for :func:`napari_ensir.fit_lut`.
    channel_axis : int, optional
        Axis of the channels, for the restorers as well. Channels are hidden together, and each has its own
        table. Default: the restorers' own ``channel_axis``; channels are hidden together and pooled.
    mask : array, or sequence of arrays (or None), one per image, optional
        Where to learn: bool, of the image's shape, with or without the channel axis.
    device : str or torch.device
        Device for counting pixels.
    seed : int
        Seed of the order in which pixels are hidden, or of the noise added. Equal seeds give equal tables.
    progress
        Called with (done, total, text); an exception that it raises cancels the work.

    Returns
    -------
    WeightLUT
        Its report has ``"truth_noise": "unknown"``, the ``"criterion"`` and its ``"reason"`` under
        ``"blind"``, and under ``"scores"`` the scores of the noisy input, the candidates, their average and
        the ensemble, the latter on parts of the images that were held out, with a one-sentence
        ``"summary"``.

    Raises
    ------
    EnsembleError
        If an image cannot be used, a name is missing, or a number is outside its limits.

    Warns
    -----
    CorrelatedNoiseWarning
        If the noise of neighbouring pixels is correlated, so that SURE is used. The report's ``"warnings"``
        have the sentence as well.

    References
    ----------
    J. Batson and L. Royer. Noise2Self: Blind Denoising by Self-Supervision. ICML 2019, arXiv 1901.11365.

    S. Ramani, T. Blu and M. Unser. Monte-Carlo SURE: A Black-Box Optimization of Regularization Parameters
    for General Denoising Algorithms. IEEE Transactions on Image Processing 17, 2008.

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
        images, restorers, names, mask=mask, progress=progress, **given.keywords(*REFERENCE_KEYWORDS)
    )
    return reference.learn(progress=progress, **given.keywords(*LEARN_KEYWORDS))


@dataclass(frozen=True)
class BlindResult:
    """Result of :func:`restore_and_combine`.

    Attributes
    ----------
    candidates : tuple of M float32 arrays of the image's shape
    ensemble : float32 array of that shape
    lut : WeightLUT
    reference : BlindReference or None
        Reference set that the table was learned from; None if that was a second exposure.
    scores : NoisyScores
        Scores of the candidates, their average, the ensemble and the noisy input. The ensemble is scored on
        parts of the image that its weights were not learned from.
    """

    candidates: tuple[NDArray[np.float32], ...]
    ensemble: NDArray[np.float32]
    lut: WeightLUT
    reference: BlindReference | None
    scores: NoisyScores

    @property
    def reason(self) -> str:
        """What the restorers are scored by."""
        if self.reference is None:
            return "The restorers are scored by the second exposure."
        return self.reference.reason

    @property
    def summary(self) -> str:
        """One sentence that states whether the ensemble is better than the best candidate."""
        return verdict(self.scores)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the candidates."""
        return self.lut.names


def restore_and_combine(
    image: ArrayLike,
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None = None,
    *,
    second_exposure: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> BlindResult:
    """Restore a noisy image in several ways and combine the results, without a ground truth.

    Parameters
    ----------
    image : array
        One noisy image.
    restorers, names, mask, progress
        As for :func:`learn_blind`.
    second_exposure : array, optional
        Another noisy image of the same field, with independent noise. It is the reference instead of the
        image itself, so that each restorer runs once.
    **settings
        ``stride``, ``offsets``, ``seed``, ``bin_width``, ``shrinkage``, ``channel_axis``, ``data_range``,
        ``device``: as for that function.

    Returns
    -------
    BlindResult
        The ``candidates``, their ``ensemble``, the ``lut`` that combined them, its ``scores`` and their
        ``summary``.

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
    >>> combined.scores.names
    ('Gaussian', 'Median', 'average', 'ensemble', 'noisy input')
    """
    given = BlindSettings(**settings)
    masks = None if mask is None else [mask]
    if second_exposure is not None:
        return _combine_by_exposure(image, second_exposure, restorers, names, masks, progress, given)
    reference = blind_reference(
        [image],
        restorers,
        names,
        mask=masks,
        progress=progress,
        keep_restored=True,
        **given.keywords(*REFERENCE_KEYWORDS),
    )
    lut, scores = reference.learn_with_scores(**given.keywords(*LEARN_KEYWORDS))
    (candidates,) = reference.restored
    ensemble = lut.apply(candidates, given.device, check=False)
    return BlindResult(candidates, ensemble, lut, reference, scores)


def _combine_by_exposure(
    image: ArrayLike,
    second: ArrayLike,
    restorers: Sequence[AnyRestorer],
    names: Sequence[str] | None,
    masks: Any,
    progress: Progress | None,
    given: BlindSettings,
) -> BlindResult:
    checked, n = check_image(image, given.channel_axis), len(restorers)
    chosen = [with_channel_axis(as_restorer(each), given.channel_axis) for each in restorers]
    candidates = tuple(
        restore_checked(checked, each, scaled_progress(progress, number, n))
        for number, each in enumerate(chosen)
    )
    session = FitSession(
        [(candidates, second)],
        names or [each.name for each in chosen],
        mask=masks,
        method="least-squares",
        truth_noise="unknown",
        progress=progress,
        **given.keywords(*LEARN_KEYWORDS, "channel_axis"),
    )
    session.collect(fine=False)
    lut = session.estimate()
    scores = session.compare_with_noisy_truth()
    report = lut.report | {"scores": scores.to_dict() | {"summary": verdict(scores)}}
    lut = replace(lut, report=report)
    ensemble = lut.apply(candidates, given.device, check=False)
    return BlindResult(candidates, ensemble, lut, None, scores)
