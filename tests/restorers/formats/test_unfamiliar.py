"""Warnings about images that differ from the training images, and notes on planes and channels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from napari_ensir.errors import EnsembleError
from napari_ensir.restorers import SelfEnsemble, open_restorer, with_channel_axis
from napari_ensir.restorers.base import UnfamiliarImageWarning, format_notes, input_warnings_of, notes_of
from napari_ensir.restorers.classical import Gaussian
from tests.helpers.careamics_files import STATISTICS, configuration, network_of, write_checkpoint

RNG = np.random.default_rng(0)


def opened(folder, statistics=STATISTICS, **settings):
    network = network_of(depth=1, **settings)
    path = write_checkpoint(folder / "a.ckpt", network, configuration(network, statistics=statistics))
    return open_restorer(path, device="cpu")


def recorded(centre: float, spread: float, shape=(32, 32)):
    return RNG.normal(centre, spread, shape)


SIXTEEN = {"input_means": [20_000.0], "input_stds": [9_000.0]}
EXTREMES = {"name": "min_max", "input_mins": [100.0], "input_maxes": [60_000.0]}
QUANTILES = {"name": "quantile", "input_lower_quantile_values": [100], "input_upper_quantile_values": [4000]}


@pytest.mark.parametrize(
    ("statistics", "image", "familiar"),
    [
        (SIXTEEN, recorded(20_000, 9_000), True),
        (SIXTEEN, recorded(5_000, 700), True),  # a dim field of the same camera
        (SIXTEEN, recorded(0.5, 0.2), False),
        (SIXTEEN, recorded(120, 40).clip(0, 255), False),
        (STATISTICS, recorded(100, 20), True),
        (STATISTICS, recorded(100, 20) / 65535, False),
        (STATISTICS, recorded(100, 20) * 257, False),
        (STATISTICS, recorded(100, 20) + 1000, False),
        (EXTREMES, recorded(20_000, 5_000), True),
        (EXTREMES, recorded(0.5, 0.2), False),
        (QUANTILES, recorded(2_000, 500), True),
        (QUANTILES, recorded(2_000, 500) / 65535, False),
    ],
)
def test_a_warning_if_intensities_differ_from_the_training(tmp_path, statistics, image, familiar):
    restorer = opened(tmp_path, statistics)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        restorer(image)
    assert [each.category for each in caught] == [UnfamiliarImageWarning] * (not familiar)
    assert [str(each.message) for each in caught] == input_warnings_of(restorer, image)
    for doubt in input_warnings_of(SelfEnsemble(restorer=restorer), image):
        assert "trained on intensities around" in doubt
        assert "not rescaled" in doubt


def test_each_channel_is_compared_with_its_own_statistics(tmp_path):
    statistics = {"input_means": [100.0, 5000.0], "input_stds": [20.0, 900.0]}
    restorer = with_channel_axis(opened(tmp_path, statistics, in_channels=2, num_classes=2), 0)
    right = np.stack([recorded(100, 20), recorded(5000, 900)])
    assert input_warnings_of(restorer, right) == []
    assert "around 100" in input_warnings_of(restorer, right[::-1])[0]


def test_notes_on_planes_and_channels(tmp_path):
    planes = opened(tmp_path)
    assert notes_of(planes, recorded(100, 20)) == notes_of(planes, recorded(100, 20, (1, 32, 32))) == []
    sentences = format_notes(notes_of(planes, recorded(100, 20, (2, 3, 32, 32))))
    assert sentences == ["CARE, a restored the 6 planes of this image one by one."]
    colour = with_channel_axis(planes, -1)
    notes = [*notes_of(colour, recorded(100, 20, (32, 32, 3)))]
    notes += notes_of(SelfEnsemble(restorer=colour), recorded(100, 20, (32, 32, 3)))
    assert format_notes(notes) == ["CARE, a and CARE, a x8 restored the 3 channels of this image one by one."]
    volumes = opened(tmp_path, conv_dims=3)
    assert notes_of(volumes, recorded(100, 20, (8, 32, 32))) == []
    ((_, note),) = notes_of(volumes, recorded(100, 20, (2, 8, 32, 32)))
    assert note.startswith("restored the 2 volumes of")
    with pytest.raises(EnsembleError, match="takes volumes"):
        volumes(recorded(100, 20))


def test_a_warning_if_the_channel_axis_seems_to_be_missing(tmp_path):
    restorer = opened(tmp_path)
    image = recorded(100, 20, (16, 16, 3))
    with pytest.warns(UnfamiliarImageWarning, match="set the channel axis to -1"):
        restorer(image)
    assert input_warnings_of(with_channel_axis(restorer, -1), image) == []


def test_other_restorers_have_no_notes():
    assert notes_of(Gaussian(), recorded(0, 1)) == input_warnings_of(Gaussian(), recorded(0, 1)) == []
    assert notes_of(np.abs, recorded(0, 1)) == input_warnings_of(np.abs, recorded(0, 1)) == []
