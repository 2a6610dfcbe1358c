"""Times of fit, apply, and changes of method or bin width, on the ten images of the reference set."""

from __future__ import annotations

import contextlib

import numpy as np

from speed.clock import median_time, side_by_side
from speed.images import MODELS, average_of
from speed.report import TIMES, Report, both, ratio, table

UNCHECKED = "without checks of the images"


@contextlib.contextmanager
def torch_engine():
    """Compute with torch instead of the compiled loops."""
    from napari_ensir.ensemble import engines

    engines.forced = "torch"
    try:
        yield
    finally:
        engines.forced = None


def time_fit(images, authors, repeats):
    from napari_ensir import FitSession, fit_lut

    settings = {"bin_width": 32, "channel_axis": -1, "device": "cpu"}

    def fit(method="em"):
        return fit_lut(images, MODELS, method=method, **settings)

    def fit_unchecked():
        session = FitSession(images, MODELS, method="em", check_input=False, **settings)
        session.collect(fine=False, folds=False)
        return session.estimate()

    methods = {"em, compiled loops": "em", "em-released": "em-released", "least-squares": "least-squares"}
    works = {name: lambda m=m: fit(m) for name, m in methods.items()}
    times = side_by_side({**works, f"em, {UNCHECKED}": fit_unchecked}, repeats)
    rows = [[name, both(took), ""] for name, took in times.items()]
    with torch_engine():
        alone = median_time(fit, max(2, repeats // 3))
    rows.append(["em, torch alone", both(alone), ""])
    Report.aim("fit of the ten, torch alone", "0.8 s", alone)
    weights = []
    if authors is not None:
        theirs = median_time(lambda: weights.append(authors.fit(images, 32)), 1, warm=False)
        ours = times["em, compiled loops"]
        rows.append(["the authors' code, once", both(theirs), ratio(theirs, ours) + " x em"])
        Report.aim("fit of the ten, em, times as fast as the authors' code", "600", theirs, ours)
        alone = times[f"em, {UNCHECKED}"]
        Report.aim(f"the same {UNCHECKED}", "600", theirs, alone)
    table("Fit, ten 1280 x 720 RGB images, M = 3, b = 32", ["what", TIMES, "ratio"], rows)
    return weights[0] if weights else None


def time_apply(images, authors, weights, repeats):
    import torch

    from napari_ensir import fit_lut

    candidates = images[0][0]
    stack = torch.from_numpy(np.stack(candidates))
    luts = {
        width: fit_lut(images[:4], MODELS, method="em", bin_width=width, channel_axis=-1, device="cpu")
        for width in (32, 16, 8)
    }
    works = {"averaging, torch": lambda: stack.to(torch.float32).mean(0)}
    works["averaging, numpy"] = lambda: average_of(candidates)
    for width, lut in luts.items():
        works[f"ensemble, b = {width}"] = lambda lut=lut: lut.apply(candidates, device="cpu")
        works[f"ensemble, b = {width}, {UNCHECKED}"] = lambda lut=lut: lut.apply(
            candidates, device="cpu", check=False
        )
    works["weight maps, b = 32"] = lambda: luts[32].weight_maps(candidates, device="cpu")
    times = side_by_side(works, repeats)
    with torch_engine():
        times["ensemble, b = 32, torch alone"] = median_time(
            lambda: luts[32].apply(candidates, device="cpu"), max(3, repeats // 3)
        )
    average = times["averaging, torch"]
    for width, wanted in ((32, "1.2"), (16, "1.3"), (8, "1.3")):
        for name in ("", f", {UNCHECKED}"):
            took = times[f"ensemble, b = {width}{name}"]
            Report.aim(f"apply, b = {width}{name}, of torch's averaging", wanted, took, average)
    Report.aim("weight maps, of torch's averaging", "2", times["weight maps, b = 32"], average)
    Report.aim("apply, torch alone", "25 ms", times["ensemble, b = 32, torch alone"])
    rows = [[name, both(took), ratio(took, average), ""] for name, took in times.items()]
    if authors is not None:
        tensor = authors.tensor(candidates)
        theirs = median_time(lambda: authors.apply(weights, tensor, 32), 3)
        next(row for row in rows if row[0] == "ensemble, b = 32")[3] = (
            f"{both(theirs)}: {ratio(theirs, times['ensemble, b = 32'])} x ours"
        )
    table(
        "Apply, one 1280 x 720 RGB image, M = 3",
        ["what", TIMES, "of torch's averaging", "the authors' code"],
        rows,
    )


def time_refit(images, repeats):
    from napari_ensir.ensemble.lut.lut import estimate_lut
    from napari_ensir.ensemble.statistics.binning import choose_binning
    from napari_ensir.ensemble.statistics.reference import collect_reference

    kept = collect_reference(images, MODELS, bin_width=32, channel_axis=-1, device="cpu", refine=4)
    rows = []
    for method in ("em", "em-released", "least-squares"):
        times = []
        for width in (8, 16, 32, 64):
            binning = choose_binning(np.uint8, (0, 255), width)
            work = median_time(lambda b=binning, m=method: estimate_lut(kept, m, binning=b), repeats)
            times.append(both(work))
            if (method, width) == ("em", 8):
                Report.aim("b = 8, em, from statistics kept", "50 ms", work)
        rows.append([method, *times])
    sets = [len(kept.statistics.coarsened(factor).rows) for factor in (1, 2, 4, 8)]
    table(
        "Change of method or width after a fit of the ten images, from statistics kept at b = 8",
        ["method", *(f"b = {8 * 2**k}, {n:,} bin sets" for k, n in enumerate(sets))],
        rows,
    )
