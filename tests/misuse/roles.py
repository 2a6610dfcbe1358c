"""Images in the wrong role: the ground truth among the candidates, an image given twice, names exchanged."""

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
    says='candidate "far": equal to the ground truth in every pixel; drop it',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": TRUTH}, TRUTH)


@misuse(
    "the ground truth among the candidates, in Python",
    says="candidate 2 is the ground truth itself; remove it from the candidates",
)
def _(bench):
    return python(fit_lut, [((near(TRUTH), TRUTH), TRUTH)])


@misuse("one candidate under two names", says='candidates "near", "far": equal in every pixel; drop one')
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
    "a candidate with the name of a method or a role",
    unseen="this is not a mistake: a name does not determine the role, and both get their scores",
)
def _(bench):
    return bench.fit({"the ground truth": near(TRUTH), "ensemble": far(TRUTH)}, TRUTH)


@misuse(
    "candidates with exchanged names, in apply",
    unseen="the names are given by the user; an image does not show which model made it",
)
def _(bench):
    bench.fitted()
    return bench.apply({"near": far(TRUTH), "far": near(TRUTH)})


@misuse(
    "the noisy image as ground truth and the clean image as candidate",
    says='no method is significantly better than the candidate "clean" alone',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "clean": TRUTH + 0.5}, TRUTH + RNG.normal(0, 25, TRUTH.shape))


@misuse(
    "a table scored on the images that it was learned from",
    unseen="a table does not contain its images; compare scores held-out images",
)
def _(bench):
    table = bench.fitted().folder / "table.lut.safetensors"
    return bench.evaluate({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--lut", table)


@misuse(
    "the input of the candidates instead of a second exposure",
    says="the reference seems to be the image that the candidates were restored from",
)
def _(bench):
    noisy = TRUTH + np.random.default_rng(5).normal(0, 25, TRUTH.shape).astype(np.float32)
    images = {"blurred": filters.gaussian(noisy, 1), "median": filters.median(noisy, np.ones((3, 3)))}
    return bench.fit(images, noisy, "--truth-noise", "unknown")


@misuse(
    "a noisy reference, and a candidate that is black",
    says='candidate "black": constant (every examined pixel is 0)',
)
def _(bench):
    noisy = TRUTH + np.random.default_rng(5).normal(0, 25, TRUTH.shape).astype(np.float32)
    return bench.fit({"near": near(TRUTH), "black": TRUTH * 0}, noisy, "--truth-noise", "unknown")


@misuse(
    "the input of the candidates as ground truth, without --truth-noise",
    says="the reference seems to be the image that the candidates were restored from",
)
def _(bench):
    noisy = TRUTH + np.random.default_rng(5).normal(0, 25, TRUTH.shape).astype(np.float32)
    images = {"weak": filters.gaussian(noisy, 0.5), "good": filters.gaussian(noisy, 1.2)}
    return bench.fit(images, noisy)


@misuse(
    "a candidate, saved again with its pixels rounded, for the ground truth",
    says='candidate "far" differs from the ground truth by only 0.287',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, np.rint(far(TRUTH)))


@misuse(
    "a noise level ten times too high",
    says="truth_noise is 250, but the flat parts of the ground truth have a noise of about 2",
)
def _(bench):
    noisy = TRUTH + np.random.default_rng(5).normal(0, 25, TRUTH.shape).astype(np.float32)
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, noisy, "--truth-noise", "250")


@misuse(
    "a noise level ten times too low",
    says="truth_noise is 2.5, but the flat parts of the ground truth have a noise of about 2",
)
def _(bench):
    noisy = TRUTH + np.random.default_rng(5).normal(0, 25, TRUTH.shape).astype(np.float32)
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, noisy, "--truth-noise", "2.5")


@misuse(
    "a second exposure that is darker, because the lamp drifted",
    says="the second exposure differs in brightness from the candidates, which are about 1.25",
)
def _(bench):
    noisy = 0.8 * TRUTH + np.random.default_rng(5).normal(0, 10, TRUTH.shape).astype(np.float32)
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, noisy, "--truth-noise", "unknown")


@misuse("EM with a noisy ground truth", says="least-squares")
def _(bench):
    noisy = TRUTH + np.random.default_rng(5).normal(0, 25, TRUTH.shape)
    given = {"near": near(TRUTH), "far": far(TRUTH)}
    return bench.fit(given, noisy, "--truth-noise", "25", "--method", "em")
