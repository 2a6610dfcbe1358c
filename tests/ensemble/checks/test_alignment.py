"""What is said of candidates that look wrong, and that nothing is said of those that do not."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data, filters, restoration

from napari_ensir.ensemble.checks import alignment
from napari_ensir.ensemble.checks.alignment import (
    CLEARER,
    HALF,
    check_alignment,
    check_reference,
    correlation,
    correlations,
    find_shift,
    is_closer,
    is_unrelated,
    squared_difference,
)


@pytest.fixture(scope="module")
def truth():
    return data.camera()[100:292, 60:260].astype(float)


def smoothed(image, sigma=1.0, seed=0):
    return filters.gaussian(image + np.random.default_rng(seed).normal(0, 8, image.shape), sigma)


def test_correlation_is_pearson_s():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 20, 30))
    other += one
    one[3, 4], other[5, 5] = np.nan, np.inf
    both = np.isfinite(one) & np.isfinite(other)
    assert correlation(one, other) == pytest.approx(np.corrcoef(one[both], other[both])[0, 1])
    assert correlation(one, 7 - 3 * one) == pytest.approx(-1)
    assert correlation(one, np.ones_like(one)) == 0
    assert correlation(one, np.full_like(one, np.nan)) == 0
    for images in ([one, other, np.ones_like(one)], [np.nan_to_num(one), rng.normal(size=one.shape)]):
        each = [[correlation(first, second) for second in images] for first in images]
        np.testing.assert_allclose(correlations(images), each, atol=1e-12)


@pytest.mark.parametrize("step", [(0, 1), (-1, 0), (1, -1), (5, 12), (-40, 3)])
def test_shifts(truth, step):
    moved = smoothed(np.roll(truth, step, axis=(0, 1)))
    moved[:9, :9] = np.nan
    assert find_shift(truth, moved) == step
    assert find_shift(truth, smoothed(truth)) is None


def test_closer_needs_more_than_luck(truth):
    rng = np.random.default_rng(3)
    plain, other = (squared_difference(truth, truth + rng.normal(0, 60, truth.shape)) for _ in range(2))
    assert not is_closer(other, plain)
    assert is_closer(squared_difference(truth, truth + rng.normal(0, 50, truth.shape)), plain)


def test_a_little_closer_counts_where_it_is_sure(truth):
    """A shift of one pixel of a noisy candidate: it takes all blocks together to tell."""
    moved = np.roll(truth, 1, axis=1) + np.random.default_rng(5).normal(0, 28, truth.shape)
    back, still = (
        squared_difference(truth[:, 1:-1], x[:, 1:-1]) for x in (np.roll(moved, -1, axis=1), moved)
    )
    assert HALF < back.mean() / still.mean() < CLEARER
    assert is_closer(back, still)
    assert find_shift(truth, moved) == (0, 1)


def test_noise_is_not_another_field(truth):
    rng = np.random.default_rng(4)
    assert not is_unrelated(truth, truth + rng.normal(0, 400, truth.shape))
    assert not is_unrelated(truth, rng.normal(0, 1, truth.shape))
    assert is_unrelated(truth, data.moon()[:192, :200].astype(float))


@pytest.mark.parametrize("picture", ["camera", "coins", "moon", "brick", "grass", "page", "clock", "cell"])
def test_nothing_is_said_of_sound_candidates(picture):
    """Noisy, blurred, over-smoothed, cut to 8 bit: all of them are candidates like any other."""
    rng = np.random.default_rng(len(picture))
    clean = getattr(data, picture)()[:160, :160] / 255
    noisy_truth = clean + rng.normal(0, 0.2, clean.shape)
    for noisy, reference in (
        (clean + rng.normal(0, 0.08, clean.shape), noisy_truth),
        (rng.poisson(clean * 10) / 10, clean),
    ):
        candidates = {
            "noisy": noisy,
            "blurred": filters.gaussian(noisy, 1),
            "smooth": filters.gaussian(noisy, 4),
            "TV": restoration.denoise_tv_chambolle(noisy, 0.3),
            "median": filters.median(noisy, np.ones((3, 3))),
            "8 bit": np.round(noisy.clip(0, 1) * 255) / 255,
        }
        assert check_alignment(list(candidates.values()), reference, list(candidates)) == []


def test_shifts_are_not_looked_for_where_a_candidate_is_much_closer_than_one_pixel(truth, monkeypatch):
    def no_more(*_):
        raise AssertionError("shifts were looked for")

    monkeypatch.setattr(alignment, "find_shift", no_more)
    noise = np.random.default_rng(0).normal(0, 1, truth.shape)
    assert check_alignment([truth + noise], truth) == []
    with pytest.raises(AssertionError, match="looked for"):
        check_alignment([np.roll(truth, 1, axis=0) + noise], truth)


def test_nothing_is_said_of_the_deraining_set(reference_folder):
    from napari_ensir.files import Part, References, open_set

    folder = reference_folder / "deraining"
    paths = {name: folder / name for name in ("MPRNet", "MAXIM", "Restormer", "lq")}
    assert check_reference(References(open_set(paths, {Part.TRUTH: folder / "gt"})), tuple(paths)) == []


def test_candidates_with_the_same_finding_share_a_sentence(truth):
    late = [np.roll(smoothed(truth, 1, seed), 2, axis=0) for seed in (1, 2)]
    (found,) = check_alignment([late[0], smoothed(truth), late[1]], truth, "ABC")
    expected = 'candidates "A", "C": shifted by 2 pixels down against the ground truth; align them.'
    assert found.message == expected
    assert found.fix == {"action": "align", "candidates": ["A", "C"], "shift": [2, 0]}


def test_one_plane_of_a_stack_is_read(truth):
    da = pytest.importorskip("dask.array")
    seen = []

    def block(values, block_info=None):
        seen.append(block_info[0]["chunk-location"])
        return values

    stack = np.stack([truth] * 9)
    lazy = da.from_array(stack, chunks=(1, *truth.shape)).map_blocks(block, dtype=float)
    seen.clear()
    assert check_alignment([lazy + 1], stack) == []
    assert {where[0] for where in seen} <= {3, 4, 5}


@pytest.fixture(scope="module")
def out_of_focus(truth):
    """The fewer planes from the middle one, the sharper."""
    return np.stack([filters.gaussian(truth, 0.3 + 0.35 * abs(plane - 5)) for plane in range(12)])


@pytest.mark.parametrize("planes", [slice(0, 11), slice(0, 10), slice(1, 12), slice(0, 12), slice(3, 9)])
def test_too_smooth_in_a_stack_that_goes_out_of_focus_is_not_another_plane(out_of_focus, planes):
    stack = out_of_focus[planes]
    smooth = [filters.gaussian(plane + 1, 1) for plane in stack]
    median = [filters.median(plane, np.ones((3, 3))) for plane in stack]
    assert check_alignment([np.stack(smooth), np.stack(median)], stack) == []


@pytest.mark.parametrize(("step", "where"), [(1, "earlier"), (-1, "later")])
def test_a_stack_one_plane_off(out_of_focus, step, where):
    noise = np.random.default_rng(0).normal(0, 300, out_of_focus.shape)
    stack = out_of_focus + np.stack([filters.gaussian(plane, 2) for plane in noise])
    off = np.roll(stack, step, axis=0) + 1
    assert f"one plane {where}" in check_alignment([off], stack)[0].message
    off[[1, 2, 3, -4, -3, -2]] = noise[0]  # nothing of the field to be seen there
    assert f"one plane {where}" in check_alignment([off], stack)[0].message


@pytest.mark.parametrize("axis", [0, -1])
def test_channels_where_the_axis_says(axis):
    colour = data.astronaut()[100:200, 150:270].astype(float)
    moved = np.moveaxis(colour, -1, axis)
    reversed_ = np.flip(moved, axis) + 1
    assert "reverse order" in check_alignment([reversed_], moved, channel_axis=axis)[0].message
    assert check_alignment([moved + 1], moved, channel_axis=axis) == []


def test_too_little_to_tell(truth):
    for shape in ((20, 40), (400,)):
        image = np.random.default_rng(0).normal(size=shape)
        assert check_alignment([np.roll(image, 1)], image) == []
    empty = np.zeros((64, 64))
    assert check_alignment([np.stack([empty] * 3)] * 2, np.stack([empty] * 3)) == []
    assert [one.code for one in check_alignment([truth[:64, :64]], empty)] == ["constant-truth"]


def test_a_set_says_where_and_nothing_twice(truth):
    late = np.roll(smoothed(truth), 3, axis=1)
    pairs = [([smoothed(truth)], truth), *[([late], truth)] * 5]
    assert [one.message for one in check_reference(pairs, "A", labels=list("uvwxyz"))] == [
        'image w: candidate "A": shifted by 3 pixels to the right against the ground truth; align them.'
    ]
    others = [data.camera()[k : k + 128, k : k + 128].astype(float) for k in (0, 150, 300)]
    swapped = [([smoothed(others[place])], others[number]) for number, place in enumerate((0, 2, 1))]
    assert check_reference(swapped)[-1].message == (
        'candidate "1": its image 2 is closer to the ground truth of image 3; check that all '
        "files are in the same order."
    )
    assert check_reference([([smoothed(other)], other) for other in others]) == []


def test_correlated_noise_is_not_a_shift(truth):
    """A second exposure whose noise is correlated with the candidate's, one row further."""
    noise = np.random.default_rng(6).normal(0, 25, truth.shape)
    candidate = filters.gaussian(truth, 1) + 0.8 * noise
    assert find_shift(truth + np.roll(noise, -1, axis=0), candidate) is None


