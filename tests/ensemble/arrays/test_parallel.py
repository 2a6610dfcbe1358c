"""Progress and cancelling; no thread continues afterwards."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from napari_ensir import fit_lut
from napari_ensir.ensemble import engines as loops
from napari_ensir.ensemble.arrays.parallel import for_each, n_threads
from napari_ensir.ensemble.statistics import count as counting
from napari_ensir.errors import Cancelled
from tests.helpers.images import make_image


def ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("napari-ensir")]


@pytest.fixture
def small_blocks(monkeypatch):
    for kind in ("compiled", "torch"):
        monkeypatch.setitem(loops.BLOCK_PIXELS, kind, 500)
    monkeypatch.setattr("napari_ensir.ensemble.arrays.parallel.n_threads", lambda: 4)
    monkeypatch.setattr(counting, "n_threads", lambda: 4)


def test_progress_of_a_fit_rises_to_its_total(engine, rng, small_blocks):
    seen = []
    images = [make_image(rng, (40, 40), 2, np.uint16) for _ in range(2)]
    fit_lut(images, method="em", device="cpu", progress=lambda *state: seen.append(state))
    texts = [text for _, _, text in seen]
    assert list(dict.fromkeys(texts)) == [
        "measuring the data range",
        "counting pixels",
        "estimating weights",
    ]
    for text in ("counting pixels", "estimating weights"):
        done = [d for d, _, t in seen if t == text]
        totals = {total for _, total, t in seen if t == text}
        assert done == sorted(done)
        assert len(totals) == 1
        assert done[-1] == totals.pop()


def test_progress_of_an_image_ends_at_its_total(engine, rng, small_blocks):
    candidates, truth = make_image(rng, (40, 40), 2)
    lut = fit_lut([(candidates, truth)], device="cpu")
    for work in (lut.apply, lut.weight_maps):
        seen = []
        work(candidates, device="cpu", progress=lambda *state, seen=seen: seen.append(state))
        assert len(seen) >= 4
        assert seen[-1] == (1600, 1600, "combining")


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        ("measuring the data range", Cancelled),
        ("counting pixels", KeyboardInterrupt),
        ("estimating weights", ZeroDivisionError),
    ],
)
def test_cancelling_a_fit_stops_all_threads(engine, rng, small_blocks, phase, kind):
    class Stop(kind):
        pass

    def progress(done, total, text):
        if text == phase:
            raise Stop("enough")

    images = [make_image(rng, (40, 40), 3, np.uint16)]
    with pytest.raises(Stop, match="enough"):
        fit_lut(images, method="em", device="cpu", progress=progress)
    assert ours() == []


@pytest.mark.parametrize("method", ["em-released", "least-squares"])
def test_cancelling_every_method(rng, method):
    def progress(done, total, text):
        if text == "estimating weights":
            raise Cancelled

    with pytest.raises(Cancelled):
        fit_lut([make_image(rng, (40, 40), 3)], method=method, device="cpu", progress=progress)


def test_cancelling_an_image_stops_all_threads(engine, rng, small_blocks):
    candidates, truth = make_image(rng, (40, 40), 2)
    lut = fit_lut([(candidates, truth)], device="cpu")
    calls = []

    def progress(*state):
        calls.append(state)
        raise Cancelled

    for work in (lut.apply, lut.weight_maps):
        calls.clear()
        with pytest.raises(Cancelled):
            work(candidates, device="cpu", progress=progress)
        assert len(calls) == 1
        assert ours() == []


def test_error_of_an_array_is_raised_unchanged(engine, rng, small_blocks):
    candidates, truth = make_image(rng, (40, 40), 2)

    class Torn:
        shape, dtype = truth.shape, truth.dtype

        def __getitem__(self, key):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        fit_lut([((candidates[0], Torn()), truth)], device="cpu")
    lut = fit_lut([(candidates, truth)], device="cpu")
    with pytest.raises(OSError, match="the disk is gone"):
        lut.apply((candidates[0], Torn()), device="cpu")
    assert ours() == []


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_item_is_processed_once_and_finished_in_order(threads):
    worked, finished = [], []
    here = threading.current_thread()

    def done(item, result):
        assert threading.current_thread() is here
        finished.append(result)

    def work(item):
        worked.append(item)
        return 2 * item

    for_each(iter(range(50)), work, done, threads)
    assert sorted(worked) == list(range(50))
    assert finished == [2 * item for item in range(50)]


def test_first_exception_stops_the_other_items():
    worked = []

    def work(item):
        time.sleep(0.001)
        worked.append(item)
        if item == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        for_each(range(100_000), work, threads=3)
    assert len(worked) < 50_000
    assert ours() == []


def test_items_are_taken_as_threads_become_free():
    taken = []

    def items():
        for item in range(1000):
            taken.append(item)
            yield item

    with pytest.raises(ZeroDivisionError):
        for_each(items(), lambda item: 1 / (5 - item), threads=2)
    assert len(taken) < 20


def test_there_is_at_least_one_thread():
    assert n_threads() >= 1
