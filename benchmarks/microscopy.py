"""Real microscopy: peers' restorations and our own, with and without a clean truth.

    python benchmarks/microscopy.py FOLDER [--sets NAME ...] [--write]

FOLDER holds ``loading.py`` with ``SETS``, ``PEERS`` and ``load(name)``, which returns for each field the
noisy image, the truth, the peers' restorations and further exposures. ``--write`` writes ``microscopy.md``.
PSNR in dB with peak 255; nothing is clipped.
"""

from __future__ import annotations

import argparse
import platform
import runpy
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_ensir import fit_lut
from napari_ensir.restorers import CLASSICAL, restore_and_combine
from napari_ensir.restorers.noise_model import estimate_noise_model

Field = Mapping[str, Any]
METHODS = {"EM": "em", "least squares": "least-squares", "auto": "auto"}
RESTORERS = ("total-variation", "wavelet", "non-local-means", "gaussian", "median")
EXPOSURES = ("second", "third", "fourth")
PAGE = Path(__file__).with_suffix(".md")


def psnr(image: Any, truth: Any) -> float:
    """Peak 255; nothing clipped."""
    return float(10 * np.log10(255**2 / np.mean((np.float64(image) - np.float64(truth)) ** 2)))


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """A table in Markdown; numbers with two decimals."""

    def cell(value: Any) -> str:
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    titles = list(header)
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    return [*lines, *(f"| {' | '.join(map(cell, row))} |" for row in rows), ""]


def mean_row(name: str, rows: list[list[Any]]) -> list[Any]:
    """The mean of the numbers of each column, under a name."""
    columns = list(zip(*rows, strict=True))[1:]
    return [f"**{name}**", *(float(np.mean([float(v) for v in column])) for column in columns)]


def candidates_of(field: Field, peers: Iterable[str]) -> list[Any]:
    """The peers' restorations of a field, as float32."""
    return [np.float32(field[name]) for name in peers]


