"""Settings that several kinds of work, and restorers, share. Knows no work that has them."""

from __future__ import annotations

from typing import Any

from napari_ensir.devices import DEVICES
from napari_ensir.settings.setting import TINY, setting

__all__ = [
    "SHRINKAGE",
    "bin_width_setting",
    "channel_axis_setting",
    "crop_border_setting",
    "data_range_setting",
    "device_setting",
    "intensities_setting",
    "noise_setting",
    "seed_setting",
    "shrinkage_setting",
    "steps_setting",
    "tau_setting",
    "truth_noise_setting",
    "y_channel_setting",
]

SHRINKAGE = 1000.0
"""Pixels' worth of trust in the global solution that did well on every set measured."""


def device_setting() -> Any:
    """Where to compute."""
    return setting(
        "auto",
        title="Device",
        description="Where to compute; auto takes an accelerator if torch finds one.",
        choices=DEVICES,
        others=True,  # such as "cuda:1"; torch is asked where it is loaded
        group="Machine",
    )


def channel_axis_setting(
    description: str = "One table per channel along this axis, such as -1 for RGB.",
    none: str = "channels are pooled",
) -> Any:
    """Along which axis the channels lie."""
    return setting(None, title="Channel axis", description=description, none=none, group="Images")


def data_range_setting(
    none: str = "the dtype's for 8 bit, else what all but one in ten thousand pixels show",
    description: str = "Lowest and highest intensity; what lies outside goes to the end bins.",
) -> Any:
    """Which intensities there are."""
    return setting(
        None,
        title="Data range",
        description=description,
        none=none,
        unit="intensity units",
        group="Images",
    )


def intensities_setting(default: str | None, none: str | None = None) -> Any:
    """What intensities a network of one's own takes."""
    return setting(
        default,
        title="Intensities",
        description="For networks of your own: what they were trained on.",
        choices={
            "range": (
                "0 to 1",
                "The data range goes in as 0 to 1, and comes out as it was.",
            ),
            "raw": ("as the image is", "The image's own intensities go in and come out."),
        },
        none=none,
        group="Networks",
    )


def y_channel_setting() -> Any:
    """Whether luma is scored."""
    return setting(
        False,
        title="Y channel",
        description="Score Y of YCbCr (BT.601) instead of RGB.",
        group="Scores",
    )


def crop_border_setting() -> Any:
    """What is not scored."""
    return setting(
        0,
        title="Crop border",
        description="Pixels at each edge that are not scored.",
        minimum=0,
        unit="pixels",
        group="Scores",
    )


def tau_setting(default: int | None, none: str | None = None) -> Any:
    """How far DP-IR goes."""
    return setting(
        default,
        title="Tau",
        description="For DP-IR: evaluations of the fusion; few are faithful to the restorer, many sharper.",
        minimum=0,
        maximum=100,
        step=1,
        none=none,
        group="Networks",
    )


def steps_setting(default: int | None, none: str | None = None) -> Any:
    """How often IR-CM evaluates its network."""
    return setting(
        default,
        title="Steps",
        description="For IR-CM: evaluations of the network.",
        minimum=1,
        maximum=7,
        step=1,
        none=none,
        group="Networks",
    )


def seed_setting(default: int = 0) -> Any:
    """What noise is drawn."""
    return setting(
        default,
        title="Seed",
        description="The same seed gives the same result.",
        minimum=0,
        maximum=2**31 - 1,
        group="Networks",
    )


def noise_setting() -> Any:
    """The noise of the image to restore."""
    return setting(
        None,
        title="Noise",
        description="Standard deviation of the noise.",
        minimum=0.0,
        none="estimated from the image",
        unit="intensity units",
    )


def bin_width_setting() -> Any:
    """How finely intensities are told apart."""
    return setting(
        None,
        title="Bin width",
        description=(
            "Width of an intensity bin; narrow bins follow intensity more closely and have fewer pixels each "
            "to learn from."
        ),
        minimum=TINY,
        none="an eighth of the data range, 32 for 8 bit",
        auto="what does best on parts held out in turn",
        unit="intensity units",
    )


def shrinkage_setting() -> Any:
    """How much a bin set trusts the solution for all."""
    return setting(
        SHRINKAGE,
        title="Shrinkage",
        description=(
            "For least squares: how many pixels' worth of trust the solution for all intensities gets in "
            "each bin set."
        ),
        minimum=0,
        step=100,
        auto="what does best on parts held out in turn",
        unit="pixels",
    )


def truth_noise_setting() -> Any:
    """What is known of the noise of the ground truth."""
    return setting(
        None,
        title="Noise of the truth",
        description=(
            "Standard deviation of the ground truth's noise, where it is another exposure; of mean zero and "
            "independent of the candidates."
        ),
        minimum=TINY,
        none="the truth is clean",
        auto="noise of unknown strength",
        word="unknown",
        unit="intensity units",
    )
