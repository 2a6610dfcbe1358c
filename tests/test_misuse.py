"""What a tired user does wrong, and the one sentence that each mistake gets, or why it cannot be noticed.

``pytest tests/test_misuse.py -s`` prints the list as a table. To add to it, write a function that makes the
mistake with the :class:`Bench` it is given and returns what the bench hands back; decorate it with the
mistake in plain words, and with ``says``, what the sentence must hold, or ``unseen``, the reason why there is
none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data, filters
from typer.testing import CliRunner

from napari_ensir import EnsembleError, compare, fit_lut, load_lut
from napari_ensir.cli import app
from napari_ensir.files import write_image

# -- the bench ----------------------------------------------------------------------------------------

RNG = np.random.default_rng(20)
TRUTH = data.camera()[96:208, 160:280].astype(np.float32)  # 112 x 120, 0 to 255
SQUARE = TRUTH[:, :112]
COLOUR = data.astronaut()[60:172, 170:290]
STACK = (700 + 8000 * filters.gaussian(RNG.normal(size=(7, 96, 104)), (1.2, 3, 3))).astype(np.uint16)


def near(image, sigma=6, seed=1):
    """A restoration of an image: a little noise and blur left, in its dtype."""
    rng = np.random.default_rng(seed)
    spread = sigma * np.ptp(image.astype(float)) / 255
    noisy = filters.gaussian(
        image + rng.normal(0, spread, image.shape), [0.6] * 2, channel_axis=_channels(image)
    )
    return _as(noisy, image.dtype)


def _channels(image):
    return None if image.ndim == 2 else -1 if image.shape[-1] == 3 else 0


def far(image):
    return near(image, 25, 2)


def _as(image, dtype):
    if np.dtype(dtype).kind == "f":
        return image.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(np.clip(image, limits.min, limits.max)).astype(dtype)


class Bench:
    """Writes images, runs the command line on them and hands back all that it says on standard error."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner = CliRunner()

    def run(self, *arguments):
        result = self.runner.invoke(app, [str(one) for one in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stderr

    def write(self, name, image, end=".tif"):
        path = self.folder / (name + end)
        path.parent.mkdir(exist_ok=True)
        return write_image(path, np.asarray(image), overwrite=True)

    def paths(self, images, end=".tif"):
        """Options that name candidates, which are arrays, several for a folder, or paths."""
        options = []
        for number, (name, image) in enumerate(images.items()):
            options += ["-c", f"{name}={self.path(f'candidate{number}', image, end)}"]
        return options

    def path(self, name, image, end=".tif"):
        if isinstance(image, (str, Path)):
            return image
        if isinstance(image, (list, tuple)):
            for number, one in enumerate(image):
                self.write(f"{name}/{number + 1}", one, end)
            return self.folder / name
        return self.write(name, image, end)

    def fit(self, images, truth, *options, end=".tif"):
        given = [*self.paths(images, end), "-t", self.path("truth", truth, end)]
        return self.run("fit", *given, "-o", self.folder / "table", "--overwrite", "-q", *options)

    def apply(self, images, *options, end=".tif"):
        table = self.folder / "table.lut.safetensors"
        out = self.folder / ("out" + ("" if any(isinstance(x, list) for x in images.values()) else end))
        return self.run("apply", "--lut", table, *self.paths(images, end), "-o", out, "-q", *options)

    def evaluate(self, images, truth, *options, end=".tif"):
        given = [*self.paths(images, end), "-t", self.path("truth", truth, end)]
        return self.run("evaluate", *given, "-q", *options)

    def fitted(self, truth=TRUTH, *options):
        """A table of the two candidates ``near`` and ``far``, learned without fault."""
        said = self.fit({"near": near(truth), "far": far(truth)}, truth, *options)
        assert said == ""
        return self


def python(function, *arguments, **keywords):
    """What a call of the Python front door says."""
    try:
        found = function(*arguments, **keywords)
    except EnsembleError as error:
        return str(error)
    return " ".join(getattr(found, "report", {}).get("warnings", ()))


@dataclass(frozen=True)
class Misuse:
    """One mistake.

    Attributes
    ----------
    what : what was done, in plain words
    make : does it
    says : what the sentence holds; empty where there is none
    unseen : why there is none
    """

    what: str
    make: Callable[[Bench], str]
    says: str = ""
    unseen: str = ""


MISUSES: list[Misuse] = []


def misuse(what, *, says="", unseen=""):
    assert bool(says) != bool(unseen)

    def note(make):
        MISUSES.append(Misuse(what, make, says, unseen))
        return make

    return note


# -- images that do not lie on each other -------------------------------------------------------------


@misuse("a candidate shifted by one pixel", says='candidate "far": shifted by 1 pixel to the right against')
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": np.roll(far(TRUTH), 1, axis=1)}, TRUTH)


@misuse(
    "all candidates shifted: the ground truth is off",
    says='candidates "near", "far": shifted by 3 pixels up and 2 pixels to the left',
)
def _(bench):
    moved = {"near": near(TRUTH), "far": far(TRUTH)}
    return bench.fit({name: np.roll(image, (-3, -2), (0, 1)) for name, image in moved.items()}, TRUTH)


@misuse(
    "half a pixel off, after a resampling",
    unseen="a candidate off by half a pixel looks like a blurred one, which may be what a restorer gave",
)
def _(bench):
    image = near(TRUTH)
    return bench.fit({"near": (image + np.roll(image, 1, axis=1)) / 2, "far": far(TRUTH)}, TRUTH)


@misuse("axes transposed, square image", says='candidate "far": transposed against the ground truth')
def _(bench):
    return bench.fit({"near": near(SQUARE), "far": far(SQUARE).T}, SQUARE)


@misuse(
    "axes transposed, image not square",
    says=r'candidate "far" has shape (120, 112) but candidate "near" has (112, 120)',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH).T}, TRUTH)


