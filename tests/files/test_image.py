from __future__ import annotations

import errno
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_ensir import EnsembleError
from napari_ensir.files import (
    Part,
    References,
    as_dtype,
    atomic,
    open_image,
    open_set,
    read_image,
    sets,
    write_image,
)
from napari_ensir.files.atomic import whole_file, whole_folder

RNG = np.random.default_rng(7)


def pixels(shape, dtype=np.uint8):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return RNG.normal(size=shape).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


# -- single images ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("grey.png", (13, 17), np.uint8),
        ("rgb.png", (13, 17, 3), np.uint8),
        ("grey16.png", (13, 17), np.uint16),
        ("rgb16.png", (13, 17, 3), np.uint16),
        ("stack.tif", (4, 13, 17), np.uint16),
        ("rgb.tiff", (13, 17, 3), np.uint8),
        ("rgb stack.tif", (4, 13, 17, 3), np.uint8),
        ("float.tif", (13, 17), np.float32),
        ("signed.tif", (13, 17), np.int16),
        ("volume.zarr", (4, 13, 17), np.uint16),
    ],
)
def test_what_is_written_is_read(tmp_path, name, shape, dtype):
    image = pixels(shape, dtype)
    path = write_image(tmp_path / name, image, is_colour=shape[-1] == 3)
    again = read_image(path)
    assert again.dtype == image.dtype
    np.testing.assert_array_equal(np.asarray(again), image)
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_headers_are_read_without_pixels(tmp_path):
    path = write_image(tmp_path / "a.png", pixels((5, 6, 3), np.uint16))
    image = open_image(path)
    assert (image.shape, image.dtype, image.is_colour) == ((5, 6, 3), np.uint16, True)
    assert "pixels" not in vars(image)


def test_sixteen_bit_colour_png_of_other_programs(tmp_path):
    """Every row with another filter, which Pillow must undo before the halves are put together."""
    image = pixels((5, 4, 3), np.uint16)
    rows = image.astype(">u2").view(np.uint8).reshape(5, -1).astype(int)
    left = np.hstack([np.zeros((5, 6), int), rows[:, :-6]])
    above = np.vstack([np.zeros((1, 24), int), rows[:-1]])
    corner = np.hstack([np.zeros((5, 6), int), above[:, :-6]])
    paeth = np.where(
        (abs(above - corner) <= abs(left - corner)) & (abs(above - corner) <= abs(left + above - 2 * corner)),
        left,
        np.where(abs(left - corner) <= abs(left + above - 2 * corner), above, corner),
    )
    guess = [0, left, above, (left + above) // 2, paeth]
    filtered = b"".join(
        bytes([k]) + ((rows - guess[k])[k] % 256).astype(np.uint8).tobytes() for k in range(5)
    )
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 5, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(filtered)),
        (b"IEND", b""),
    ]
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    )
    np.testing.assert_array_equal(read_image(path), image)


def test_jpeg_and_palette(tmp_path):
    Image.fromarray(pixels((16, 16, 3))).save(tmp_path / "a.jpg")
    Image.fromarray(pixels((16, 16, 3))).quantize(8).save(tmp_path / "p.png")
    assert read_image(tmp_path / "a.jpg").shape == (16, 16, 3)
    assert read_image(tmp_path / "p.png").shape == (16, 16, 3)


def as_pgm(path):
    path.write_bytes(b"P5\n6 4\n65535\n" + pixels((4, 6), np.uint16).astype(">u2").tobytes())


@pytest.mark.parametrize(
    "write",
    [
        lambda path: Image.fromarray(pixels((4, 6), np.uint16)).save(path, format="TIFF"),
        lambda path: Image.fromarray(pixels((4, 6))).save(path, format="BMP"),
        lambda path: Image.fromarray(pixels((4, 6))).save(path, format="GIF"),
        as_pgm,
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_what_is_no_png_and_no_jpeg_is_not_decoded(tmp_path, write, suffix):
    path = tmp_path / f"a{suffix}"
    write(path)
    with pytest.raises(EnsembleError, match="not a PNG or JPEG image"):
        open_image(path)


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/it_ran\necho 10.0\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(EnsembleError, match="not a PNG or JPEG image"):
        read_image(tmp_path / "a.png")
    assert not (tmp_path / "it_ran").exists()


def test_the_first_chunk_of_a_png_need_not_be_its_header(tmp_path):
    """How deep a PNG is, is what the decoder found, not what stands at some place."""
    image = pixels((4, 6, 3), np.uint16)
    content = write_image(tmp_path / "a.png", image).read_bytes()
    text = struct.pack(">I", 9) + b"tEXtComment\0\x08" + struct.pack(">I", zlib.crc32(b"tEXtComment\0\x08"))
    (tmp_path / "b.png").write_bytes(content[:8] + text + content[8:])
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), image)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_images_on_their_side(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels((8, 9))).save(tmp_path / f"a{suffix}", exif=exif)
    with pytest.raises(EnsembleError, match=r"lies on its side .*save it upright"):
        open_image(tmp_path / f"a{suffix}")
    exif[0x0112] = 1
    Image.fromarray(pixels((8, 9))).save(tmp_path / f"b{suffix}", exif=exif)
    assert read_image(tmp_path / f"b{suffix}").shape == (8, 9)


