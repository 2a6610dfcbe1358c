"""Restorers: callables from a degraded image to a restored one, which make candidates for an ensemble.

- :mod:`.classical`: methods without training.
- :mod:`.noise_model`: the noise of an image, and the transform that stabilises its variance.
- :mod:`.self_ensemble`: any restorer, averaged over eight orientations.
- :mod:`.networks`, :mod:`.formats`: networks from files; :func:`open_restorer` reads each kind.
- :mod:`.training`: networks trained here. The package contains no weights.
- :mod:`.self_supervised`: learning and ranking without a ground truth.

Names are imported on first use, so that torch and scikit-image are loaded only when needed.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
