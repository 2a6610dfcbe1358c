"""Settings that do not fit the images, and arguments of the wrong type."""

from __future__ import annotations

import numpy as np

from napari_ensir import compare, fit_lut

from .bench import COLOUR, STACK, TRUTH, Misuses, far, near, python

misuse = Misuses()


@misuse(
    "a bin width for intensities of 0 to 1, with integer images",
    says="bin_width is 0.1, but the images hold integers; use an integer width, such as 1",
)
def _(bench):
    image = TRUTH.astype(np.uint8)
    return bench.fit({"near": near(image), "far": far(image)}, image, "--bin-width", "0.1")


@misuse(
    "a bin width for 8 bit, with intensities of 0 to 1",
    unseen="a table with a single bin is valid; info shows the number of bin sets",
)
def _(bench):
    unit = TRUTH / 255
    return bench.fit({"near": near(unit), "far": far(unit)}, unit, "--bin-width", "32")


@misuse(
    "EM in bins so narrow that none has enough pixels",
    says="100% of the pixels, and keeps its start weights there; use wider bins than 1",
)
def _(bench):
    images = {"near": near(TRUTH), "far": far(TRUTH)}
    whole = {name: image.clip(0, 255).astype(np.uint8) for name, image in images.items()}
    return bench.fit(whole, TRUTH.astype(np.uint8), "--bin-width", "1", "--method", "em")


@misuse(
    "the axis of rows given as channel axis",
    says="channel_axis is 0, of length 112, so 112 tables were learned",
)
def _(bench):
    given = {"near": near(COLOUR), "far": far(COLOUR)}
    return bench.fit(given, COLOUR, "--channel-axis", "0", "--method", "least-squares")


@misuse("a data range with the higher number first", says="use two finite numbers, the lower first")
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--data-range", "255", "0")


@misuse("planes for an image without planes", says="planes")
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--planes", "0", "500")


@misuse("planes beyond the end of a stack", says="planes")
def _(bench):
    return bench.fit({"near": near(STACK), "far": far(STACK)}, STACK, "--planes", "3", "9")


@misuse("a GPU that does not exist", says="cuda:7")
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--device", "cuda:7")


@misuse("a restorer that does not exist", says="magic")
def _(bench):
    return bench.run("restore", bench.write("noisy", TRUTH), "-m", "magic", "-o", bench.folder / "o.tif")


@misuse(
    "an image given as a network", says="noisy.tif is not a network in a supported format; spandrel reads"
)
def _(bench):
    image = bench.write("noisy", TRUTH)
    return bench.run("restore", image, "--network", image, "-o", bench.folder / "o.tif")


@misuse("a prior of three weights for two candidates", says="give 2 non-negative weights, one per candidate")
def _(bench):
    return python(fit_lut, [((near(TRUTH), far(TRUTH)), TRUTH)], prior=(0.2, 0.3, 0.5))


@misuse("a channel axis that the images lack", says="channel_axis is 5, but the images have 2 axes")
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--channel-axis", "5")


@misuse("a mask of another size", says="the mask has shape")
def _(bench):
    mask = bench.write("mask", np.ones((50, 50), np.uint8))
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--mask", mask)


@misuse("a mask that is empty", says="there are no pixels to learn from")
def _(bench):
    mask = bench.write("mask", np.zeros(TRUTH.shape, np.uint8))
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--mask", mask)


@misuse(
    "an inverted mask",
    unseen="any mask is valid; info shows the number of pixels learned from",
)
def _(bench):
    mask = bench.write("mask", (TRUTH < 100).astype(np.uint8))
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--mask", mask)


@misuse(
    "a border larger than the image",
    says="a border of 60 pixels leaves nothing of an image of shape (112, 120)",
)
def _(bench):
    return bench.evaluate({"near": near(TRUTH)}, TRUTH, "--crop-border", "60")


@misuse("Y of a grey image", says="the Y channel needs red, green and blue along a channel axis")
def _(bench):
    return bench.evaluate({"near": near(TRUTH)}, TRUTH, "--y-channel")


@misuse("a method that does not exist", says="there is no method 'magic' to compare; there are:")
def _(bench):
    return python(compare, [((near(TRUTH), far(TRUTH)), TRUTH)] * 2, methods=["magic"])


@misuse("one fold, so that nothing is held out", says="folds is 1; use a whole number from 2 to 1000")
def _(bench):
    return python(compare, [((near(TRUTH), far(TRUTH)), TRUTH)] * 2, folds=1)


@misuse("different numbers of names and candidates", says="there are 2 candidates but 3 names (A, B, C)")
def _(bench):
    return python(fit_lut, [((near(TRUTH), far(TRUTH)), TRUTH)], "ABC")


@misuse("arrays instead of pairs", says="of the reference set is not a pair; give (candidates, ground truth)")
def _(bench):
    return python(fit_lut, [near(TRUTH), TRUTH])


@misuse(
    "candidates stacked along the last axis",
    says="the ground truth has shape (112, 120) but candidate 1 has (120, 2)",
)
def _(bench):
    return python(fit_lut, [(np.stack([near(TRUTH), far(TRUTH)], axis=-1), TRUTH)])