def test_a_black_border_outside_the_middle(truth):
    large = np.tile(np.hstack([truth, truth[:, ::-1]]), (2, 1))
    black = smoothed(large)
    black[:6] = 0
    (found,) = check_alignment([smoothed(large, 1, 1), black], large, "AB")
    assert found.code == "empty-region"
    assert found.fix["region"] == [[0, 6], [0 + 72, 72 + 256]]
    assert check_alignment([smoothed(large, 1, 1), smoothed(large)], large, "AB") == []


def test_one_plane_off_in_a_series_of_stacks_names_only_that_candidate(truth):
    rng = np.random.default_rng(8)
    planes = filters.gaussian(rng.normal(0, 900, (7, 96, 104)), (1.2, 3, 3))
    series = np.stack([planes] * 4)  # (T, Z, Y, X)
    near = series + rng.normal(0, 2, series.shape)
    (found,) = check_alignment([near, np.roll(near, -1, axis=1)], series, ("near", "far"))
    assert (found.code, found.fix["candidates"]) == ("other-plane", ["far"])


def test_a_candidate_that_is_better_in_the_dark_half_of_a_gradient_is_not_shifted():
    ramp = np.linspace(20, 220, 96)
    truth = (ramp[:, None] + ramp) / 2
    rng = np.random.default_rng(2)
    candidates = [truth + rng.normal(0, np.where(truth < 120, *levels)) for levels in ((2, 20), (20, 2))]
    assert check_alignment(candidates, truth) == []


def test_each_part_of_a_lazy_candidate_is_computed_once(truth):
    da = pytest.importorskip("dask.array")
    computed = []

    def count(block):
        computed.append(block.shape)
        return block

    image = smoothed(truth)
    meta = np.empty((0, 0))
    lazy = da.from_array(image, chunks=-1).map_blocks(count, dtype=image.dtype, meta=meta)
    assert check_reference([([lazy], truth)]) == []
    assert computed == [truth.shape]
