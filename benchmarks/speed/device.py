"""Times of the numerical core and of a network on an accelerator, beside the compiled loops of the CPU."""

from __future__ import annotations

import numpy as np

from speed.clock import side_by_side
from speed.images import MODELS
from speed.report import TIMES, both, ratio, table


def time_device(images, device, repeats):
    """Print the times of fit, apply, maps, expected errors and a network on both devices."""
    from napari_ensir import FitSession
    from napari_ensir.restorers import begin_training

    candidates = images[0][0]
    options = {"bin_width": 32, "channel_axis": -1}

    def fit(method, where):
        session = FitSession(images, MODELS, method=method, device=where, check_input=False, **options)
        session.collect(fine=False, folds=False)
        return session.estimate()

    lut = fit("em", "cpu").calibrated(images[:2], device="cpu")
    plane = np.random.default_rng(0).random((512, 512), np.float32)
    trainers = {
        where: begin_training("regression", [(plane, plane)], device=where) for where in ("cpu", device)
    }
    restorers = {where: trainer.restorer() for where, trainer in trainers.items()}
    works = {
        "fit of the ten, em": lambda where: fit("em", where),
        "fit of the ten, em-released": lambda where: fit("em-released", where),
        "fit of the ten, least-squares": lambda where: fit("least-squares", where),
        "apply": lambda where: lut.apply(candidates, device=where),
        "weight maps": lambda where: lut.weight_maps(candidates, device=where),
        "expected error": lambda where: lut.expected_error(candidates, device=where),
        "U-Net, 512 x 512": lambda where: restorers[where](plane),
    }
    rows = []
    for name, work in works.items():
        here, there = side_by_side(
            {where: lambda w=where, f=work: f(w) for where in ("cpu", device)}, repeats
        ).values()
        rows.append([name, both(here), both(there), ratio(here, there)])
    table(
        f"The CPU and {device}, 1280 x 720 RGB, M = 3, b = 32",
        ["work", f"CPU: {TIMES}", device, "CPU / it"],
        rows,
    )
