"""Arrays computed where they are looked at give what whole ones do, and compute no more than is asked for."""

from __future__ import annotations

import tracemalloc

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_ensir.viewer.results import combining as computed
from napari_ensir.viewer.results.combining import Computed

SHAPE = (4, 3, 6, 5)
RNG = np.random.default_rng(0)
ARRAYS = [RNG.normal(size=SHAPE), RNG.normal(size=SHAPE)]


def mixed(parts, axis=None):
    """Of all places along the channel axis, if there is one, so that a part of it would show."""
    total = parts[0] + 2 * parts[1]
    return total if axis is None else total - total.mean(axis=axis, keepdims=True)


def forms(arrays):
    whole = mixed(arrays)
    yield Computed(mixed, arrays, np.dtype(float)), whole
    maps = np.stack([arrays[0], arrays[1]])
    yield Computed(lambda parts: np.stack(parts), arrays, np.dtype(float), n_maps=2), maps
    for axis in (1, 3):
        yield (
            Computed(lambda p, a=axis: mixed(p, a), arrays, np.dtype(float), channel_axis=axis),
            mixed(ARRAYS, axis),
        )
        dropped = Computed(
            lambda p, a=axis: mixed(p).mean(axis=a),
            arrays,
            np.dtype(float),
            channel_axis=axis,
            drops_channels=True,
        )
        yield dropped, mixed(ARRAYS).mean(axis=axis)


index = st.one_of(
    st.integers(-3, 2),
    st.builds(
        slice,
        st.none() | st.integers(-4, 4),
        st.none() | st.integers(-4, 4),
        st.sampled_from((None, 1, 2, -1)),
    ),
    st.just(Ellipsis),
    st.lists(st.integers(0, 1), min_size=1, max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(index, max_size=5).filter(lambda key: key.count(Ellipsis) <= 1), st.sampled_from((7, 40, 2**22))
)
def test_any_key_gives_what_the_whole_array_gives(key, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(computed, "PIECE", piece)
        compare_all(key)


def compare_all(key):
    for lazy, whole in forms(ARRAYS):
        try:
            wanted = whole[tuple(key)]
        except IndexError:
            with pytest.raises(IndexError):
                lazy[tuple(key)]
            continue
        np.testing.assert_allclose(lazy[tuple(key)], wanted)


def test_it_looks_like_an_array():
    for lazy, whole in forms([da.from_array(one, (1, 3, 6, 5)) for one in ARRAYS]):
        assert (lazy.shape, lazy.ndim, lazy.size, len(lazy)) == (
            whole.shape,
            whole.ndim,
            whole.size,
            len(whole),
        )
        np.testing.assert_allclose(np.asarray(lazy), whole)
        np.testing.assert_allclose(list(lazy), list(whole))
        assert np.asarray(lazy, np.float32).dtype == np.float32


def test_a_plane_touches_no_other():
    touched = []
    lazy = Computed(lambda parts: touched.append(parts[0].shape) or parts[0], ARRAYS, np.dtype(float))
    lazy[2]
    lazy[1, 2]
    assert touched == [(1, 3, 6, 5), (1, 1, 6, 5)]


def test_a_volume_is_computed_plane_by_plane_and_only_what_is_kept_is_held(monkeypatch):
    sizes = []

    def maps(parts):
        sizes.append(parts[0].size)
        return np.stack([parts[0]] * 50)

    volume = np.zeros((40, 64, 64), np.float32)
    lazy = Computed(maps, [volume], np.dtype(np.float32), n_maps=50)
    monkeypatch.setattr(computed, "PIECE", 64 * 64)
    tracemalloc.start()
    assert lazy[3].shape == volume.shape
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [64 * 64] * 40
    assert peak < 6 * volume.nbytes, "all fifty maps of all planes would be fifty times that"


def test_preparing_meets_every_form_of_a_part_and_reads_none():
    class Untouchable:
        shape, dtype = (4, 3, 6, 5), np.dtype(np.uint16)

        def __getitem__(self, key):
            pytest.fail("a pixel was read")

    for axis, shape in ((None, (1, 1, 1, 1)), (1, (1, 3, 1, 1)), (3, (1, 1, 1, 5))):
        met = []
        lazy = Computed(
            lambda parts, met=met: met.append((parts[0].shape, parts[0].dtype)),
            [Untouchable()],
            np.dtype(float),
            channel_axis=axis,
        )
        assert lazy.prepared() is lazy
        assert met == [(shape, np.uint16)]