@misuse(
    "turned by 90 degrees",
    says='candidate "far": turned by 270 degrees against the ground truth; turn it back',
)
def _(bench):
    return bench.fit({"near": near(SQUARE), "far": np.rot90(far(SQUARE))}, SQUARE)


@misuse("upside down, as another library counts rows", says='candidate "far": upside down')
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)[::-1]}, TRUTH)


@misuse("mirrored", says='candidate "far": mirrored left to right')
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)[:, ::-1]}, TRUTH)


@misuse(
    "a candidate cropped by its network",
    says='has shape (104, 112) but candidate "near" has (112, 120); they must show the same pixels. '
    "Cut them alike, or allow it with --crop",
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)[4:-4, 4:-4]}, TRUTH)


@misuse(
    "cropped on all sides, and --crop, which cuts at the top left",
    says='candidate "far": shifted by 4 pixels up and 4 pixels to the left',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)[4:-4, 4:-4]}, TRUTH, "--crop")


@misuse(
    "half the resolution, enlarged again",
    unseen="that is a blurred candidate; the table gives it little weight where that costs",
)
def _(bench):
    small = near(TRUTH)[::2, ::2]
    return bench.fit(
        {"near": near(TRUTH), "far": filters.gaussian(np.kron(small, np.ones((2, 2))), 1)}, TRUTH
    )


@misuse(
    "one slice off in a stack",
    says='candidate "far": closer to the ground truth one plane further on; line the stacks up',
)
def _(bench):
    return bench.fit({"near": near(STACK), "far": np.roll(near(STACK, 8, 3), -1, axis=0)}, STACK)


@misuse("one slice missing", says="has shape (6, 96, 104)")
def _(bench):
    return bench.fit({"near": near(STACK), "far": far(STACK)[1:]}, STACK)


@misuse(
    "a stack in reverse order",
    unseen="one plane is looked at, the middle one, and that one stays where it is",
)
def _(bench):
    return bench.fit({"near": near(STACK), "far": far(STACK)[::-1]}, STACK)


@misuse(
    "a candidate of another field",
    says='candidate "far": hardly like the ground truth; is it of the same field?',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": near(data.moon()[:112, :120].astype(np.float32))}, TRUTH)


@misuse("the ground truth of another field", says='candidates "near", "far": hardly like the ground truth')
def _(bench):
    other = data.coins()[100:212, 40:160].astype(np.float32)
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, other)


