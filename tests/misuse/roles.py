"""Who is who: a ground truth among the candidates, one image twice, names exchanged."""

from __future__ import annotations

import numpy as np
from skimage import filters

from napari_ensir import fit_lut

from .bench import RNG, TRUTH, Misuses, far, near, python

misuse = Misuses()


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
