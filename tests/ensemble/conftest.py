from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.images import ENGINES, make_image, using


@pytest.fixture(params=ENGINES)
def engine(request):
    with using(request.param):
        yield request.param


@pytest.fixture
def both_engines():
    """The context manager itself, for tests that compare the two."""
    return using


@pytest.fixture
def rng():
    return np.random.default_rng(20241022)


@pytest.fixture
def image_of():
    return make_image


@pytest.fixture
def without_checks(monkeypatch):
    """Fit without checks of the images, which on large images take longer than the fit."""
    monkeypatch.setattr("napari_ensir.ensemble.fit.diagnose_reference", lambda pairs, *_, **__: ([], pairs))


@pytest.fixture(scope="session")
def deraining(reference_folder):
    """Ten images: (candidates of MPRNet, MAXIM, Restormer; truth), sorted by id."""
    from skimage.io import imread

    def read(folder, stem):
        return imread(next((reference_folder / "deraining" / folder).glob(f"{stem}.*")))

    stems = sorted(path.stem for path in (reference_folder / "deraining" / "gt").iterdir())
    models = ("MPRNet", "MAXIM", "Restormer")
    return [([read(model, stem) for model in models], read("gt", stem)) for stem in stems]