@misuse("files numbered 1, 10, 2: a folder in another order", says="are all in one order?")
def _(bench):
    fields = [data.camera()[k : k + 112, k : k + 112].astype(np.float32) for k in (0, 130, 260)]
    return bench.fit({"near": [near(x) for x in fields], "far": [far(fields[k]) for k in (0, 2, 1)]}, fields)


# -- intensities --------------------------------------------------------------------------------------


@misuse(
    "a candidate in 0 to 1, the rest in 0 to 255",
    says='candidate "far": on another scale than the ground truth, which is about 25',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": near(TRUTH, 6, 3) / 255}, TRUTH)


@misuse(
    "a candidate saved in 8 bit, the rest in 16",
    says='candidate "far": on another scale than the ground truth, which is about 26',
)
def _(bench):
    wide = (TRUTH * 257).astype(np.uint16)
    return bench.fit({"near": near(wide), "far": near(TRUTH, 6, 3).clip(0, 255).astype(np.uint8)}, wide)


@misuse(
    "the camera's offset taken off one image only",
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
    "16 bit cut off at 255",
    says="of its pixels have its greatest value, 255, where the ground truth varies; was it clipped?",
)
def _(bench):
    wide = (TRUTH * 3).astype(np.uint16)
    return bench.fit({"near": near(wide), "far": near(wide, 2, 3).clip(0, 255)}, wide)


@misuse("16 bit stored modulo 256", says='candidate "far": hardly like the ground truth')
def _(bench):
    wide = (TRUTH * 16).astype(np.uint16)
    return bench.fit({"near": near(wide), "far": near(wide, 2, 3) % 256}, wide)


@misuse(
    "BGR for RGB",
    says='candidate "far": closer to the ground truth with its channels in reverse order (BGR for RGB?)',
)
def _(bench):
    return bench.fit({"near": near(COLOUR), "far": far(COLOUR)[..., ::-1]}, COLOUR)


@misuse("a grey candidate of a colour image", says='candidate "far" is grey but candidate "near" is RGB')
def _(bench):
    return bench.fit({"near": near(COLOUR), "far": near(COLOUR)[..., 1]}, COLOUR)


@misuse(
    "colour channels first",
    unseen="three planes of grey are what such a file looks like; --channel-axis 0 says otherwise",
)
def _(bench):
    first = np.moveaxis(COLOUR, -1, 0)
    return bench.fit(
        {"near": np.moveaxis(near(COLOUR), -1, 0), "far": np.moveaxis(far(COLOUR), -1, 0)}, first
    )


@misuse(
    "a ground truth saved as JPEG",
    unseen="what JPEG does to an image is what a restorer may do too; the table learns to imitate it",
)
def _(bench):
    image = TRUTH.astype(np.uint8)
    Image.fromarray(image).save(bench.folder / "jpeg.jpg")
    return bench.fit({"near": near(image), "far": far(image)}, bench.folder / "jpeg.jpg", end=".png")


@misuse("an image with transparency", says="has an alpha channel")
def _(bench):
    Image.fromarray(np.dstack([COLOUR, COLOUR[..., :1]])).save(bench.folder / "alpha.png")
    return bench.fit({"near": near(COLOUR), "far": bench.folder / "alpha.png"}, COLOUR, end=".png")


# -- pixels that are none -----------------------------------------------------------------------------


@misuse(
    "a border of NaN, as registration leaves it",
    says='candidate "far": 21% of its pixels are NaN or infinite; nothing is learned there',
)
def _(bench):
    holed = far(TRUTH)
    holed[:, :25] = np.nan
    return bench.fit({"near": near(TRUTH), "far": holed}, TRUTH)


@misuse("a candidate that is NaN everywhere", says="no pixel is left to learn from")
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": np.full_like(TRUTH, np.nan)}, TRUTH)


@misuse(
    "a candidate that is zero everywhere", says='candidate "far": every pixel looked at is 0; leave it out'
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": np.zeros_like(TRUTH)}, TRUTH)


@misuse("a ground truth that is zero everywhere", says="the ground truth: every pixel looked at is 0")
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, np.zeros_like(TRUTH))


@misuse("a mask for a candidate", says="is a mask of true and false; it must hold intensities")
def _(bench):
    return python(fit_lut, [((near(TRUTH) > 9, far(TRUTH)), TRUTH)])


@misuse("a Fourier transform for a candidate", says="pixels of dtype complex64 cannot be combined")
def _(bench):
    return python(fit_lut, [((near(TRUTH), torch.zeros(112, 120, dtype=torch.complex64)), TRUTH)])


@misuse("an empty crop", says="is empty (shape (112, 0)); it must hold at least one pixel")
def _(bench):
    return python(fit_lut, [((near(TRUTH)[:, :0], far(TRUTH)[:, :0]), TRUTH[:, :0])])


@misuse(
    "one hot pixel in 16 bit",
    unseen="it does no harm: the data range leaves it out, and info counts it under outside range",
)
def _(bench):
    wide = (TRUTH * 15).astype(np.uint16)
    hot = near(wide)
    hot[50, 60] = 65535
    said = bench.fit({"near": hot, "far": far(wide)}, wide)
    assert load_lut(bench.folder / "table.lut.safetensors").data_range[1] < 5000
    return said


# -- who is who ---------------------------------------------------------------------------------------


@misuse(
    "the ground truth among the candidates", says='is given twice: as candidate "far" and as the ground truth'
)
def _(bench):
    path = bench.write("truth", TRUTH)
    return bench.fit({"near": near(TRUTH), "far": path}, path)


@misuse(
    "a copy of the ground truth among the candidates",
    says='candidate "far": equal to the ground truth, pixel for pixel; leave it out',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": TRUTH}, TRUTH)


@misuse(
    "the ground truth among the candidates, in Python",
    says="candidate 2 is the ground truth itself; leave it out",
)
def _(bench):
    return python(fit_lut, [((near(TRUTH), TRUTH), TRUTH)])


@misuse(
    "one candidate under two names", says='candidates "near", "far": equal, pixel for pixel; leave one out'
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": near(TRUTH)}, TRUTH)


@misuse("one path under two names", says='is given twice: as candidate "near" and as candidate "far"')
def _(bench):
    path = bench.write("one", near(TRUTH))
    return bench.fit({"near": path, "far": path}, TRUTH)


@misuse("one name for two candidates", says="the name 'near' is given twice")
def _(bench):
    return bench.run("fit", "-c", "near=a", "-c", "near=b", "-t", "t", "-o", "x")


@misuse(
    "a candidate called as a method or a part is",
    unseen="no mistake: names are no roles, and both keep their scores",
)
def _(bench):
    return bench.fit({"the ground truth": near(TRUTH), "ensemble": far(TRUTH)}, TRUTH)


@misuse(
    "candidates under each other's names, in apply",
    unseen="names are the user's word; nothing in an image says which model made it",
)
def _(bench):
    bench.fitted()
    return bench.apply({"near": far(TRUTH), "far": near(TRUTH)})


@misuse(
    "a noisy image for the ground truth, the clean one for a candidate",
    unseen="the ground truth is whatever is given as such; --truth-noise says that it is noisy",
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "clean": TRUTH + 0.5}, TRUTH + RNG.normal(0, 25, TRUTH.shape))


@misuse(
    "a table scored on the images that it was learned from",
    unseen="a table does not keep its images; evaluate says what it scores, and compare holds out",
)
def _(bench):
    table = bench.fitted().folder / "table.lut.safetensors"
    return bench.evaluate({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--lut", table)


@misuse(
    "the candidates' own input for a second exposure",
    says="the reference seems to be the image that the candidates were restored from",
)
def _(bench):
    noisy = TRUTH + np.random.default_rng(5).normal(0, 25, TRUTH.shape).astype(np.float32)
    images = {"blurred": filters.gaussian(noisy, 1), "median": filters.median(noisy, np.ones((3, 3)))}
    return bench.fit(images, noisy, "--truth-noise", "unknown")


@misuse(
    "a noisy reference, and a candidate that is black", says='candidate 2 ("black") has one intensity only'
)
def _(bench):
    noisy = TRUTH + np.random.default_rng(5).normal(0, 25, TRUTH.shape).astype(np.float32)
    return bench.fit({"near": near(TRUTH), "black": TRUTH * 0}, noisy, "--truth-noise", "unknown")


@misuse("EM with a noisy ground truth", says="least-squares")
def _(bench):
    noisy = TRUTH + np.random.default_rng(5).normal(0, 25, TRUTH.shape)
    given = {"near": near(TRUTH), "far": far(TRUTH)}
    return bench.fit(given, noisy, "--truth-noise", "25", "--method", "em")


# -- files and folders --------------------------------------------------------------------------------


@misuse("a path that leads nowhere", says='there is no nowhere.tif (candidate "far")')
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": "nowhere.tif"}, TRUTH)


@misuse("an empty folder", says="holds no image; give a folder of")
def _(bench):
    (bench.folder / "empty").mkdir(exist_ok=True)
    return bench.fit({"near": [near(TRUTH)], "far": bench.folder / "empty"}, [TRUTH])


@misuse("a folder that lacks an image", says="has no image 2, which other folders have")
def _(bench):
    return bench.fit({"near": [near(TRUTH)] * 2, "far": [far(TRUTH)]}, [TRUTH] * 2)


@misuse("a folder beside single images", says="is a folder but")
def _(bench):
    return bench.fit({"near": [near(TRUTH)], "far": far(TRUTH)}, [TRUTH])


@misuse("an image cut short by a full disk", says="could not be read")
def _(bench):
    path = bench.write("short", far(TRUTH))
    path.write_bytes(path.read_bytes()[:2000])
    return bench.fit({"near": near(TRUTH), "far": path}, TRUTH)


@misuse("a text file named .png", says="truncated, damaged or no image")
def _(bench):
    path = bench.folder / "notes.png"
    path.write_text("see the other folder")
    return bench.fit({"near": near(TRUTH), "far": path}, TRUTH)


@misuse("a TIFF renamed to .png", says="any other kind must have its own ending")
def _(bench):
    path = bench.write("far", far(TRUTH)).rename(bench.folder / "far.png")
    return bench.fit({"near": near(TRUTH), "far": path}, TRUTH)


@misuse("a pipe named as an image is", says="pipe.png")
def _(bench):
    os.mkfifo(bench.folder / "pipe.png")
    return bench.fit({"near": near(TRUTH), "far": bench.folder / "pipe.png"}, TRUTH)


@misuse("an image for the table", says="no LUT file")
def _(bench):
    image = bench.write("image", TRUTH)
    return bench.run(
        "apply", "--lut", image, *bench.paths({"near": near(TRUTH)}), "-o", bench.folder / "o.tif"
    )


@misuse(
    "an output that is there already",
    says="exists already; choose another name, or allow it with --overwrite",
)
def _(bench):
    bench.fitted().apply({"near": near(TRUTH), "far": far(TRUTH)})
    return bench.apply({"near": near(TRUTH), "far": far(TRUTH)})


@misuse(
    "images of 8 and of 16 bit in one set",
    says="convert them to one dtype, so that intensities mean the same",
)
def _(bench):
    low, high = TRUTH.astype(np.uint8), (TRUTH * 200).astype(np.uint16)
    return bench.fit({"near": [near(low), near(high)], "far": [far(low), far(high)]}, [low, high])


@misuse("the ensemble under a candidate's name", says="which is read")
def _(bench):
    bench.fitted()
    images = {"near": near(TRUTH), "far": far(TRUTH)}
    given = bench.paths(images)
    target = bench.folder / "candidate0.tif"
    table = bench.folder / "table.lut.safetensors"
    return bench.run("apply", "--lut", table, *given, "-o", target, "--overwrite", "-q")


@misuse("the results as JSON under the table's name", says="both lead to")
def _(bench):
    images, table = {"near": near(TRUTH), "far": far(TRUTH)}, bench.folder / "table.lut.safetensors"
    return bench.fit(images, TRUTH, "--json", table)


@misuse("ensemble and weight maps under one name", says="both lead to")
def _(bench):
    bench.fitted()
    return bench.apply({"near": near(TRUTH), "far": far(TRUTH)}, "--weight-maps", bench.folder / "out.tif")


# -- tables on other images ---------------------------------------------------------------------------


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
    says="the LUT combines near, far; of the candidates given, other unknown to it",
)
def _(bench):
    return bench.fitted().apply({"near": near(TRUTH), "far": far(TRUTH), "other": far(TRUTH)})


@misuse("a candidate of the table left out", says="of the candidates given, far missing")
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


# -- settings -----------------------------------------------------------------------------------------


@misuse(
    "a bin width for 0 to 1 on whole numbers",
    says="bin_width is 0.1, but the images hold whole numbers; 1 intensity units would be right",
)
def _(bench):
    image = TRUTH.astype(np.uint8)
    return bench.fit({"near": near(image), "far": far(image)}, image, "--bin-width", "0.1")


@misuse(
    "a bin width for 8 bit on 0 to 1",
    unseen="one bin for all is a table like any other; info says how many bin sets there are",
)
def _(bench):
    unit = TRUTH / 255
    return bench.fit({"near": near(unit), "far": far(unit)}, unit, "--bin-width", "32")


@misuse("high before low", says="use two finite numbers, the lower first")
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--data-range", "255", "0")


@misuse("planes of a single image", says="planes")
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--planes", "0", "500")


@misuse("planes beyond the end of a stack", says="planes")
def _(bench):
    return bench.fit({"near": near(STACK), "far": far(STACK)}, STACK, "--planes", "3", "9")


@misuse("a graphics card that there is not", says="cuda:7")
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--device", "cuda:7")


@misuse("a restorer that there is not", says="magic")
def _(bench):
    return bench.run("restore", bench.write("noisy", TRUTH), "-m", "magic", "-o", bench.folder / "o.tif")


@misuse("an image for a network", says="noisy.tif is no network that is known here; spandrel is given")
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


@misuse("a mask that is empty", says="no pixel is left to learn from")
def _(bench):
    mask = bench.write("mask", np.zeros(TRUTH.shape, np.uint8))
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--mask", mask)


@misuse(
    "a mask that says where not to learn",
    unseen="both sides of a mask are places to learn from; info says how many pixels were learned from",
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


@misuse("Y of a grey image", says="Y needs red, green and blue along a channel axis")
def _(bench):
    return bench.evaluate({"near": near(TRUTH)}, TRUTH, "--y-channel")


@misuse("a method that there is not", says="there is no method 'magic' to compare; there are:")
def _(bench):
    return python(compare, [((near(TRUTH), far(TRUTH)), TRUTH)] * 2, methods=["magic"])


@misuse("one fold, so that nothing is held out", says="give 2 or more, so that something is held out")
def _(bench):
    return python(compare, [((near(TRUTH), far(TRUTH)), TRUTH)] * 2, folds=1)


@misuse(
    "names and candidates that do not match in number", says="there are 2 candidates but 3 names (A, B, C)"
)
def _(bench):
    return python(fit_lut, [((near(TRUTH), far(TRUTH)), TRUTH)], "ABC")


@misuse("arrays where pairs belong", says="of the reference set is no pair; give (candidates, ground truth)")
def _(bench):
    return python(fit_lut, [near(TRUTH), TRUTH])


@misuse(
    "all candidates stacked the wrong way round",
    says="the ground truth has shape (112, 120) but candidate 1 has (120, 2)",
)
def _(bench):
    return python(fit_lut, [(np.stack([near(TRUTH), far(TRUTH)], axis=-1), TRUTH)])


# -- the list itself ----------------------------------------------------------------------------------

FOUND: dict[str, str] = {}
"""What each mistake got when it was made."""


@pytest.mark.parametrize("one", MISUSES, ids=lambda one: one.what)
def test_misuse(one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = " ".join(one.make(Bench(tmp_path)).split())
    for prefix in ("napari-ensir: warning: ", "napari-ensir: "):
        said = said.replace(prefix, "")
    FOUND[one.what] = said.replace(f"{tmp_path}/", "")
    if one.says:
        assert one.says in said
    else:
        assert said == ""


def table() -> str:
    """The list in Markdown: what was done, and what was said to it when it was last made."""
    rows = ["| what was done | what is said |", "|---|---|"]
    for one in MISUSES:
        said = FOUND.get(one.what, one.says) if one.says else f"*Cannot be noticed:* {one.unseen}."
        rows.append(f"| {one.what} | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def test_the_list_is_long_and_prints():
    assert len(MISUSES) >= 40
    assert len({one.what for one in MISUSES}) == len(MISUSES)
    print("\n" + table())
    assert table().count("\n") == len(MISUSES) + 2
