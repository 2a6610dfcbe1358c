"""What the first fit needs is made ready once for each kind of image, in a process of its own."""

from __future__ import annotations

import subprocess
import threading

import numpy as np

from napari_ensir.viewer.fit import precompile as room


def joined():
    for thread in threading.enumerate():
        if thread.name.startswith("napari-ensir warm-up"):
            thread.join(120)


def test_each_kind_is_compiled_once_and_elsewhere(monkeypatch):
    monkeypatch.setattr(room, "_BEGUN", set())
    ran, run = [], subprocess.run

    def watched(command, **options):
        ran.append(command[-2:])
        return run(command, **options)

    monkeypatch.setattr(room.subprocess, "run", watched)
    grey = np.zeros((8, 8), np.uint8)
    for arrays in ([grey, grey], [grey, grey], [grey.astype(np.float32), grey]):
        room.warm_up(arrays)
        joined()
    assert ran == [["2", "uint8"], ["2", "float32"]]


def test_a_python_that_cannot_be_started_is_no_trouble(monkeypatch):
    monkeypatch.setattr(room, "_BEGUN", set())
    monkeypatch.setattr(room.sys, "executable", "/no/such/python")
    room.warm_up([np.zeros((8, 8), np.uint8)])
    joined()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("napari-ensir warm-up")]


def test_the_fit_panel_warms_up_for_the_ticked_candidates(monkeypatch, fit_widget, filled):
    prepared = []
    monkeypatch.setattr(room, "_BEGUN", set())
    monkeypatch.setattr(room, "_prepare", lambda *kind: prepared.append(kind))
    fit_widget.candidates.value = list(filled.layers)[1:3]
    fit_widget.candidates.value = list(filled.layers)[2:4]
    joined()
    assert prepared == [(2, "uint8")]
