"""Create the images and scores of docs/gallery.md: ``python docs/make_gallery.py [CASE ...]``."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage import color, data

from napari_ensir import WeightLUT, fit_lut
from napari_ensir.restorers import CLASSICAL, restore_and_combine

if TYPE_CHECKING:
    from collections.abc import Callable

GALLERY = Path(__file__).parent / "gallery"
PAGE = Path(__file__).parent / "gallery.md"
SEED = 20241029
SIDE = 256
MAX_BYTES = 150_000
CAPTION = 24
MARK = re.compile(r"(<!-- case (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Picture = NDArray[np.floating]


@dataclass(frozen=True)
class Case:
    """An image, its degraded version, the candidates and their ensemble; intensities from 0 to 1.

    Attributes
    ----------
    truth, degraded, ensemble : (rows, columns[, 3]) arrays
    candidates : dict of str to arrays of that shape
    lut : WeightLUT
        Learned from other pixels, or without the truth.
    corner : (row, column)
        Upper left corner of the part that is shown.
    expected : array of that shape, optional
        Expected errors.
    """

    truth: Picture
    degraded: Picture
    candidates: dict[str, Picture]
    ensemble: Picture
    lut: WeightLUT
    corner: tuple[int, int]
    expected: Picture | None = None


def main(names: list[str]) -> None:
    """Create the named cases, or all."""
    unknown = set(names) - set(CASES)
    if unknown:
        raise SystemExit(f"Unknown case: {', '.join(sorted(unknown))}; use one of: {', '.join(CASES)}.")
    GALLERY.mkdir(exist_ok=True)
    text = PAGE.read_text(encoding="utf-8")
    for name in names or CASES:
        lines = write_case(name, CASES[name]())
        text = MARK.sub(lambda found, name=name, lines=lines: _fill(found, name, lines), text)
    PAGE.write_text(text, encoding="utf-8")


# -- cases ------------------------------------------------------------------------------------------


def photons(clean: Picture, peak: float, read: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Simulate an exposure: Poisson noise with `peak` photons at full scale, and Gaussian noise of `read`."""
    noisy = rng.poisson(clean * peak) / peak + rng.normal(0, read, clean.shape)
    return noisy.astype(np.float32)


def denoise(noisy: Picture, channel_axis: int | None = None) -> dict[str, Picture]:
    """Restore an image by four methods with default settings."""
    keys = ("non-local-means", "total-variation", "wavelet", "gaussian")
    made = [CLASSICAL[key](channel_axis=channel_axis) for key in keys]
    return {restorer.name: restorer(noisy) for restorer in made}


def blind() -> Case:
    """Coffee with Poisson noise of 50 photons; only the noisy image is used."""
    rng = np.random.default_rng(SEED)
    clean = data.coffee()[90:346, 150:406] / 255
    noisy = photons(clean, 50, 0.0, rng)
    keys = ("non-local-means", "total-variation", "wavelet", "gaussian")
    made = restore_and_combine(noisy, [CLASSICAL[key](channel_axis=-1) for key in keys])
    return Case(
        clean, noisy, dict(zip(made.names, made.candidates, strict=True)), made.ensemble, made.lut, (0, 0)
    )


def exposures() -> Case:
    """Galaxies, two exposures of 50 photons with read noise of 0.015; the second one is the truth."""
    rng = np.random.default_rng(SEED)
    clean = color.rgb2gray(data.hubble_deep_field())[:384, :384]
    first, second = (photons(clean, 50, 0.015, rng) for _ in range(2))
    candidates = denoise(first)
    reference = [(list(candidates.values()), second)]
    # No expected errors: they need one noise level of the truth, and photon noise has none.
    lut = fit_lut(reference, list(candidates), truth_noise="unknown")
    return Case(clean, first, candidates, lut.apply(list(candidates.values())), lut, (100, 128))


def tissue() -> Case:
    """Tissue with Poisson noise of 40 photons and read noise of 0.03; learned on the left, shown right."""
    rng = np.random.default_rng(SEED)
    clean = data.immunohistochemistry() / 255
    noisy = photons(clean, 40, 0.03, rng)
    candidates = denoise(noisy, -1)
    return _learn_left(clean, noisy, candidates, 256, (200, 0), channel_axis=-1)


