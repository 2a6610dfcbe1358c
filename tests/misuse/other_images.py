"""Tables applied to other images than those they were learned on."""

from __future__ import annotations

import numpy as np

from napari_ensir import fit_lut

from .bench import COLOUR, TRUTH, Misuses, far, near, python

misuse = Misuses()


@misuse(
    "a table of 8 bit on images of 16",
    says="the images look as if taken at another exposure than those the table was learned on (about 200 x",
)
def _(bench):
    bench.fitted(TRUTH.astype(np.uint8))
    wide = (TRUTH * 200).astype(np.uint16)
    return bench.apply({"near": near(wide), "far": far(wide)})


@misuse(
    "a table of 0 to 255 on images of 0 to 1",
    says="the images look as if taken at another exposure than those the table was learned on (about 0.0039",
)
def _(bench):
    bench.fitted(TRUTH.astype(np.uint8))
    return bench.apply({"near": near(TRUTH) / 255, "far": far(TRUTH) / 255})


@misuse(
    "one candidate of another range, where the table is applied",
    says='of the pixels of "far" lie outside the table\'s range',
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


@misuse("a colour table on grey images", says="channel")
def _(bench):
    bench.fitted(COLOUR, "--channel-axis", "-1")
    grey = COLOUR[..., 1]
    return bench.apply({"near": near(grey), "far": far(grey)})


@misuse(
    "candidates in another order, in Python",
    unseen="arrays carry no names; the order of the table's names is the order that counts",
)
def _(bench):
    lut = fit_lut([((near(TRUTH), far(TRUTH)), TRUTH)], ("near", "far"), device="cpu")
    return python(lut.apply, (far(TRUTH), near(TRUTH)), "cpu")