def test_animated_png(tmp_path):
    pages = [Image.fromarray(pixels((8, 8))) for _ in range(3)]
    pages[0].save(tmp_path / "a.png", save_all=True, append_images=pages[1:])
    with pytest.raises(EnsembleError, match=r"animated \(3 pages\)"):
        open_image(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(EnsembleError, match="is a pipe or a device"):
        open_image(tmp_path / "a.png")
    with pytest.raises(EnsembleError, match="is a pipe or a device"):
        open_set({"A": tmp_path}).load(0)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_channel(tmp_path, mode, suffix):
    path = tmp_path / f"a{suffix}"
    Image.new(mode, (8, 8)).save(path)
    with pytest.raises(EnsembleError, match=r"a\.\w+ has an alpha channel"):
        open_image(path)


def test_transparent_colour_and_masks(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "t.png", transparency=(0, 0, 0))
    with pytest.raises(EnsembleError, match="alpha"):
        open_image(tmp_path / "t.png")
    Image.new("1", (8, 8)).save(tmp_path / "m.png")
    with pytest.raises(EnsembleError, match="mask"):
        open_image(tmp_path / "m.png")
    Image.new("CMYK", (8, 8)).save(tmp_path / "c.jpg")
    with pytest.raises(EnsembleError, match="CMYK"):
        open_image(tmp_path / "c.jpg")


@pytest.mark.parametrize("name", ["a.png", "deep.png", "a.jpg", "a.tif", "stack.tif", "plain.tif"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.97])
def test_truncated_file(tmp_path, name, kept):
    path = tmp_path / name
    if name == "a.jpg":
        Image.fromarray(pixels((64, 64, 3))).save(path)
    elif name == "plain.tif":
        tifffile.imwrite(path, pixels((64, 64)))
    else:
        write_image(
            path,
            pixels(
                (64, 64, 3) if name == "deep.png" else (3, 64, 64) if "st" in name else (64, 64), np.uint16
            ),
        )
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(EnsembleError, match="truncated"):
        read_image(path)


def test_not_an_image(tmp_path):
    (tmp_path / "a.png").write_text("no image at all")
    (tmp_path / "a.txt").write_text("no image at all")
    for name, words in (
        ("a.png", "not a PNG or JPEG image"),
        ("a.txt", "unsupported format"),
        ("b.png", "there is no"),
    ):
        with pytest.raises(EnsembleError, match=words):
            read_image(tmp_path / name)
    with pytest.raises(EnsembleError, match="is a folder"):
        read_image(tmp_path)


def test_unlike_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels((8, 8)))
        file.write(pixels((9, 9)))
    with pytest.raises(EnsembleError, match="2 images"):
        open_image(tmp_path / "a.tif")


def test_formats_that_would_lose(tmp_path):
    for name, image in (
        ("a.jpg", pixels((8, 8))),
        ("a.png", pixels((8, 8), np.float32)),
        ("a.xyz", pixels((8, 8))),
    ):
        with pytest.raises(EnsembleError, match=r"choose a name|Choose a name"):
            write_image(tmp_path / name, image)
    assert not list(tmp_path.iterdir())


# -- Zarr ---------------------------------------------------------------------------------------------


def test_ome_zarr(tmp_path):
    zarr = pytest.importorskip("zarr")
    image = pixels((2, 20, 30), np.uint16)
    group = zarr.open_group(str(tmp_path / "a.ome.zarr"), mode="w")
    group.create_array("full", shape=image.shape, chunks=(1, 10, 10), dtype=image.dtype)[...] = image
    axes = [{"name": name, "type": "space"} for name in "zyx"]
    scale = {"path": "full", "coordinateTransformations": [{"type": "scale", "scale": [2.0, 0.5, 0.5]}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [scale]}]}
    opened = open_image(tmp_path / "a.ome.zarr")
    assert opened.chunks == (1, 10, 10)
    assert hasattr(opened.array, "dask")
    write_image(tmp_path / "b.ome.zarr", opened.array, like=opened)
    again = open_image(tmp_path / "b.ome.zarr")
    assert (again.chunks, again.ome["axes"]) == (opened.chunks, axes)
    assert again.ome["datasets"][0]["coordinateTransformations"] == scale["coordinateTransformations"]
    np.testing.assert_array_equal(again.array.compute(), image)


