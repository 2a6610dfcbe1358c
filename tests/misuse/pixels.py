"""Pixels without intensities: NaN, zeros, masks, empty images."""

from __future__ import annotations

import numpy as np
import torch

from napari_ensir import fit_lut, load_lut

from .bench import TRUTH, Misuses, far, near, python

misuse = Misuses()


@misuse(
    "a border of NaN, as registration leaves it",
    says='candidate "far": 21% of its pixels are NaN or infinite; they are not learned from',
)
def _(bench):
    holed = far(TRUTH)
    holed[:, :25] = np.nan
    return bench.fit({"near": near(TRUTH), "far": holed}, TRUTH)


@misuse("a candidate that is NaN everywhere", says="there are no pixels to learn from")
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": np.full_like(TRUTH, np.nan)}, TRUTH)


@misuse(
    "a candidate that is zero everywhere",
    says='candidate "far": constant (every examined pixel is 0); drop it',
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": np.zeros_like(TRUTH)}, TRUTH)


@misuse("a tile that is zero", says="empty region: every pixel is 0 in rows 77 to 111")
def _(bench):
    holed = far(TRUTH)
    holed[77:, 85:] = 0
    return bench.fit({"near": near(TRUTH), "far": holed}, TRUTH)


@misuse("a black border", says="empty region: every pixel is 0 in rows 0 to 111")
def _(bench):
    bordered = far(TRUTH)
    bordered[:4] = bordered[-4:] = 0
    bordered[:, :4] = bordered[:, -4:] = 0
    return bench.fit({"near": near(TRUTH), "far": bordered}, TRUTH)


@misuse(
    "a saturated ground truth",
    says="of the ground truth's pixels have its greatest value, 150, where the candidates vary",
)
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH.clip(0, 150))


@misuse(
    "a mask of probabilities",
    says="100% of the mask's values lie between 0 and 1, and every value above 0 counts as true",
)
def _(bench):
    mask = bench.write("mask", np.where(TRUTH > 100, 0.9, 0.02).astype(np.float32))
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, TRUTH, "--mask", mask)


@misuse("a ground truth that is zero everywhere", says="the ground truth is constant (0)")
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": far(TRUTH)}, np.zeros_like(TRUTH))


@misuse("a mask given as a candidate", says="is of dtype bool; it must hold intensities")
def _(bench):
    return python(fit_lut, [((near(TRUTH) > 9, far(TRUTH)), TRUTH)])


@misuse("a Fourier transform given as a candidate", says="pixels of dtype complex64 cannot be combined")
def _(bench):
    return python(fit_lut, [((near(TRUTH), torch.zeros(112, 120, dtype=torch.complex64)), TRUTH)])


@misuse("an empty crop", says="is empty (shape (112, 0)); it must hold at least one pixel")
def _(bench):
    return python(fit_lut, [((near(TRUTH)[:, :0], far(TRUTH)[:, :0]), TRUTH[:, :0])])


@misuse(
    "one hot pixel in 16 bit",
    says='no method is significantly better than the candidate "near" alone',
)
def _(bench):
    wide = (TRUTH * 15).astype(np.uint16)
    hot = near(wide)
    hot[50, 60] = 65535
    said = bench.fit({"near": hot, "far": far(wide)}, wide)
    assert load_lut(bench.folder / "table.lut.safetensors").data_range[1] < 5000
    return said
