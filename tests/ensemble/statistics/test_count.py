"""Dask arrays of any chunks, on threads and on workers, give the same table as arrays in memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import pytest

from napari_ensir import EnsembleError, FitSession, fit_lut
from napari_ensir.ensemble.arrays.image_set import make_field
from napari_ensir.ensemble.statistics.binning import choose_binning
from napari_ensir.ensemble.statistics.count import _Counter, collect_chunks
from tests.helpers.images import using

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

KINDS = {
    "uint8 RGB": (np.uint8, 250, (50, 60, 3), -1),
    "uint16 stack": (np.uint16, 60000, (3, 40, 50), None),
    "uint16 channels first": (np.uint16, 4000, (3, 40, 50), 0),
    "float": (np.float32, 1.0, (6, 40, 50), None),
}


def make(kind, seed=0):
    dtype, high, shape, axis = KINDS[kind]
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, high, shape)
    noisy = [truth + rng.normal(0, high * s, shape) for s in (0.02, 0.05)]
    *candidates, truth = (np.clip(x, 0, high).astype(dtype) for x in (*noisy, truth))
    return candidates, truth, axis


def lazy(pair, chunks):
    candidates, truth = pair
    return [da.from_array(x, chunks=chunks) for x in candidates], da.from_array(truth, chunks=chunks)


def assert_identical(a, b):
    for part in ("rows", "weights", "counts", "fallback"):
        first, second = getattr(a, part), getattr(b, part)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    # Without the inputs: the pixels of lazy arrays are not hashed.
    assert {**a.report, "inputs": None} == {**b.report, "inputs": None}
    shapes = ([one["shape"] for one in lut.report["inputs"]["listed"]] for lut in (a, b))
    assert next(shapes) == next(shapes)
    assert a.binning == b.binning


# -- on threads --


@pytest.mark.parametrize(
    ("kind", "chunks", "masked"),
    [
        ("uint8 RGB", 7, True),
        ("uint8 RGB", -1, False),
        ("uint16 stack", 25, True),
        ("uint16 stack", "uneven", False),
        ("uint16 channels first", 7, False),
        ("uint16 channels first", "uneven", True),
        ("float", 25, False),
        ("float", -1, True),
    ],
)
def test_any_chunks_give_the_same_table(kind, chunks, masked):
    candidates, truth, axis = make(kind)
    if chunks == "uneven":
        chunks = tuple((1, size - 1) for size in truth.shape)
    how = {"method": "least-squares", "channel_axis": axis, "device": "cpu"}
    if masked:
        shape = truth.shape if axis is None else np.delete(truth.shape, axis)
        how["mask"] = [np.random.default_rng(1).random(shape) > 0.4]
    expected = fit_lut([(candidates, truth)], **how)
    found = fit_lut([lazy((candidates, truth), chunks)], **how)
    assert_identical(found, expected)


@pytest.mark.parametrize("method", ["em", "em-released"])
def test_chunks_give_the_same_table_for_every_em_method(method):
    candidates, truth, _ = make("uint16 stack")
    expected = fit_lut([(candidates, truth)], method=method, device="cpu")
    assert_identical(fit_lut([lazy((candidates, truth), (2, 17, 23))], method=method, device="cpu"), expected)


def test_mixed_chunks_and_kinds_give_the_same_table():
    candidates, truth, _ = make("uint16 stack")
    expected = fit_lut([(candidates, truth)], device="cpu")
    mixed = [candidates[0], da.from_array(candidates[1], chunks=(1, 40, 11))]
    assert_identical(fit_lut([(mixed, da.from_array(truth, chunks=13))], device="cpu"), expected)
    assert_identical(fit_lut([(mixed, truth)], device="cpu"), expected)


def test_lazy_images_among_others_give_the_same_table():
    pairs = [make("uint16 stack", seed)[:2] for seed in range(3)]
    expected = fit_lut(pairs, device="cpu")
    assert_identical(fit_lut([lazy(pairs[0], 20), pairs[1], lazy(pairs[2], 30)], device="cpu"), expected)


def test_each_chunk_is_read_once():
    candidates, truth, _ = make("uint16 stack")
    reads = []

    def read(block):
        reads.append(block.shape)
        return block

    arrays, lazy_truth = lazy((candidates, truth), (1, 20, 25))
    counted = lazy_truth.map_blocks(read, meta=truth[:0, :0, :0])
    options = {"method": "em", "data_range": (0, 60000), "device": "cpu"}
    FitSession([(arrays, counted)], check_input=False, **options).estimate()
    assert reads == [(1, 20, 25)] * 12


def test_progress_by_chunks_and_cancel():
    candidates, truth, _ = make("uint16 stack")
    calls = []
    pair = lazy((candidates, truth), (1, 40, 50))
    fit_lut([pair], data_range=(0, 60000), device="cpu", progress=lambda *call: calls.append(call))
    counted = [done for done, total, text in calls if text == "counting pixels" and total == truth.size]
    assert counted == [2000, 4000, 6000]

    def stop(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_lut([pair], data_range=(0, 60000), device="cpu", progress=stop)


def test_apply_stays_lazy_and_keeps_chunks():
    candidates, truth, axis = make("uint8 RGB")
    lut = fit_lut([(candidates, truth)], channel_axis=axis, device="cpu")
    touched = []

    def touch(block):
        touched.append(block.shape)
        return block

    chunks = (20, 25, 3)
    arrays = [da.from_array(x, chunks=chunks).map_blocks(touch, meta=x[:0, :0, :0]) for x in candidates]
    image, maps = lut.apply(arrays, "cpu"), lut.weight_maps(arrays, "cpu")
    assert not touched
    assert image.chunks == arrays[0].chunks
    assert maps.chunks == ((2,), *arrays[0].chunks)
    np.testing.assert_array_equal(image[:20, :25], lut.apply(candidates, "cpu")[:20, :25])
    assert len(touched) == 2  # one chunk of each candidate
    np.testing.assert_array_equal(maps, lut.weight_maps(candidates, "cpu"))


def test_statistics_do_not_grow_with_the_pixels():
    """Their size depends on the occupied bin sets and levels, not on the number of pixels."""
    rng = np.random.default_rng(0)
    sizes = []
    for n in (1, 8):
        truth = rng.integers(0, 1000, (n, 200, 200), np.uint16)
        pair = lazy(([truth + 1, truth + 2], truth), (1, 200, 200))
        field = make_field(*pair)
        sizes.append(collect_chunks(field, choose_binning(np.uint16, (0, 1002)), 1).nbytes)
    assert sizes[1] < 1.05 * sizes[0]
    assert sizes[1] < 40_000


def test_images_without_finite_pixels_raise():
    nan = da.full((20, 20), np.nan, chunks=10)
    with pytest.raises(EnsembleError, match="NaN"):
        fit_lut([([nan, nan + 1], nan + 2)])


# -- on workers --
# Workers cannot import this file, so their functions are defined inside the tests and sent by value.


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    if sys.platform == "win32":
        method = "spawn"
    else:  # workers are forked from a process that has imported the libraries, or each takes seconds
        method = "forkserver"
        multiprocessing.set_forkserver_preload(["distributed", "dask.array", "napari_ensir.ensemble.kernels"])
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": method}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as made,
    ):
        yield made


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster) as made:
        yield made


@pytest.mark.parametrize("kind", ["uint8 RGB", "float"])
def test_workers_give_the_same_table(client, cluster, kind):
    candidates, truth, axis = make(kind)
    how = {
        "channel_axis": axis,
        "device": "cpu",
        "mask": [np.random.default_rng(1).random(truth.shape) > 0.4],
    }
    expected = fit_lut([(candidates, truth)], **how)
    calls = []
    found = fit_lut([lazy((candidates, truth), 17)], progress=lambda *call: calls.append(call), **how)
    assert_identical(found, expected)
    assert sum(text == "counting pixels" for *_, text in calls) > 3


def test_a_single_chunk_reports_its_progress(client):
    candidates, truth, _ = make("uint16 stack")
    calls = []
    found = fit_lut([lazy((candidates, truth), -1)], device="cpu", progress=lambda *call: calls.append(call))
    assert_identical(found, fit_lut([(candidates, truth)], device="cpu"))
    assert (truth.size, truth.size, "counting pixels") in calls


def test_errors_and_cancelling_on_workers_are_raised(client):
    candidates, truth, _ = make("uint16 stack")

    def fail(block):
        raise EnsembleError("broken on purpose")

    broken = da.from_array(truth, chunks=(1, 40, 50)).map_blocks(fail, meta=truth[:0, :0, :0])
    with pytest.raises(EnsembleError, match="broken on purpose"):
        fit_lut([(candidates, broken)], data_range=(0, 60000), device="cpu")

    def stop(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_lut([lazy((candidates, truth), 20)], data_range=(0, 60000), device="cpu", progress=stop)


def test_a_killed_worker_costs_only_time(client, cluster):
    candidates, truth, _ = make("uint16 stack")
    expected = fit_lut([(candidates, truth)], data_range=(0, 60000), device="cpu")
    arrays, lazy_truth = lazy((candidates, truth), (1, 10, 25))

    def slowly(block):
        time.sleep(0.1)
        return block

    slow = lazy_truth.map_blocks(slowly, meta=truth[:0, :0, :0])
    workers = client.run(os.getpid)
    killed = []

    def kill(done, total, text):
        if done >= truth.size // 4 and not killed:
            killed.append(next(iter(workers.values())))
            os.kill(killed[0], signal.SIGKILL)

    found = fit_lut([(arrays, slow)], data_range=(0, 60000), device="cpu", progress=kill)
    assert killed
    assert_identical(found, expected)
    alive = set()
    while len(alive) < 2:  # the nanny starts another worker, for the next test
        time.sleep(0.1)
        alive = set(client.run(os.getpid, on_error="ignore").values()) - set(killed)


def test_only_statistics_move_between_workers(client, tmp_path, monkeypatch):
    """Workers send a small fraction of the bytes that they read."""
    from napari_ensir.files import open_image, write_image
    from napari_ensir.files import zarr as zarr_arrays

    monkeypatch.setattr(zarr_arrays, "BLOCK_PIXELS", 256 * 256)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 200, (24, 256, 256), np.uint16)
    images = [truth + 1, truth + 3, truth]
    arrays = [
        open_image(write_image(tmp_path / f"{i}.zarr", da.from_array(x, chunks=(1, 256, 256)))).array
        for i, x in enumerate(images)
    ]
    assert arrays[0].npartitions == 24

    def bytes_sent(dask_worker):
        return sum(entry["total"] for entry in dask_worker.transfer_outgoing_log)

    before = sum(client.run(bytes_sent).values())
    pairs = [(arrays[:2], arrays[2])]
    FitSession(pairs, method="em", data_range=(0, 203), device="cpu", check_input=False).estimate()
    sent = sum(client.run(bytes_sent).values()) - before
    assert sent < 0.02 * sum(x.nbytes for x in images)


def test_an_accumulator_that_another_thread_has_just_taken_is_made_anew():
    class Taken(list):
        """Looks as before the other thread, and is empty as after it."""

        def __bool__(self):
            return True

    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    field = make_field([image + 1, image + 2], image)
    counter = _Counter(choose_binning(np.dtype(np.uint8), (0, 255)), 2, 1, None, 1, print)
    with using("compiled"):
        counter.free["compiled", field.dtype] = Taken()
        counter.count((field, field.dtype, (slice(None), slice(None))))
    assert len(counter.made) == 1
    assert counter.made[0].statistics().counts.sum() == 64