def test_damaged_zarr(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    with pytest.raises(EnsembleError, match="could not be read as Zarr"):
        open_image(tmp_path / "a.zarr")
    zarr = pytest.importorskip("zarr")
    zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    with pytest.raises(EnsembleError, match="without an OME-Zarr image"):
        open_image(tmp_path / "g.zarr")


def test_chunks_are_read_in_whole_multiples(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(40, 700, 700), chunks=(1, 64, 64), dtype="uint8")
    array = open_image(tmp_path / "a.zarr").array
    assert all(
        size % stored == 0 for size, stored in zip(array.chunksize[1:], (64, 64), strict=True) if size < 700
    )
    assert array.npartitions < 40


# -- sets ---------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """Two candidates and truth, three images each, of unlike formats."""
    found = {}
    for role, suffix in (("A", ".png"), ("B", ".tif"), ("truth", ".png")):
        folder = tmp_path / role
        folder.mkdir()
        for stem in ("one", "two", "three"):
            write_image(folder / f"{stem}{suffix}", pixels((12, 14)))
        found[role] = folder
    return {"A": found["A"], "B": found["B"]}, {Part.TRUTH: found["truth"]}


def test_folders_are_matched_by_stem(folders):
    images = open_set(*folders)
    assert [stem for stem, _ in images.fields] == ["one", "three", "two"]
    references = References(images)
    assert len(references) == 3
    candidates, truth = references[-1]
    assert len(candidates) == 2
    np.testing.assert_array_equal(truth[:3], read_image(folders[1][Part.TRUTH] / "two.png")[:3])


@pytest.mark.parametrize(("n_kept", "n_loaded"), [(1, 5), (3, 3)])
def test_images_are_kept_for_a_second_pass_up_to_a_limit(folders, monkeypatch, n_kept, n_loaded):
    loaded, load = [], sets.ImageSet.load
    monkeypatch.setattr(sets, "KEPT_BYTES", n_kept * 3 * (12 * 14 + sets.OVERHEAD))
    monkeypatch.setattr(sets.ImageSet, "load", lambda *call: loaded.append(call) or load(*call))
    references = References(open_set(*folders))
    passes = [[np.asarray(truth) for _, truth in references] for _ in range(2)]
    np.testing.assert_array_equal(*passes)
    assert len(loaded) == n_loaded


def test_missing_stem_is_named(folders):
    (folders[0]["B"] / "two.tif").unlink()
    with pytest.raises(EnsembleError, match=r'B \(candidate "B"\) has no image two'):
        open_set(*folders)


def test_two_files_of_one_stem(folders):
    write_image(folders[0]["A"] / "two.tif", pixels((12, 14)))
    with pytest.raises(EnsembleError, match=r"both two\.png and two\.tif"):
        open_set(*folders)


def test_empty_folder(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(EnsembleError, match="holds no image"):
        open_set(folders[0] | {"C": tmp_path / "empty"}, folders[1])


def test_folder_mixed_with_image(folders):
    with pytest.raises(EnsembleError, match=r"is a folder but .* is one image"):
        open_set(folders[0] | {"C": folders[0]["A"] / "one.png"}, folders[1])


def test_one_path_for_two_roles(folders):
    with pytest.raises(EnsembleError, match='given twice: as candidate "A" and as candidate "C"'):
        open_set(folders[0] | {"C": folders[0]["A"]}, folders[1])


def test_unlike_sizes(folders):
    write_image(folders[0]["B"] / "two.tif", pixels((10, 20)), overwrite=True)
    with pytest.raises(EnsembleError, match=r"image two: .*\(10, 20\).*\(12, 14\).*--crop"):
        open_set(*folders).load(2)
    cropped = open_set(*folders, crop=True).load(2)
    assert {array.shape for array in cropped.values()} == {(10, 14)}
    np.testing.assert_array_equal(cropped["A"], read_image(folders[0]["A"] / "two.png")[:10])


def test_grey_mixed_with_rgb(folders):
    write_image(folders[0]["A"] / "two.png", pixels((12, 14, 3)), overwrite=True)
    with pytest.raises(EnsembleError, match=r'image two: candidate "B" is grey but candidate "A" is RGB'):
        open_set(*folders).load(2)


def test_no_name_is_a_role(folders):
    """A candidate may be called as other parts are spoken of."""
    candidates, others = folders
    named = {"the ground truth": candidates["A"], "TRUTH": candidates["B"]}
    images = open_set(named, others)
    assert images.roles == ("the ground truth", "TRUTH", Part.TRUTH)
    (first, second), truth = References(images)[0]
    for array, folder, suffix in (
        (first, candidates["A"], ".png"),
        (second, candidates["B"], ".tif"),
        (truth, others[Part.TRUTH], ".png"),
    ):
        np.testing.assert_array_equal(array[:], read_image(folder / f"one{suffix}"))


# -- out ----------------------------------------------------------------------------------------------


def test_dtypes_are_rounded_and_clipped():
    image = np.array([-1.0, 0.4, 0.6, 65535.4, 1e9, np.nan], np.float32)
    assert as_dtype(image, np.dtype(np.uint16)).tolist() == [0, 0, 1, 65535, 65535, 0]
    assert as_dtype(np.array([1e30]), np.dtype(np.int64)) > 2**62
    assert as_dtype(image, np.dtype(np.float64)).dtype == np.float64


def test_never_overwrites_unasked(tmp_path):
    for name in ("a.png", "a.zarr"):
        path = write_image(tmp_path / name, pixels((8, 8)))
        before = np.asarray(read_image(path))
        with pytest.raises(EnsembleError, match="exists already"):
            write_image(path, pixels((8, 8)))
        np.testing.assert_array_equal(np.asarray(read_image(path)), before)
        new = pixels((8, 8))
        write_image(path, new, overwrite=True)
        np.testing.assert_array_equal(np.asarray(read_image(path)), new)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.png", "a.zarr"]


@pytest.mark.parametrize("target", ["/dev/null/a.png", "nowhere/a.png"])
def test_unwritable_target(tmp_path, target):
    with pytest.raises(EnsembleError, match=r"cannot be written|could not be written"):
        write_image(tmp_path / target, pixels((8, 8)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_write_protected_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(EnsembleError, match="no permission"):
            write_image(tmp_path / "a.png", pixels((8, 8)))
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("how", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_whatever_is_raised_leaves_the_old(tmp_path, how, whole):
    target = tmp_path / "old"
    if whole is whole_file:
        target.write_text("old")
    else:
        target.mkdir()
        (target / "old").write_text("old")
    expected = EnsembleError if isinstance(how, OSError) else how

    def stop(part):
        (part if part.is_file() else part / "new").write_text("half")
        raise how

    with pytest.raises(expected), whole(target, overwrite=True) as part:
        stop(part)
    assert (target if target.is_file() else target / "old").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["old"]


def test_a_writer_leaves_alone_what_another_thread_has_just_begun(tmp_path, monkeypatch):
    lock = atomic._lock

    def lock_late(part):
        monkeypatch.setattr(atomic, "_lock", lock)
        atomic._cleared.discard(tmp_path.resolve())
        with whole_file(tmp_path / "b") as other:
            other.write_text("b")
        return lock(part)

    monkeypatch.setattr(atomic, "_lock", lock_late)
    with whole_file(tmp_path / "a") as part:
        part.write_text("a")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "b"]


WRITE = """
import resource, sys
import numpy as np
from napari_ensir import EnsembleError
from napari_ensir.files import write_image
noise = np.random.default_rng(0).integers(0, 65536, (1000, 1000), np.uint16)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
for name in sys.argv[1:]:
    try:
        write_image(name, noise)
    except EnsembleError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no such limit here")
def test_no_room_for_the_file(tmp_path):
    """The system refuses to write on in mid-file, as it does when a disk is full."""
    names = [tmp_path / name for name in ("a.png", "a.tif", "a.zarr")]
    done = subprocess.run([sys.executable, "-c", WRITE, *names], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == len(names)
    assert all("could not be written" in line for line in said)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small disk takes root")
def test_full_disk(tmp_path):
    """The real thing, where it can be had: a file system of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        for name in ("a.png", "a.tif", "a.zarr"):
            with pytest.raises(EnsembleError, match="No space left"):
                write_image(disk / name, pixels((1000, 1000), np.uint16))
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_damaged_chunk_is_one_sentence(tmp_path):
    zarr = pytest.importorskip("zarr")
    store = zarr.create_array(str(tmp_path / "a.zarr"), shape=(8, 8), chunks=(4, 4), dtype="uint16")
    store[:] = np.arange(64).reshape(8, 8)
    chunks = [
        path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file() and path.name != "zarr.json"
    ]
    assert len(chunks) == 4
    for path in chunks:
        path.write_bytes(b"no chunk at all")
    with pytest.raises(EnsembleError, match=r"a chunk of .*a\.zarr could not be read"):
        np.asarray(read_image(tmp_path / "a.zarr"))
