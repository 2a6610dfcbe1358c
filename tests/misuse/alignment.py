"""Misaligned images: shifted, rotated, flipped, cropped or of another field."""

from __future__ import annotations

import numpy as np
from skimage import data, filters

from .bench import SQUARE, STACK, TRUTH, Misuses, far, near

misuse = Misuses()


@misuse("a candidate shifted by one pixel", says='candidate "far": shifted by 1 pixel to the right against')
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": np.roll(far(TRUTH), 1, axis=1)}, TRUTH)


@misuse(
    "all candidates shifted against the ground truth",
    says='candidates "near", "far": shifted by 3 pixels up and 2 pixels to the left',
)
def _(bench):
    moved = {"near": near(TRUTH), "far": far(TRUTH)}
    return bench.fit({name: np.roll(image, (-3, -2), (0, 1)) for name, image in moved.items()}, TRUTH)


@misuse(
    "a candidate shifted by half a pixel by resampling",
    says='no method is significantly better than the candidate "near" alone',
)
def _(bench):
    image = near(TRUTH)
    return bench.fit({"near": (image + np.roll(image, 1, axis=1)) / 2, "far": far(TRUTH)}, TRUTH)


@misuse("a transposed candidate, square image", says='candidate "far": transposed against the ground truth')
def _(bench):
    return bench.fit({"near": near(SQUARE), "far": far(SQUARE).T}, SQUARE)


@misuse(
    "a transposed candidate, image not square",
    says=r'candidate "far" has shape (120, 112) but candidate "near" has (112, 120)',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH).T}, TRUTH)


@misuse(
    "a candidate rotated by 90 degrees",
    says='candidate "far": rotated by 270 degrees against the ground truth; transform it back',
)
def _(bench):
    return bench.fit({"near": near(SQUARE), "far": np.rot90(far(SQUARE))}, SQUARE)


@misuse(
    "a candidate upside down, from a library that counts rows from the bottom",
    says='candidate "far": upside down',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)[::-1]}, TRUTH)


@misuse("a mirrored candidate", says='candidate "far": mirrored left to right')
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)[:, ::-1]}, TRUTH)


@misuse(
    "a candidate cropped by its network",
    says='has shape (104, 112) but candidate "near" has (112, 120); they must show the same pixels. '
    "Crop them to one size, or use --crop",
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)[4:-4, 4:-4]}, TRUTH)


@misuse(
    "a candidate cropped on all sides, and --crop, which keeps the top left corner",
    says='candidate "far": shifted by 4 pixels up and 4 pixels to the left',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)[4:-4, 4:-4]}, TRUTH, "--crop")


@misuse(
    "a candidate of half the resolution, enlarged again",
    says='no method is significantly better than the candidate "near" alone',
)
def _(bench):
    small = near(TRUTH)[::2, ::2]
    return bench.fit(
        {"near": near(TRUTH), "far": filters.gaussian(np.kron(small, np.ones((2, 2))), 1)}, TRUTH
    )


@misuse(
    "a stack shifted by one slice",
    says='candidate "far": closer to the ground truth one plane later; realign the stacks',
)
def _(bench):
    return bench.fit({"near": near(STACK), "far": np.roll(near(STACK, 8, 3), -1, axis=0)}, STACK)


@misuse("a stack with one slice missing", says="has shape (6, 96, 104)")
def _(bench):
    return bench.fit({"near": near(STACK), "far": far(STACK)[1:]}, STACK)


@misuse(
    "a stack in reverse order",
    unseen="only the middle plane is examined, and its position does not change",
)
def _(bench):
    return bench.fit({"near": near(STACK), "far": far(STACK)[::-1]}, STACK)


@misuse(
    "a candidate of another field",
    says='candidate "far": hardly correlates with the ground truth; does it show the same field?',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": near(data.moon()[:112, :120].astype(np.float32))}, TRUTH)


@misuse(
    "the ground truth of another field",
    says='candidates "near", "far": hardly correlates with the ground truth',
)
def _(bench):
    other = data.coins()[100:212, 40:160].astype(np.float32)
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, other)


@misuse(
    "files numbered 1, 10, 2: a folder in another order", says="check that all files are in the same order."
)
def _(bench):
    fields = [data.camera()[k : k + 112, k : k + 112].astype(np.float32) for k in (0, 130, 260)]
    return bench.fit({"near": [near(x) for x in fields], "far": [far(fields[k]) for k in (0, 2, 1)]}, fields)
