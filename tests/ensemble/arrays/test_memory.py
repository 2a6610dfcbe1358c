"""If an accelerator runs out of memory, blocks are halved, then processed on the CPU, with the same result.

torch's "meta" device stands in for an accelerator without memory.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_ensir import fit_lut
from napari_ensir.ensemble.arrays.blocks import block_size
from napari_ensir.ensemble.arrays.parallel import SMALLEST, run_within_memory
from napari_ensir.ensemble.combine import combine as apply
from napari_ensir.ensemble.statistics import accumulate
from napari_ensir.ensemble.statistics.count import collect


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 255, (512, 400)).astype(np.uint8)
    return [truth // 2 * 2, truth // 16 * 16], truth


def test_halves_cover_the_block_once_and_then_the_cpu_takes_over():
    seen, messages = np.zeros((300, 700), int), []

    def work(slices, device):
        if device.type != "cpu":
            raise torch.OutOfMemoryError
        seen[slices] += 1

    whole = (slice(10, 300), slice(0, 700))
    run_within_memory(work, whole, seen.shape, torch.device("meta"), messages.append)
    assert (seen[10:] == 1).all()
    assert (seen[:10] == 0).all()
    assert messages
    assert "out of memory: the CPU takes over" in messages[0]


def test_other_errors_are_raised_unchanged():
    def work(slices, device):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run_within_memory(work, (slice(0, 9),), (9,), torch.device("meta"), print)


def small_device(monkeypatch, room):
    """Let ``meta`` be a device with memory for this many pixels, and compute on the CPU."""

    def read(array, slices, device, *, real=accumulate.read_tensor):
        tensor = real(array, slices, torch.device("cpu"))
        if device.type == "meta" and len(tensor) > room:
            raise torch.OutOfMemoryError
        return tensor

    monkeypatch.setattr(accumulate, "read_tensor", read)


@pytest.mark.parametrize("room", [0, SMALLEST, 150_000])
def test_fit_on_a_small_device_gives_the_same_table(monkeypatch, images, room):
    expected = fit_lut([images], device="cpu")
    small_device(monkeypatch, room)
    real_add = accumulate.TorchAccumulator.add

    def add(self, field, slices):
        if self.device.type != "cpu" and block_size(field.shape, slices) > room:
            raise torch.OutOfMemoryError
        here, self.device = self.device, torch.device("cpu")
        real_add(self, field, slices)
        self.device = here

    monkeypatch.setattr(accumulate.TorchAccumulator, "add", add)
    texts = []
    statistics = collect(
        [collect_field(images)],
        expected.binning,
        2,
        1,
        torch.device("meta"),
        lambda pixels, text="": texts.append(text),
    )
    reference = collect([collect_field(images)], expected.binning, 2, 1)
    for name in ("rows", "moments", "starts", "levels", "level_counts", "outside"):
        np.testing.assert_array_equal(getattr(statistics, name), getattr(reference, name))
    assert any("the CPU takes over" in text for text in texts) == (room < 40_000)


def collect_field(images):
    from napari_ensir.ensemble.arrays.image_set import make_field

    return make_field(*images)


@pytest.mark.parametrize("room", [0, SMALLEST])
def test_apply_on_a_small_device_gives_the_same_image(monkeypatch, images, room):
    lut = fit_lut([images], device="cpu")
    expected = lut.apply(images[0], device="cpu")
    calls = []

    def block(lut, field, slices, device, as_maps, *, real=apply._combine_block):
        calls.append(device.type)
        if device.type == "meta" and block_size(field.shape, slices) > room:
            raise torch.OutOfMemoryError
        return real(lut, field, slices, torch.device("cpu"), as_maps)

    monkeypatch.setattr(apply, "_combine_block", block)
    monkeypatch.setattr(apply, "resolve_device", lambda device: torch.device("meta"))
    np.testing.assert_allclose(lut.apply(images[0]), expected, rtol=1e-6)
    assert "meta" in calls
    assert ("cpu" in calls) == (room == 0)
