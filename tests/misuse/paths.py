"""Files and folders: absent, damaged, of another kind, in each other's way."""

from __future__ import annotations

import os

import numpy as np

from .bench import TRUTH, Misuses, far, near

misuse = Misuses()


@misuse("a path that does not exist", says='there is no nowhere.tif (candidate "far")')
def _(bench):
    return bench.fit({"near": near(TRUTH), "far": "nowhere.tif"}, TRUTH)


@misuse("an empty folder", says="holds no image; give a folder of")
def _(bench):
    (bench.folder / "empty").mkdir(exist_ok=True)
    return bench.fit({"near": [near(TRUTH)], "far": bench.folder / "empty"}, [TRUTH])


@misuse("a folder that lacks an image", says="has no image 2, which other folders have")
def _(bench):
    return bench.fit({"near": [near(TRUTH)] * 2, "far": [far(TRUTH)]}, [TRUTH] * 2)


@misuse("a folder for one candidate and a single image for another", says="is a folder but")
def _(bench):
    return bench.fit({"near": [near(TRUTH)], "far": far(TRUTH)}, [TRUTH])


@misuse("a truncated image", says="could not be read")
def _(bench):
    path = bench.write("short", far(TRUTH))
    path.write_bytes(path.read_bytes()[:2000])
    return bench.fit({"near": near(TRUTH), "far": path}, TRUTH)


@misuse("a text file named .png", says="truncated, damaged or not a PNG or JPEG image")
def _(bench):
    path = bench.folder / "notes.png"
    path.write_text("see the other folder")
    return bench.fit({"near": near(TRUTH), "far": path}, TRUTH)


@misuse("a TIFF renamed to .png", says="give files of other formats their own suffix")
def _(bench):
    path = bench.write("far", far(TRUTH)).rename(bench.folder / "far.png")
    return bench.fit({"near": near(TRUTH), "far": path}, TRUTH)


@misuse("a named pipe with the name of an image", says="pipe.png")
def _(bench):
    os.mkfifo(bench.folder / "pipe.png")
    return bench.fit({"near": near(TRUTH), "far": bench.folder / "pipe.png"}, TRUTH)


@misuse("an image given as the lookup table", says="no LUT file")
def _(bench):
    image = bench.write("image", TRUTH)
    return bench.run(
        "apply", "--lut", image, *bench.paths({"near": near(TRUTH)}), "-o", bench.folder / "o.tif"
    )


@misuse(
    "an output that exists already",
    says="exists already; choose another name, or replace it with --overwrite",
)
def _(bench):
    bench.fitted().apply({"near": near(TRUTH), "far": far(TRUTH)})
    return bench.apply({"near": near(TRUTH), "far": far(TRUTH)})


@misuse(
    "images of 8 and of 16 bit in one set",
    says="convert them to one dtype, on the same intensity scale",
)
def _(bench):
    low, high = TRUTH.astype(np.uint8), (TRUTH * 200).astype(np.uint16)
    return bench.fit({"near": [near(low), near(high)], "far": [far(low), far(high)]}, [low, high])


@misuse("the path of a candidate as output", says="which is read")
def _(bench):
    bench.fitted()
    images = {"near": near(TRUTH), "far": far(TRUTH)}
    given = bench.paths(images)
    target = bench.folder / "candidate0.tif"
    table = bench.folder / "table.lut.safetensors"
    return bench.run("apply", "--lut", table, *given, "-o", target, "--overwrite", "-q")


@misuse("the path of the table for the JSON results", says="both lead to")
def _(bench):
    images, table = {"near": near(TRUTH), "far": far(TRUTH)}, bench.folder / "table.lut.safetensors"
    return bench.fit(images, TRUTH, "--json", table)


@misuse("the same path for the ensemble and the weight maps", says="both lead to")
def _(bench):
    bench.fitted()
    return bench.apply({"near": near(TRUTH), "far": far(TRUTH)}, "--weight-maps", bench.folder / "out.tif")
