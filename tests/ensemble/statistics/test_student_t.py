from __future__ import annotations

import numpy as np
import pytest
from scipy.special import stdtrit

from napari_ensir.ensemble.statistics.student_t import student_t_quantile


@pytest.mark.parametrize("probability", [0.5, 0.6, 0.95, 0.975, 0.9999])
def test_quantiles_equal_those_of_scipy(probability):
    degrees = [1, 2, 3, 4, 5, 9, 30, 101, 10_000]
    found = [student_t_quantile(n, probability) for n in degrees]
    np.testing.assert_allclose(found, stdtrit(degrees, probability), rtol=1e-9, atol=1e-9)
