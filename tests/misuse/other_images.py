"""Tables applied to images that differ from those they were learned from."""

from __future__ import annotations

import numpy as np
from skimage import data, transform

from napari_ensir import fit_lut

from .bench import COLOUR, TRUTH, Misuses, far, near, python

misuse = Misuses()


@misuse(
    "a table learned from 8-bit images, applied to 16-bit images",
    says="the images seem to be of another exposure than those that the table was learned on: about 200 x",
)
def _(bench):
    bench.fitted(TRUTH.astype(np.uint8))
    wide = (TRUTH * 200).astype(np.uint16)
    return bench.apply({"near": near(wide), "far": far(wide)})


@misuse(
    "a table learned from intensities of 0 to 255, applied to 0 to 1",
    says="the images seem to be of another exposure than those that the table was learned on: about 0.0039",
)
def _(bench):
    bench.fitted(TRUTH.astype(np.uint8))
    return bench.apply({"near": near(TRUTH) / 255, "far": far(TRUTH) / 255})


@misuse(
    "one candidate with an offset, when the table is applied",
    says='candidate "far": on another scale than candidate "near"',
)
def _(bench):
    bench.fitted()
    return bench.apply({"near": near(TRUTH), "far": far(TRUTH) + 40})


@misuse(
    "a candidate that the table does not have",
    says="the LUT combines near, far; of the given candidates, other is unknown",
)
def _(bench):
    return bench.fitted().apply({"near": near(TRUTH), "far": far(TRUTH), "other": far(TRUTH)})


@misuse("a candidate of the table left out", says="of the given candidates, far is missing")
def _(bench):
    return bench.fitted().apply({"near": near(TRUTH)})


@misuse("a table for colour images, applied to grey images", says="channel")
def _(bench):
    bench.fitted(COLOUR, "--channel-axis", "-1")
    grey = COLOUR[..., 1]
    return bench.apply({"near": near(grey), "far": far(grey)})


@misuse(
    "a candidate shifted, when the table is applied",
    says='candidate "far": shifted by 5 pixels to the right against candidate "near"; align them',
)
def _(bench):
    bench.fitted()
    return bench.apply({"near": near(TRUTH), "far": np.roll(far(TRUTH), 5, axis=1)})


@misuse(
    "a candidate upside down, when the table is applied",
    says='candidate "far": upside down against candidate "near"',
)
def _(bench):
    bench.fitted()
    return bench.apply({"near": near(TRUTH), "far": far(TRUTH)[::-1]})


@misuse(
    "a candidate that is black, when the table is applied",
    says='candidate "far": constant (0 in every pixel',
)
def _(bench):
    bench.fitted()
    return bench.apply({"near": near(TRUTH), "far": TRUTH * 0})


@misuse(
    "a candidate of another field, where the table is applied",
    says='candidate "far": hardly correlates with candidate "near"; does it show the same field?',
)
def _(bench):
    bench.fitted()
    other = data.moon()[:112, :120].astype(np.float32)
    return bench.apply({"near": near(TRUTH), "far": far(other)})


@misuse(
    "a table learned from RGB images, applied to BGR images",
    unseen="all candidates have the same order of channels, and colours differ between images anyway",
)
def _(bench):
    bench.fitted(COLOUR, "--channel-axis", "-1")
    return bench.apply({"near": near(COLOUR)[..., ::-1], "far": far(COLOUR)[..., ::-1]})


@misuse(
    "a candidate rotated by 2 degrees",
    says='no method is significantly better than the candidate "near" alone',
)
def _(bench):
    tilted = transform.rotate(far(TRUTH), 2, mode="reflect", preserve_range=True)
    return bench.fit({"near": near(TRUTH), "far": tilted.astype(np.float32)}, TRUTH)


@misuse(
    "candidates in another order, in Python",
    unseen="arrays have no names, so they have to be in the order of the table's names",
)
def _(bench):
    lut = fit_lut([((near(TRUTH), far(TRUTH)), TRUTH)], ("near", "far"), device="cpu")
    return python(lut.apply, (far(TRUTH), near(TRUTH)), "cpu")
