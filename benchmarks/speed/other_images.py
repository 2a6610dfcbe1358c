"""Times for one large field of 16 bit and of floats, for many small images, and for SSIM."""

from __future__ import annotations

import numpy as np

from speed.clock import median_time, side_by_side
from speed.images import average_of, synthetic
from speed.report import TIMES, Report, both, ratio, table


def time_sixteen_bit(repeats):
    from napari_ensir import fit_lut

    candidates, truth = synthetic((3200, 3200), np.uint16, 60000, 0)
    floats = [c.astype(np.float32) for c in candidates], truth.astype(np.float32)
    lut = fit_lut([(candidates, truth)], method="em", device="cpu")
    times = side_by_side(
        {
            "averaging, uint16, numpy": lambda: average_of(candidates),
            "apply, uint16": lambda: lut.apply(candidates, device="cpu"),
            "apply, float32": lambda: lut.apply(floats[0], device="cpu"),
            "apply, uint16, without checks of the images": lambda: lut.apply(
                candidates, device="cpu", check=False
            ),
            "fit, em, uint16": lambda: fit_lut([(candidates, truth)], method="em", device="cpu"),
            "fit, em, float32": lambda: fit_lut([floats], method="em", device="cpu"),
            "fit, the best method, uint16": lambda: fit_lut([(candidates, truth)], device="cpu"),
        },
        repeats,
    )
    average = times["averaging, uint16, numpy"]
    Report.aim("apply, uint16, 10 megapixels, of numpy's averaging", "0.5", times["apply, uint16"], average)
    Report.aim("fit, uint16, 10 megapixels", "0.15 s", times["fit, em, uint16"])
    Report.aim("fit, float32, 10 megapixels", "0.3 s", times["fit, em, float32"])
    table(
        "One 3200 x 3200 field (10.2 megapixels), M = 3, 8 bins",
        ["what", TIMES, "of the averaging"],
        [[name, both(took), ratio(took, average)] for name, took in times.items()],
    )


def time_small_images(repeats):
    from napari_ensir import fit_lut

    rng = np.random.default_rng(0)
    rows = []
    for dtype in (np.uint8, np.uint16):
        stack = rng.integers(0, 250, (10_000, 4, 8, 8)).astype(dtype)
        pairs = [(list(images[:3]), images[3]) for images in stack]
        for n in (1000, 10_000):
            took = median_time(lambda n=n, p=pairs: fit_lut(p[:n], device="cpu"), repeats)
            rows.append([f"{n:,} pairs, {np.dtype(dtype)}", both(took), f"{took[0] / n * 1e3:.2f} ms"])
    table("Fit of many images of 8 x 8, M = 3", ["what", TIMES, "each"], rows)


def time_ssim(repeats):
    from skimage.metrics import structural_similarity

    from napari_ensir.ensemble.scoring.metrics import evenly_spaced_planes, ssim

    (image, *_), truth = synthetic((1024, 1024), np.uint16, 60000, 0)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    wide = truth.astype(np.float64), image.astype(np.float64)
    values = structural_similarity(*wide, data_range=60000, **window), ssim(truth, image, 60000)
    times = side_by_side(
        {
            "scikit-image": lambda: structural_similarity(*wide, data_range=60000, **window),
            "ours": lambda: ssim(truth, image, 60000),
        },
        repeats,
    )
    ours = times["ours"]
    planes = len(evenly_spaced_planes((100, 1024, 1024)))
    Report.say(f"\nOf 100 planes of 1024 x 1024, {planes} are scored where a stack is judged by its planes.")
    table(
        "SSIM of one 1024 x 1024 plane, uint16",
        ["what", TIMES, "of ours", "value"],
        [
            [name, both(took), ratio(took, ours), f"{value:.12f}"]
            for (name, took), value in zip(times.items(), values, strict=True)
        ],
    )
