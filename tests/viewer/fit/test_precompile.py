"""The kernels are compiled once for each dtype, in a separate process."""

from __future__ import annotations

import subprocess
import threading

import numpy as np

from napari_ensir.ensemble import engines
from napari_ensir.viewer.fit import precompile


def wait_for_threads():
    for thread in threading.enumerate():
        if thread.name.startswith("napari-ensir warm-up"):
            thread.join(120)


def test_each_kind_is_compiled_once_in_another_process(monkeypatch):
    monkeypatch.setattr(precompile, "_BEGUN", set())
    ran, run = [], subprocess.run

    def watched(command, **options):
        ran.append(command[-1])
        assert engines.compiles_elsewhere
        return run(command, **options)

    monkeypatch.setattr(precompile.subprocess, "run", watched)
    grey = np.zeros((8, 8), np.uint8)
    for arrays in ([grey, grey], [grey, grey], [grey, grey, grey], [grey.astype(np.float32), grey]):
        precompile.warm_up(arrays)
        wait_for_threads()
    assert ran == ["uint8", "float32"]
    assert not engines.compiles_elsewhere


def test_python_that_cannot_be_started_raises_nothing(monkeypatch):
    monkeypatch.setattr(precompile, "_BEGUN", set())
    monkeypatch.setattr(precompile.sys, "executable", "/no/such/python")
    precompile.warm_up([np.zeros((8, 8), np.uint8)])
    wait_for_threads()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("napari-ensir warm-up")]


def test_fit_panel_compiles_for_the_selected_candidates(monkeypatch, fit_widget, filled):
    prepared = []
    monkeypatch.setattr(precompile, "_BEGUN", set())
    monkeypatch.setattr(precompile, "_prepare", lambda *kind: prepared.append(kind))
    fit_widget.candidates.value = list(filled.layers)[1:]
    fit_widget.candidates.value = list(filled.layers)[:0:-1]
    wait_for_threads()
    assert prepared == [("uint8",)]
