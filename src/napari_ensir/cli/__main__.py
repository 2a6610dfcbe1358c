"""``python -m napari_ensir.cli``."""

from __future__ import annotations

from napari_ensir.cli import main

if __name__ == "__main__":
    main()
