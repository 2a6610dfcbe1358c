"""What a comparison found: rows of figures, as plain values and as Markdown. Scores nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from napari_ensir.ensemble.noisy_scores import NoisyScores

__all__ = ["Comparison", "Row"]


@dataclass(frozen=True)
class Row:
    """One method's figures.

    Attributes
    ----------
    name : str
    role : "candidate" or "method"
        What it is; a candidate may have a method's name.
    psnr : float
        Mean over images, dB. Of a noisy ground truth: of the error less the noise's variance, over all images
        together; NaN where that is not known, or below the noise.
    ssim : float
        Mean over images; NaN where images are too small for its window, or the ground truth is noisy.
    fit_seconds : float
        Mean over folds.
    image_seconds : float
        Mean over images.
    note : str
    """

    name: str
    role: Literal["candidate", "method"]
    psnr: float
    ssim: float
    fit_seconds: float
    image_seconds: float
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes
    ----------
    rows : tuple of Row
        In the order of the methods.
    settings : dict
        Plain values: what the figures depend on.
    notes : tuple of str
        What a reader must know, one sentence each: the peak, pixels left out.
    noisy : NoisyScores or None
        If the ground truth is noisy: what can be said of the rows, in their order; the average of the
        candidates comes after them if it is none of them.
    """

    rows: tuple[Row, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    noisy: NoisyScores | None = None

    def __getitem__(self, name: str) -> Row:
        """The row of that name.

        Raises
        ------
        EnsembleError
            If there is none, or there are several.
        """
        found = [row for row in self.rows if row.name == name]
        if not found:
            known = ", ".join(row.name for row in self.rows)
            raise EnsembleError(f"there is no row {name!r}; there are: {known}.")
        if len(found) > 1:
            roles = " and a ".join(row.role for row in found)
            raise EnsembleError(f"there are {len(found)} rows {name!r}, a {roles}; look through the rows.")
        return found[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rows = [asdict(row) for row in self.rows]
        found = {"settings": self.settings, "rows": rows, "notes": list(self.notes)}
        if self.noisy is None:
            return found
        for row, scored in zip(rows, self.noisy.rows, strict=False):
            row |= scored._asdict() | {"role": row["role"], "note": row["note"] or scored.note, "ssim": None}
        return found | {"noisy_scores": self.noisy.to_dict()}

    def to_markdown(self) -> str:
        """The table in Markdown."""
        if self.noisy is not None:
            return self.noisy.to_markdown()
        lines = [
            "| method | PSNR, dB | SSIM | s to fit | s per image | |",
            "|---|---|---|---|---|---|",
            *(
                f"| {row.name} | {row.psnr:.3f} | {row.ssim:.4f} | {row.fit_seconds:.3f} "
                f"| {row.image_seconds:.3f} | {row.note} |"
                for row in self.rows
            ),
        ]
        return "\n".join(lines) + "\n"
