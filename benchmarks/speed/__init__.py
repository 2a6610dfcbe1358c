"""Parts of ``bench.py``: one module per path through the numerical core, and helpers."""
