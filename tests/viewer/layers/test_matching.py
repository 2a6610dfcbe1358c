"""Layers for a table's candidates by their names, and the sentence where one does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Image

from napari_ensir import fit_lut
from napari_ensir.viewer.layers.matching import best_matches, candidate_name, cannot_combine, matching_sets


def layers_named(*names, shape=(4, 4), rgb=False):
    return [Image(np.zeros(shape, np.uint8), name=name, rgb=rgb) for name in names]


def chosen(names, layers, learned_on=()):
    return [layer and layer.name for layer in best_matches(names, layers, learned_on)]


def table(names=("A", "B"), shape=(8, 8), channel_axis=None):
    truth = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    candidates = [truth // (2 + m) * (2 + m) for m in range(len(names))]
    return fit_lut([(candidates, truth)], names=names, channel_axis=channel_axis)


def test_names_within_names_do_not_mix_sets():
    sets = matching_sets(("Restormer", "Restormer 2"), layers_named("x Restormer 2", "x Restormer"))
    assert [layer.name for layer in sets["x"]] == ["x Restormer", "x Restormer 2"]


def test_a_name_within_another_is_matched_as_sets_are():
    layers = layers_named("cell 1 unsupervised Wiener", "cell 1 Wiener")
    assert chosen(("Wiener", "unsupervised Wiener"), layers) == [
        "cell 1 Wiener",
        "cell 1 unsupervised Wiener",
    ]


def test_layers_that_the_table_was_not_learned_on_come_first():
    layers = layers_named("A", "B", "cell 2 A", "cell 2 B")
    assert chosen("AB", layers) == ["A", "B"]
    assert chosen("AB", layers, layers[:2]) == ["cell 2 A", "cell 2 B"]
    assert chosen("AB", layers[:3], layers[:2]) == ["A", "B"]  # there is no other whole set


def test_what_all_names_have_in_common_tells_no_candidate_from_another():
    names = [candidate_name("field 1", method) for method in ("Median", "Total variation")]
    layers = layers_named("field 1", *names, "field 2 · Total variation", "field 2 · Median")
    assert chosen(names, layers) == names
    assert chosen(names, layers, layers[1:3]) == ["field 2 · Median", "field 2 · Total variation"]
    assert set(matching_sets(names, layers)) == {"", "field 2"}


def test_a_short_name_is_not_found_within_a_word():
    layers = layers_named("mask", "bead A", "bead B")
    assert chosen("AB", layers) == ["bead A", "bead B"]
    assert chosen("AB", layers[:1]) == [None, None]


def test_of_several_alike_none_is_chosen():
    assert chosen("AB", layers_named("x A", "y A", "x C")) == [None, None]
    assert chosen("AB", layers_named("a", "x A")) == ["a", None]


def test_the_shape_that_is_wanted_is_named():
    layers = [*layers_named("a"), *layers_named("b", shape=(4, 5))]
    said = cannot_combine(table(), layers)
    assert said.startswith('"b" cannot stand for "B": shape 4 × 5, where "a" has shape 4 × 4;')
    assert cannot_combine(table(), layers_named("a", "b")) == ""


@pytest.mark.parametrize("rgb", [False, True])
def test_a_colour_table_on_grey_layers_says_so(rgb):
    lut = table(shape=(8, 8, 3), channel_axis=-1)
    shape = (8, 8, 3) if rgb else (8, 8)
    said = cannot_combine(lut, layers_named("a", "b", shape=shape, rgb=rgb))
    assert said == "" if rgb else 'learned in colour, and "a" is not in colour and of shape 8 × 8' in said


def test_a_table_per_channel_fits_layers_with_those_channels():
    lut = table(shape=(2, 8, 8), channel_axis=0)
    assert cannot_combine(lut, layers_named("a", "b", shape=(2, 8, 8))) == ""
    said = cannot_combine(lut, layers_named("a", "b", shape=(8, 8, 3), rgb=True))
    assert 'learned for each of 2 channels, and "a" is in colour, 3 channels' in said
