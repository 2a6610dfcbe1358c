"""Matching of layers to candidates by name, and errors if they do not match."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image

from napari_ensir import fit_lut
from napari_ensir.viewer.layers.matching import best_matches, candidate_name, matching_sets, mismatch_reason


def layers_named(*names, shape=(4, 4), rgb=False):
    return [Image(np.zeros(shape, np.uint8), name=name, rgb=rgb) for name in names]


def chosen(names, layers, learned_on=()):
    return [layer and layer.name for layer in best_matches(names, layers, learned_on)]


def table(names=("A", "B"), shape=(8, 8), channel_axis=None):
    truth = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    candidates = [truth // (2 + m) * (2 + m) for m in range(len(names))]
    return fit_lut([(candidates, truth)], names=names, channel_axis=channel_axis)


def test_candidate_names_may_contain_each_other():
    sets = matching_sets(("Restormer", "Restormer 2"), layers_named("x Restormer 2", "x Restormer"))
    assert [layer.name for layer in sets["x"]] == ["x Restormer", "x Restormer 2"]


def test_the_longest_candidate_name_is_matched():
    layers = layers_named("cell 1 unsupervised Wiener", "cell 1 Wiener")
    assert chosen(("Wiener", "unsupervised Wiener"), layers) == [
        "cell 1 Wiener",
        "cell 1 unsupervised Wiener",
    ]


def test_layers_that_the_table_was_not_learned_from_are_preferred():
    layers = layers_named("A", "B", "cell 2 A", "cell 2 B")
    assert chosen("AB", layers) == ["A", "B"]
    assert chosen("AB", layers, layers[:2]) == ["cell 2 A", "cell 2 B"]
    assert chosen("AB", layers[:3], layers[:2]) == ["A", "B"]  # no other set is complete


def test_common_parts_of_candidate_names_are_ignored():
    names = [candidate_name("field 1", method) for method in ("Median", "Total variation")]
    layers = layers_named("field 1", *names, "field 2 · Total variation", "field 2 · Median")
    assert chosen(names, layers) == names
    assert chosen(names, layers, layers[1:3]) == ["field 2 · Median", "field 2 · Total variation"]
    assert set(matching_sets(names, layers)) == {"", "field 2"}


def test_short_names_match_whole_words_only():
    layers = layers_named("mask", "bead A", "bead B")
    assert chosen("AB", layers) == ["bead A", "bead B"]
    assert chosen("AB", layers[:1]) == [None, None]


def test_ambiguous_layers_are_not_chosen():
    assert chosen("AB", layers_named("x A", "y A", "x C")) == [None, None]
    assert chosen("AB", layers_named("a", "x A")) == ["a", None]


def test_the_expected_shape_is_reported():
    layers = [*layers_named("a"), *layers_named("b", shape=(4, 5))]
    reason = mismatch_reason(table(), layers)
    assert reason.startswith('"b" cannot be the candidate "B": shape 4 × 5, but "a" has shape 4 × 4;')
    assert mismatch_reason(table(), layers_named("a", "b")) == ""


@pytest.mark.parametrize("rgb", [False, True])
def test_a_colour_table_does_not_fit_grey_layers(rgb):
    lut = table(shape=(8, 8, 3), channel_axis=-1)
    shape = (8, 8, 3) if rgb else (8, 8)
    reason = mismatch_reason(lut, layers_named("a", "b", shape=shape, rgb=rgb))
    assert (
        reason == ""
        if rgb
        else 'learned from colour images, but "a" is not in colour and has shape 8 × 8' in reason
    )


def test_a_table_with_channels_fits_layers_with_as_many():
    lut = table(shape=(2, 8, 8), channel_axis=0)
    assert mismatch_reason(lut, layers_named("a", "b", shape=(2, 8, 8))) == ""
    reason = mismatch_reason(lut, layers_named("a", "b", shape=(8, 8, 3), rgb=True))
    assert 'learned from images with 2 channels, but "a" is a colour image with 3 channels' in reason
