"""Runs the notebooks and keeps what they show in them.

    NAPARI_ENSIR_REFERENCE=<folder> python tools/run_notebooks.py [NAME ...]

published_tables.ipynb needs the EnsIR authors' data, in a folder that the variable names, or fetches them.
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
    """A notebook with what it shows, run in a folder; the file is left as it is.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails.
    """
    # What is fetched shows its progress by widgets, if there are any.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress"
    client = NotebookClient(
        nbformat.read(notebook, as_version=4),
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,
        record_timing=False,  # the same run gives the same file
    )
    return client.execute()


def main(names: list[str]) -> None:
    """Run those named, or all."""
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not names or notebook.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                nbformat.write(executed(notebook, Path(folder)), notebook)


if __name__ == "__main__":
    main(sys.argv[1:])