def held_out(fields: Mapping[str, Field], peers: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Each field combined by tables of the other fields, with a clean truth."""
    rows, errors, notes = [], [], []
    for name, field in fields.items():
        others = [(candidates_of(f, peers), np.float32(f["truth"])) for n, f in fields.items() if n != name]
        mine = candidates_of(field, peers)
        alone = [psnr(image, field["truth"]) for image in mine]
        row: list[Any] = [name, *alone, psnr(np.mean(mine, axis=0), field["truth"])]
        for method in METHODS.values():
            lut = fit_lut(others, peers, method=method)
            row.append(psnr(lut.apply(mine), field["truth"]))
        rows.append(row)
        lut = lut.calibrated(others)
        expected, made = lut.expected_error(mine), lut.apply(mine)
        error = np.square(made - field["truth"])
        order = np.argsort(expected, axis=None)
        tenths = [
            float(np.sqrt(np.mean(error.ravel()[part])) / np.sqrt(np.mean(expected.ravel()[part] ** 2)))
            for part in np.array_split(order, 10)
        ]
        overall = float(np.sqrt(error.mean()) / np.sqrt(np.mean(expected**2)))
        factor = getattr(lut, "error_factor", None)
        inside = "" if not factor else "yes" if 1 / factor <= overall <= factor else "no"
        errors.append([name, overall, min(tenths), max(tenths), factor or "", inside])
    rows.append(mean_row("mean", rows))
    best = int(np.argmax(rows[-1][1 : 1 + len(peers)]))
    fitted = [row[-1] for row in rows[:-1]]
    gain = np.mean([row[-1] - row[1 + best] for row in rows[:-1]])
    above = sum(value > max(row[1 : 1 + len(peers)]) for value, row in zip(fitted, rows[:-1], strict=True))
    notes.append(
        f"auto lies {gain:+.2f} dB from the candidate that is best in the mean ({peers[best]}), "
        f"and above the field's best candidate in {above} of {len(fitted)} fields."
    )
    page = table(["field", *peers, "average", *METHODS], rows)
    page += [*notes, ""]
    page += ["Actual over expected error (RMSE), tables of the other fields; *tenths* by expected error:", ""]
    page += table(["field", "overall", "least tenth", "greatest tenth", "factor", "within"], errors)
    return page, notes


def second_exposures(fields: Mapping[str, Field], peers: tuple[str, ...]) -> list[str]:
    """Tables from another exposure of the same field, beside one from the clean truth."""
    rows, wrong = [], 0
    for name, field in fields.items():
        mine = candidates_of(field, peers)
        truth = np.float32(field["truth"])
        clean = psnr(fit_lut([(mine, truth)], peers, method="least-squares").apply(mine), truth)
        for which in EXPOSURES:
            if which not in field:
                continue
            lut = fit_lut([(mine, np.float32(field[which]))], peers, truth_noise="unknown")
            made = psnr(lut.apply(mine), truth)
            stars = [row["name"] for row in lut.report["scores"]["rows"] if row["best"]]
            scores = {n: psnr(image, truth) for n, image in zip(peers, mine, strict=True)}
            scores |= {"average": psnr(np.mean(mine, axis=0), truth)}
            is_wrong = any(
                star in scores and scores[star] < max(made, *scores.values()) - 0.05 for star in stars
            )
            wrong += is_wrong
            said = "; ".join(lut.report["warnings"])
            rows.append(
                [f"{name} {which}", clean, made, made - clean, ", ".join(stars), "yes" if said else ""]
            )
    if not rows:
        return []
    worst, mean = min(row[3] for row in rows), float(np.mean([row[3] for row in rows]))
    page = table(["exposure", "clean truth", "this exposure", "difference", "stars", "warned"], rows)
    return [
        *page,
        f"{len(rows)} exposures: {mean:+.2f} dB against the clean truth on average, {worst:+.2f} at worst; "
        f"wrong stars: {wrong}.",
        "",
    ]


def scales(fields: Mapping[str, Field], peers: tuple[str, ...]) -> list[str]:
    """Candidates as their programs saved them (``raw_...``), and matched ones, with what is said of them."""
    found, false, n_raw, n_matched = 0, 0, 0, 0
    for field in fields.values():
        truth = np.float32(field["truth"])
        codes = codes_of(fit_lut([(candidates_of(field, peers), truth)], peers))
        false += "scale-mismatch" in codes
        n_matched += 1
        for key in (k for k in field if k.startswith("raw_")):
            n_raw += 1
            mine = [*candidates_of(field, peers[:2]), np.float32(field[key])]
            found += "scale-mismatch" in codes_of(fit_lut([(mine, truth)], [*peers[:2], key]))
    text = f"Named falsely among matched fields: {false} of {n_matched}."
    return [f"Candidates on another scale: {found} of {n_raw} named. {text}" if n_raw else text, ""]


def codes_of(lut: Any) -> set[str]:
    """Codes of a table's diagnostics."""
    return {each["code"] for each in lut.report.get("diagnostics", [])}


def noise_levels(fields: Mapping[str, Field]) -> list[str]:
    """The noise estimated from the noisy image alone, against the truth."""
    rows = []
    for name, field in fields.items():
        noisy, truth = np.float32(field["noisy"]), np.float32(field["truth"])
        true = float(np.sqrt(np.mean((noisy - truth) ** 2)))
        model = estimate_noise_model(noisy)
        rows.append([name, true, float(model.level), float(model.level) / true, str(model)])
    return table(["field", "true", "estimated", "ratio", "model"], rows)


def blind(fields: Mapping[str, Field]) -> list[str]:
    """One noisy image and nothing else: our restorers, combined."""
    rows, right = [], 0
    for name, field in fields.items():
        noisy, truth = np.float32(field["noisy"]), np.float32(field["truth"])
        began = time.perf_counter()
        made = restore_and_combine(noisy, [CLASSICAL[key]() for key in RESTORERS], RESTORERS)
        seconds = time.perf_counter() - began
        mine = [np.float32(image) for image in made.candidates]
        alone = [psnr(image, truth) for image in mine]
        clean = psnr(fit_lut([(mine, truth)], RESTORERS, method="least-squares").apply(mine), truth)
        ensemble = psnr(made.ensemble, truth)
        right += ensemble >= max(alone) - 0.1
        rows.append(
            [
                name,
                psnr(noisy, truth),
                max(alone),
                psnr(np.mean(mine, axis=0), truth),
                ensemble,
                clean,
                seconds,
            ]
        )
    rows.append(mean_row("mean", rows))
    page = table(["field", "noisy", "best candidate", "average", "ensemble", "clean truth", "seconds"], rows)
    return [
        *page,
        f"Not below the best candidate by more than 0.1 dB in {right} of {len(rows) - 1} fields.",
        "",
    ]


SECTIONS: dict[str, str] = {
    "held_out": "Peers' restorations, tables of the other fields",
    "second": "Another exposure as the truth",
    "scales": "Scales",
    "noise": "Noise of one image",
    "blind": "One noisy image and nothing else",
}


def main() -> None:
    """Print all tables, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    module = runpy.run_path(str(given.folder / "loading.py"))
    warnings.simplefilter("ignore")
    began = time.process_time()
    page: list[str] = []
    for name in given.sets or module["SETS"]:
        fields, peers = module["load"](name), tuple(module["PEERS"][name])
        parts: dict[str, Callable[[], list[str]]] = {
            "held_out": lambda f=fields, p=peers: held_out(f, p)[0],
            "second": lambda f=fields, p=peers: second_exposures(f, p),
            "scales": lambda f=fields, p=peers: scales(f, p),
            "noise": lambda f=fields: noise_levels(f),
            "blind": lambda f=fields: blind(f),
        }
        page += [f"## {name}: {len(fields)} fields", ""]
        for key in given.only:
            lines = parts[key]()
            if lines:
                page += [f"### {SECTIONS[key]}", "", *lines]
            print("\n".join([f"### {name}: {SECTIONS[key]}", *lines]), flush=True)
    if given.write:
        head = PAGE.read_text("utf-8").split("## ", 1)[0] if PAGE.exists() else "# Real microscopy\n\n"
        ran = (
            f"Run on {time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {platform.machine()}; "
        )
        ran += f"{time.process_time() - began:.0f} s of processor time."
        PAGE.write_text(head + "\n".join([*page, ran, ""]), "utf-8")


if __name__ == "__main__":
    main()
