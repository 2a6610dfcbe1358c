"""What each kind of work can be told: fitting, applying, scoring, comparing, restoring. Does none of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from napari_ensir.settings.setting import TINY, Settings, setting
from napari_ensir.settings.shared import (
    bin_width_setting,
    channel_axis_setting,
    crop_border_setting,
    data_range_setting,
    device_setting,
    intensities_setting,
    seed_setting,
    shrinkage_setting,
    steps_setting,
    tau_setting,
    truth_noise_setting,
    y_channel_setting,
)

__all__ = [
    "METHODS",
    "ApplySettings",
    "BlindSettings",
    "CompareSettings",
    "EvaluateSettings",
    "FitSettings",
    "HidingSettings",
    "ReadingSettings",
    "RestoreSettings",
    "SweepSettings",
    "TrainSettings",
    "WritingSettings",
]

METHODS = {
    "em": (
        "EM (paper)",
        "Gaussian mixture per bin set by expectation-maximisation, as in the EnsIR paper",
    ),
    "em-released": (
        "EM (released code)",
        "The same as the EnsIR authors' released code computes it",
    ),
    "least-squares": (
        "Least squares",
        "Smallest squared error per bin set, shrunk toward the global solution; best on held-out data so far",
    ),
}
"""Title and sentence of each method, by the name that scripts use."""

# -- one for each kind of work ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FitSettings(Settings):
    """What learning a table can be told; see :func:`napari_ensir.fit_lut`."""

    method: str | None = setting(
        None,
        title="Method",
        description="How weights are learned from the pixels of each combination of intensities.",
        choices=METHODS,
        none="EM as in the paper; least squares where the truth is noisy",
    )
    truth_noise: float | Literal["unknown"] | None = truth_noise_setting()
    bin_width: float | Literal["auto"] | None = bin_width_setting()
    shrinkage: float | Literal["auto"] = shrinkage_setting()
    prior: Sequence[float] | None = setting(
        None,
        title="Prior",
        description="For EM: one weight per candidate, to start from and to keep where pixels are too few.",
        none="equal weights",
        group="EM",
    )
    max_iterations: int | None = setting(
        None,
        title="Most iterations",
        description="For EM: where it stops at the latest.",
        minimum=1,
        none="1000 as in the paper, 1001 as in the released code",
        group="EM",
    )
    channel_axis: int | None = channel_axis_setting()
    data_range: tuple[float, float] | None = data_range_setting()
    planes: tuple[int, int] | None = setting(
        None,
        title="Planes",
        description="First and last place along the first axis to learn from.",
        none="all planes",
        group="Images",
    )
    hash_inputs: bool = setting(
        False,
        title="Hash all inputs",
        description="Keep a hash of every image's content in the report, also beyond 16 MB.",
        group="Images",
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class HidingSettings(Settings):
    """How pixels are hidden from restorers, to judge them by the noisy image alone."""

    stride: int = setting(
        6,
        title="Stride",
        description=(
            "One pixel in so many along rows and columns is hidden; few cost fewer runs for as many pixels, "
            "and spoil each other's surroundings."
        ),
        minimum=2,
        maximum=64,
        unit="pixels",
        group="Hidden pixels",
    )
    offsets: int = setting(
        6,
        title="Runs",
        description="How often each restorer runs; every run hides other pixels, at most stride x stride.",
        minimum=1,
        maximum=64**2,
        group="Hidden pixels",
    )
    seed: int = setting(
        0,
        title="Seed",
        description="Of the order in which pixels are hidden; the same seed gives the same result.",
        minimum=0,
        maximum=2**31 - 1,
        group="Hidden pixels",
    )


@dataclass(frozen=True, kw_only=True)
class BlindSettings(HidingSettings):
    """What learning from the noisy image alone can be told; see :func:`napari_ensir.learn_blind`."""

    bin_width: float | Literal["auto"] | None = bin_width_setting()
    shrinkage: float | Literal["auto"] = shrinkage_setting()
    channel_axis: int | None = channel_axis_setting(
        "Axis of the channels: hidden together, and each with a table of its own.",
        "the restorers' own, pooled",
    )
    data_range: tuple[float, float] | None = data_range_setting(
        "the dtype's for 8 bit, else what the restored pixels show"
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class SweepSettings(HidingSettings):
    """What trying values of a restorer's setting can be told beside the values."""

    between: tuple[float, float] | None = setting(
        None,
        title="From, to",
        description="The least and the greatest value to try, where none are listed.",
        none="a quarter of the value that is set, and four times it",
    )
    count: int = setting(
        7,
        title="Values",
        description="How many values to try, evenly spaced by ratio where all are above zero.",
        minimum=2,
        maximum=50,
    )
    channel_axis: int | None = channel_axis_setting(
        "Axis of the channels, which are hidden together.", "-1 for RGB files"
    )
    data_range: tuple[float, float] | None = data_range_setting(
        "the restorer's, else the image's", "Intensities that become 0 and 1 for the restorer."
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class ApplySettings(Settings):
    """What combining can be told; see :meth:`napari_ensir.WeightLUT.apply`."""

    channel_axis: int | None = channel_axis_setting(
        "Where the channels lie, if elsewhere than in the images learned from.", "as when it was learned"
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
    """What scoring can be told."""

    y_channel: bool = y_channel_setting()
    crop_border: int = crop_border_setting()
    channel_axis: int | None = channel_axis_setting("Axis of colour channels, which SSIM averages over.")
    data_range: tuple[float, float] | None = data_range_setting("the dtype's for 8 bit, else the truth's own")
    truth_noise: float | Literal["unknown"] | None = truth_noise_setting()
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """What a comparison can be told; see :func:`napari_ensir.compare`."""

    folds: int = setting(
        2, title="Folds", description="Parts, each predicted from the others.", minimum=2, maximum=1000
    )
    y_channel: bool = y_channel_setting()
    crop_border: int = crop_border_setting()
    channel_axis: int | None = channel_axis_setting()
    data_range: tuple[float, float] | None = data_range_setting("the dtype's for 8 bit, else the truths' own")
    samples: int | None = setting(
        100_000,
        title="Samples",
        description="Pixels that scikit-learn's regressors learn from.",
        minimum=1,
        none="all",
        unit="pixels",
    )
    truth_noise: float | Literal["unknown"] | None = truth_noise_setting()
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class RestoreSettings(Settings):
    """What restoring can be told beside a restorer's own settings."""

    self_ensemble: bool = setting(
        False,
        title="Self-ensemble",
        description="Average what eight rotations and reflections of the image give: eight times the time.",
    )
    channel_axis: int | None = channel_axis_setting("Axis of colour channels.", "-1 for RGB files")
    data_range: tuple[float, float] | None = data_range_setting(
        "the network's, else the image's", "Intensities that become 0 and 1 for a restorer."
    )
    intensities: str | None = intensities_setting(None, none="0 to 1")
    tau: int | None = tau_setting(None, none="the checkpoint's own")
    steps: int | None = steps_setting(None, none="the checkpoint's own")
    seed: int = seed_setting()
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """What a training can be told beside its recipe; see :data:`napari_ensir.restorers.recipes.RECIPES`."""

    steps: int = setting(
        2400,
        title="Steps",
        description=(
            "Steps of training in all; the learning rate falls over them. A resumed training goes on up to "
            "them."
        ),
        minimum=1,
        maximum=10_000_000,
        step=100,
    )
    minutes: float | None = setting(
        None,
        title="At most",
        description="Minutes after which to stop, even if steps are left, which resuming makes.",
        minimum=TINY,
        none="all steps",
        unit="minutes",
    )
    width: int = setting(
        32,
        title="Width",
        description="Features at the network's finest level: more learn more, slowly.",
        minimum=4,
        maximum=512,
        step=8,
    )
    seed: int = setting(
        0,
        title="Seed",
        description="The same seed, images and settings give the same network.",
        minimum=0,
        maximum=2**31 - 1,
    )
    device: str = device_setting()


@dataclass(frozen=True, kw_only=True)
class ReadingSettings(Settings):
    """What reading sets of images can be told."""

    crop: bool = setting(
        False, title="Crop", description="Cut images of unlike size alike, at the top left.", group="Images"
    )


@dataclass(frozen=True, kw_only=True)
class WritingSettings(Settings):
    """What writing images can be told."""

    dtype: str = setting(
        "same",
        title="Dtype",
        description="Of the pixels written: the inputs', rounded and clipped, or float32.",
        choices=("same", "float32"),
        group="Output",
    )

    @property
    def as_float(self) -> bool:
        """Whether pixels are written as computed."""
        return self.dtype == "float32"
