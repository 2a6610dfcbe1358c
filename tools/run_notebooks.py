"""Run the notebooks and store their outputs in them.

    NAPARI_ENSIR_REFERENCE=<folder> python tools/run_notebooks.py [NAME ...]

published_tables.ipynb needs the EnsIR authors' data, in the folder of the variable, else it fetches them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def executed(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder and return it with its outputs; the file does not change.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails.
    """
    # Downloads warn if progress widgets are not installed.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress"
    client = NotebookClient(
        nbformat.read(notebook, as_version=4),
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
        record_timing=False,  # for a reproducible file
    )
    return client.execute()


def main(names: list[str]) -> None:
    """Run the named notebooks, or all."""
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not names or notebook.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                nbformat.write(executed(notebook, Path(folder)), notebook)


if __name__ == "__main__":
    main(sys.argv[1:])
