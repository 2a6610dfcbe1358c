"""A lookup table as an estimator in the way of scikit-learn, which is not needed for it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.ensemble.fit import fit_lut
from napari_ensir.ensemble.scoring.metrics import psnr
from napari_ensir.errors import EnsembleError
from napari_ensir.settings import SHRINKAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from napari_ensir.ensemble.lut.lut import WeightLUT

    Pairs = Iterable[tuple[Sequence[Any], Any]]


@dataclass(kw_only=True, eq=False, repr=False)
class LUTEnsemble:
    """Ensemble of candidates by a lookup table, with the methods of a scikit-learn estimator.

    Samples are images: :meth:`fit` takes pairs of candidates and ground truth, :meth:`predict` the candidates
    of one image. :func:`sklearn.base.clone` works; the checks that need a feature matrix do not apply.

    Parameters
    ----------
    method, bin_width, data_range, channel_axis, prior, shrinkage, max_iter, truth_noise, device
        As for :func:`napari_ensir.fit_lut`, which checks them when :meth:`fit` is called.

    Attributes
    ----------
    lut_ : WeightLUT
        The fitted table.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 200, (64, 64)).astype(np.float32)
    >>> noisy = [truth + rng.normal(0, sigma, truth.shape) for sigma in (4, 6)]
    >>> ensemble = LUTEnsemble(method="least-squares", device="cpu").fit([(noisy, truth)])
    >>> ensemble.predict(noisy).shape
    (64, 64)
    >>> ensemble.score([(noisy, truth)]) > 30
    True
    >>> ensemble
    LUTEnsemble(method='least-squares', device='cpu')
    """

    method: str = "auto"
    bin_width: float | Literal["auto"] | None = None
    data_range: tuple[float, float] | None = None
    channel_axis: int | None = None
    prior: Sequence[float] | None = None
    shrinkage: float | Literal["auto"] = SHRINKAGE
    max_iter: int | None = None
    truth_noise: float | Literal["unknown"] | None = None
    device: str | torch.device = "auto"
    lut_: WeightLUT = field(init=False)

    def fit(
        self,
        pairs: Pairs,
        y: None = None,
        *,
        names: Sequence[str] | None = None,
        mask: Sequence[Any] | None = None,
    ) -> LUTEnsemble:
        """Learn the lookup table.

        Parameters
        ----------
        pairs : iterable of (candidates, truth)
        y : None
            Ignored; the ground truth is part of each pair.
        names, mask
            As for :func:`napari_ensir.fit_lut`.

        Returns
        -------
        LUTEnsemble
            This object.

        Raises
        ------
        EnsembleError
            As :func:`napari_ensir.fit_lut`.
        """
        self.lut_ = fit_lut(pairs, names, mask=mask, **self.get_params())
        return self

    def predict(self, candidates: Sequence[Any]) -> Any:
        """Combine the candidates of one image; see :meth:`napari_ensir.WeightLUT.apply`.

        Parameters
        ----------
        candidates : sequence of M arrays
            In the order in which they were fitted.

        Returns
        -------
        array
            float32, of the candidates' shape; a dask array if a candidate is one.

        Raises
        ------
        EnsembleError
            If the table is not fitted, or the candidates do not fit it.
        """
        if not hasattr(self, "lut_"):
            raise EnsembleError("this LUTEnsemble is not fitted; call fit(pairs) first.")
        return self.lut_.apply(candidates, self.device)

    def score(self, pairs: Pairs, y: None = None) -> float:
        """Return the mean PSNR in dB of the ensembles of some images; higher is better.

        The peak is the width of the table's data range. Pixels that are not finite are left out.

        Parameters
        ----------
        pairs : iterable of (candidates, truth)
        y : None
            Ignored.

        Returns
        -------
        float

        Raises
        ------
        EnsembleError
            If the table is not fitted, or the images do not fit it.
        """
        scores = []
        for candidates, truth in pairs:
            image = np.asarray(self.predict(candidates))
            low, high = self.lut_.data_range
            scores.append(psnr(np.asarray(truth), image, high - low))
        if not scores:
            raise EnsembleError("there is no image to score; give at least one pair (candidates, truth).")
        return float(np.mean(scores))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's parameters.

        Parameters
        ----------
        deep : bool
            Has no effect.

        Returns
        -------
        dict
            Values by name.
        """
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init}

    def set_params(self, **params: Any) -> LUTEnsemble:
        """Set parameters.

        Parameters
        ----------
        **params
            Values by name.

        Returns
        -------
        LUTEnsemble
            This object.

        Raises
        ------
        EnsembleError
            If there is no such parameter.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise EnsembleError(f"LUTEnsemble has no parameter {name!r}; it has {', '.join(known)}.")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        given = [each for each in fields(self) if each.init and getattr(self, each.name) is not each.default]
        return f"LUTEnsemble({', '.join(f'{each.name}={getattr(self, each.name)!r}' for each in given)})"
