"""Intensities that are not comparable: scales, dtypes, tone curves, channels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .bench import COLOUR, TRUTH, Misuses, far, near

misuse = Misuses()


@misuse(
    "a candidate in 0 to 1, the rest in 0 to 255",
    says='candidate "far": on another scale than the ground truth, which is about 25',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": near(TRUTH, 6, 3) / 255}, TRUTH)


@misuse(
    "a candidate saved in 8 bit, the rest in 16",
    says='candidate "far": on another scale than the ground truth, which is about 257',
)
def _(bench):
    wide = (TRUTH * 257).astype(np.uint16)
    return bench.fit({"near": near(wide), "far": near(TRUTH, 6, 3).clip(0, 255).astype(np.uint8)}, wide)


@misuse(
    "the camera's offset subtracted from one image only",
    says="on another scale than the ground truth, which is about 1",
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": near(TRUTH, 4, 3) - 100}, TRUTH)


@misuse("each image stretched to its own contrast", says="on another scale than the ground truth")
def _(bench):
    dim = (TRUTH * 0.4 + 30).astype(np.uint8)
    stretched = near(dim, 4).astype(float)
    stretched = (255 * (stretched - stretched.min()) / np.ptp(stretched)).astype(np.uint8)
    return bench.fit({"near": near(dim), "far": stretched}, dim)


@misuse(
    "gamma applied to one image", says='candidate "far": on another tone curve than the ground truth (gamma?)'
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": 255 * (near(TRUTH, 3, 3).clip(0, 255) / 255) ** 2.2}, TRUTH)


@misuse("an inverted image", says='candidate "far": dark where the ground truth is bright; invert it')
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": 255 - far(TRUTH)}, TRUTH)


@misuse(
    "a 16-bit image clipped at 255",
    says="of its pixels have its greatest value, 255, where the ground truth varies; was it clipped?",
)
def _(bench):
    wide = (TRUTH * 3).astype(np.uint16)
    return bench.fit({"near": near(wide), "far": near(wide, 2, 3).clip(0, 255)}, wide)


@misuse("a 16-bit image stored modulo 256", says='candidate "far": hardly correlates with the ground truth')
def _(bench):
    wide = (TRUTH * 16).astype(np.uint16)
    return bench.fit({"near": near(wide), "far": near(wide, 2, 3) % 256}, wide)


@misuse(
    "a candidate with channels in the order BGR instead of RGB",
    says='candidate "far": closer to the ground truth with its channels in reverse order (BGR for RGB?)',
)
def _(bench):
    return bench.fit({"near": near(COLOUR), "far": far(COLOUR)[..., ::-1]}, COLOUR)


@misuse("a grey candidate for a colour image", says='candidate "far" is grey but candidate "near" is RGB')
def _(bench):
    return bench.fit({"near": near(COLOUR), "far": near(COLOUR)[..., 1]}, COLOUR)


@misuse(
    "colour channels first",
    unseen="such a file looks like a stack of three grey planes; --channel-axis 0 sets the channel axis",
)
def _(bench):
    first = np.moveaxis(COLOUR, -1, 0)
    return bench.fit(
        {"near": np.moveaxis(near(COLOUR), -1, 0), "far": np.moveaxis(far(COLOUR), -1, 0)}, first
    )


@misuse(
    "a ground truth saved as JPEG",
    unseen="a restorer may change an image in the same way as JPEG; the table learns the artefacts",
)
def _(bench):
    image = TRUTH.astype(np.uint8)
    Image.fromarray(image).save(bench.folder / "jpeg.jpg")
    return bench.fit({"near": near(image), "far": far(image)}, bench.folder / "jpeg.jpg", end=".png")


@misuse("an image with transparency", says="has an alpha channel")
def _(bench):
    Image.fromarray(np.dstack([COLOUR, COLOUR[..., :1]])).save(bench.folder / "alpha.png")
    return bench.fit({"near": near(COLOUR), "far": bench.folder / "alpha.png"}, COLOUR, end=".png")
