"""Small images, a runner of the command line, and the list of mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from skimage import data, filters
from typer.testing import CliRunner

from napari_ensir import EnsembleError
from napari_ensir.cli.app import app
from napari_ensir.files import write_image

if TYPE_CHECKING:
    from collections.abc import Callable

RNG = np.random.default_rng(20)
TRUTH = data.camera()[96:208, 160:280].astype(np.float32)  # 112 x 120, 0 to 255
SQUARE = TRUTH[:, :112]
COLOUR = data.astronaut()[60:172, 170:290]
STACK = (700 + 8000 * filters.gaussian(RNG.normal(size=(7, 96, 104)), (1.2, 3, 3))).astype(np.uint16)

TABLES: dict[tuple[bytes, tuple[object, ...]], bytes] = {}
"""Contents of the tables that were fitted without a mistake, by ground truth and options."""


def near(image, sigma=6, seed=1):
    """Return a good restoration of an image: with little noise and blur, in its dtype."""
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
    """Write images, run the command line on them and return its standard error."""

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
        """Return the options of candidates, given as arrays, lists of arrays (for a folder) or paths."""
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
        """Fit a table of the candidates ``near`` and ``far``, without a mistake."""
        images = {"near": near(truth), "far": far(truth)}
        table, key = self.folder / "table.lut.safetensors", (truth.tobytes(), options)
        if key in TABLES:
            self.paths(images)
            self.path("truth", truth)
            table.write_bytes(TABLES[key])
        else:
            assert self.fit(images, truth, *options) == ""
            TABLES[key] = table.read_bytes()
        return self


def python(function, *arguments, **keywords):
    """Return the error or the warnings of a call of a Python function."""
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
    what : description of the mistake
    make : function that makes the mistake and returns the message
    says : part of the expected message; empty if there is no message
    unseen : why there is no message
    """

    what: str
    make: Callable[[Bench], str]
    says: str = ""
    unseen: str = ""


class Misuses(list[Misuse]):
    """List of mistakes; call it to decorate a function that makes a further one."""

    def __call__(self, what: str, *, says: str = "", unseen: str = "") -> Callable:
        assert bool(says) != bool(unseen)

        def note(make: Callable[[Bench], str]) -> Callable[[Bench], str]:
            self.append(Misuse(what, make, says, unseen))
            return make

        return note
