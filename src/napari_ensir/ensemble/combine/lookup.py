"""Weights of every bin set, as the combination of candidates needs them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_ensir.ensemble.statistics.binning import DENSE_ENTRIES, Binning, BinSetIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Lookup:
    """Map each bin set, occupied or not, to weights.

    Attributes
    ----------
    binning : Binning
    rows : (R, M + 1) uint16
        Occupied bin sets, sorted: the bin of each candidate, then the channel.
    weights : (R, M) float64
        On the simplex.
    fallback : (C, M) float64
        Weights, by channel, where nothing was learned.
    unseen : "fallback" or "previous"
        Whether an unoccupied bin set takes the fallback, or the weights of the occupied one before it (the
        EnsIR authors' rule).

    Examples
    --------
    >>> from napari_ensir.ensemble.statistics.binning import choose_binning
    >>> rows = np.array([[0, 0, 0]], np.uint16)
    >>> binning = choose_binning(np.uint8, (0, 255), 128)
    >>> lookup = Lookup(binning, rows, np.array([[0.25, 0.75]]), np.array([[0.5, 0.5]]))
    >>> columns = [np.array([0, 1]), np.array([0, 1]), np.array([0, 0])]
    >>> lookup.all_weights[lookup.row_of(columns)].tolist()
    [[0.25, 0.75], [0.5, 0.5]]
    """

    binning: Binning
    rows: NDArray[np.uint16]
    weights: NDArray[np.float64]
    fallback: NDArray[np.float64]
    unseen: Literal["fallback", "previous"] = "fallback"

    @property
    def n_candidates(self) -> int:
        """Number of candidates, M."""
        return int(self.weights.shape[1])

    @property
    def n_channels(self) -> int:
        """Number of channels with their own weights; 1 if pooled."""
        return len(self.fallback)

    @cached_property
    def index(self) -> BinSetIndex:
        """Index from bin sets to rows."""
        return BinSetIndex(self.rows, (self.binning.n_bins,) * self.n_candidates + (self.n_channels,))

    @cached_property
    def all_weights(self) -> NDArray[np.float64]:
        """The weights, then the fallback, (R + C, M)."""
        return np.ascontiguousarray(np.concatenate([self.weights, self.fallback]))

    def row_of(self, columns: Sequence[Any]) -> Any:
        """Row of :attr:`all_weights` for bin sets.

        Parameters
        ----------
        columns : M + 1 int64 arrays of one shape
            One per column of ``rows``; torch tensors on an accelerator.
        """
        row, found = self.index.find(columns)
        is_learned = found if self.unseen == "fallback" else row >= 0
        row[~is_learned] = (self.index.n_rows + columns[-1])[~is_learned]
        return row

    @cached_property
    def dense_rows(self) -> NDArray[np.int32] | None:
        """Row of :attr:`all_weights` for every possible bin set; None where they are too many."""
        index = self.index
        if not index.is_dense:
            return None
        (stage,) = index.stages
        fallback = np.arange(index.span, dtype=np.int32) % self.n_channels + len(self.rows)
        if self.unseen == "fallback":
            fallback[stage.keys] = stage.last_row
            return fallback
        until_next = np.diff(stage.keys, prepend=0, append=index.span)
        before = np.repeat(np.arange(-1, len(self.rows), dtype=np.int32), until_next)
        return np.where(before >= 0, before, fallback)

    @property
    def direct(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Row of every possible bin set, and the weights of each row, (rows, M).

        The rows are empty where the weights are one small table of all bin sets, (bins ** M * channels, M),
        or where there are too many bin sets (:attr:`dense_rows` is None).
        """
        rows, weights = self.dense_rows, self.all_weights.astype(np.float32)
        # Denormal numbers are a hundred times slower, and add nothing.
        weights[weights < np.finfo(np.float32).tiny] = 0
        none = np.zeros(0, np.int32)
        if rows is None:
            return none, weights
        if rows.size * self.n_candidates <= DENSE_ENTRIES:
            return none, weights[rows]
        return rows, weights

    @cached_property
    def quads(self) -> tuple[NDArray[np.int32], NDArray[np.complex128]]:
        """:attr:`direct` for the compiled kernel: weights as (M / 4 rounded up, rows), four to a number."""
        rows, weights = self.direct
        n_rows, m = weights.shape
        quads = np.zeros((-(-m // 4), n_rows, 4), np.float32)
        for q, quad in enumerate(quads):
            part = weights[:, 4 * q : 4 * q + 4]
            quad[:, : part.shape[1]] = part
        return rows, quads.view(np.complex128).reshape(len(quads), n_rows)