def coins() -> Case:
    """Coins blurred by a Gaussian of 1.6 pixels, with noise of 0.02; learned on the left, shown right."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(SEED)
    clean = data.coins() / 255
    blurred = (gaussian_filter(clean, 1.6) + rng.normal(0, 0.02, clean.shape)).astype(np.float32)
    deblurring = [
        CLASSICAL["richardson-lucy"](psf_sigma=1.6, iterations=8),
        CLASSICAL["richardson-lucy"](psf_sigma=1.6, iterations=25),
        CLASSICAL["unsupervised-wiener"](psf_sigma=1.6),
        CLASSICAL["total-variation"](),
    ]
    names = ("Richardson-Lucy, 8", "Richardson-Lucy, 25", "Unsupervised Wiener", "Total variation")
    candidates = {name: each(blurred) for name, each in zip(names, deblurring, strict=True)}
    return _learn_left(clean, blurred, candidates, 128, (40, 0))


CASES: dict[str, Callable[[], Case]] = {
    "blind": blind,
    "exposures": exposures,
    "tissue": tissue,
    "coins": coins,
}


def _learn_left(
    clean: Picture,
    degraded: Picture,
    candidates: dict[str, Picture],
    middle: int,
    corner: tuple[int, int],
    **options: int,
) -> Case:
    """Learn from the columns before `middle`, and apply to the others."""
    reference = [([each[:, :middle] for each in candidates.values()], clean[:, :middle].astype(np.float32))]
    lut = fit_lut(reference, list(candidates), method="least-squares", **options).calibrated(reference)
    right = {name: each[:, middle:] for name, each in candidates.items()}
    images = list(right.values())
    expected = lut.expected_error(images)
    return Case(clean[:, middle:], degraded[:, middle:], right, lut.apply(images), lut, corner, expected)


# -- output -----------------------------------------------------------------------------------------


def psnr(image: Picture, truth: Picture) -> float:
    """Return the PSNR in dB, for a peak of 1."""
    return float(-10 * np.log10(np.mean((image - truth) ** 2)))


def score_images(case: Case) -> dict[str, float]:
    """Return the PSNR of each image of a case, over the whole image."""
    average = np.mean(list(case.candidates.values()), axis=0)
    images = {"degraded": case.degraded, **case.candidates, "average": average, "ensemble": case.ensemble}
    return {name: psnr(image, case.truth) for name, image in images.items()}


def write_case(name: str, case: Case) -> str:
    """Write the images of a case, and return the lines of the page that show them."""
    scores = score_images(case)

    def with_score(images: dict[str, Picture]) -> list[tuple[str, str, Picture]]:
        return [(f"{title}, {scores[title]:.2f} dB", title, image) for title, image in images.items()]

    rows = [with_score({"degraded": case.degraded, "ensemble": case.ensemble})]
    rows[0].append(("truth", "truth", case.truth))
    rows.append(with_score(case.candidates))
    maps = case.lut.weight_maps(list(case.candidates.values()))
    maps = maps.mean(axis=-1) if case.truth.ndim == 3 else maps
    weights = [colormaps["viridis"](each)[..., :3] for each in maps]
    titles = [f"weight of {candidate}" for candidate in case.candidates]
    rows.append([(title, title, image) for title, image in zip(titles, weights, strict=True)])
    if case.expected is not None:
        errors = {"expected error": case.expected, "actual error": np.abs(case.ensemble - case.truth)}
        upper = 3 * float(np.mean(case.expected))
        errors = {title: _grey(image) / upper for title, image in errors.items()}
        rows.append([(title, title, colormaps["magma"](image)[..., :3]) for title, image in errors.items()])
    lines = []
    for row in rows:
        links = [
            f"![{caption}](gallery/{_write_picture(name, title, caption, image, case)})"
            for caption, title, image in row
        ]
        lines.append("\n".join(links))
    best = max(case.candidates, key=lambda each: scores[each])
    gain = (
        f"Ensemble {scores['ensemble']:.2f} dB, best candidate {scores[best]:.2f} ({best}), "
        f"average {scores['average']:.2f}."
    )
    return "\n\n".join([gain, *lines]) + "\n"


def _grey(image: Picture) -> Picture:
    return np.sqrt(np.mean(image**2, axis=-1)) if image.ndim == 3 else image


def _write_picture(name: str, title: str, caption: str, image: Picture, case: Case) -> str:
    """Write the part of an image that is shown, with a caption, and return the file name."""
    row, column = case.corner
    part = np.clip(image[row : row + SIDE, column : column + SIDE], 0, 1)
    if part.shape[:2] != (SIDE, SIDE):
        raise SystemExit(f"{name}: there are no {SIDE} x {SIDE} pixels at {case.corner} of {image.shape}.")
    pixels = Image.fromarray(np.rint(255 * part).astype(np.uint8)).convert("RGB")
    sheet = Image.new("RGB", (SIDE, SIDE + CAPTION), "#26272f")
    sheet.paste(pixels, (0, CAPTION))
    ImageDraw.Draw(sheet).text((SIDE // 2, CAPTION // 2), caption, "white", ImageFont.load_default(14), "mm")
    path = GALLERY / f"{name}-{re.sub(r'[^a-z0-9]+', '-', title.lower())}.webp"
    sheet.save(path, quality=82, method=6)
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{path.name} is larger than {MAX_BYTES} bytes; show a smaller part.")
    return path.name


def _fill(found: re.Match[str], name: str, lines: str) -> str:
    return f"{found[1]}{lines}{found[3]}" if found[2] == name else found[0]


if __name__ == "__main__":
    main(sys.argv[1:])
