"""The report of a lookup table: how it was made, with typed attributes."""

from __future__ import annotations

from typing import Any


class FitReport(dict[str, Any]):
    """How a lookup table was made: a mapping of plain values whose usual keys are attributes as well.

    An attribute is None, or empty if it is a list or dict, if the report lacks the key.

    Attributes
    ----------
    date : str
        Day of the fit, UTC.
    versions : dict
        Version of each package that was used, by name.
    settings : dict
        Settings of the method.
    inputs : dict
        Shapes, dtypes, hashes and percentiles of the images learned from.
    pixels, images, bin_sets : int
        How many were learned from.
    data_range_from : "given", "dtype" or "data"
    not_finite : int
        Pixels left out because a value is NaN or infinite.
    outside_range : list of int
        Pixels outside the data range, of each candidate and the ground truth.
    outcomes : dict
        Number of bin sets by outcome, such as ``"converged"``.
    iterations, outcome : list of int
        Of each bin set.
    warnings : list of str
        What looks wrong, one sentence each, the most important first.
    method_choice : dict or None
        With ``method="auto"``: ``"summary"``, and ``"held_out_psnr"`` in dB by method.
    truth_noise : float, "unknown" or None
    scores : dict or None
        Scores against a noisy ground truth.
    held_out : dict or None
        After calibration: held-out root mean square error, and how it was measured.

    Examples
    --------
    >>> report = FitReport({"pixels": 64, "warnings": ["one"]})
    >>> report.pixels, report["pixels"], report.warnings, report.scores
    (64, 64, ['one'], None)
    """

    date: str | None
    versions: dict[str, str]
    settings: dict[str, Any]
    inputs: dict[str, Any]
    pixels: int | None
    images: int | None
    bin_sets: int | None
    data_range_from: str | None
    not_finite: int | None
    outside_range: list[int]
    outcomes: dict[str, int]
    iterations: list[int]
    outcome: list[int]
    warnings: list[str]
    method_choice: dict[str, Any] | None
    truth_noise: float | str | None
    scores: dict[str, Any] | None
    held_out: dict[str, Any] | None

    def __getattr__(self, name: str) -> Any:
        kind = FitReport.__annotations__.get(name)
        if kind is None:
            raise AttributeError(f"a report has no {name!r}")
        empty: Any = [] if kind.startswith("list") else None if "None" in kind else {}
        return self.get(name, empty)

    def __or__(self, other: dict[str, Any]) -> FitReport:  # type: ignore[override]
        return FitReport({**self, **other})

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *FitReport.__annotations__]
