"""Settings: what one is (``setting.py``), and which there are (``work.py``; ``shared.py``)."""

from __future__ import annotations

from napari_ensir.settings.setting import Setting, Settings, check_settings, setting, settings_of, table_of
from napari_ensir.settings.shared import (
    SHRINKAGE,
    channel_axis_setting,
    data_range_setting,
    device_setting,
    intensities_setting,
    noise_setting,
    seed_setting,
    steps_setting,
    tau_setting,
)
from napari_ensir.settings.work import (
    METHODS,
    ApplySettings,
    BlindSettings,
    CompareSettings,
    EvaluateSettings,
    FitSettings,
    HidingSettings,
    ReadingSettings,
    RestoreSettings,
    SweepSettings,
    TrainSettings,
    WritingSettings,
)

__all__ = [
    "METHODS",
    "SHRINKAGE",
    "ApplySettings",
    "BlindSettings",
    "CompareSettings",
    "EvaluateSettings",
    "FitSettings",
    "HidingSettings",
    "ReadingSettings",
    "RestoreSettings",
    "Setting",
    "Settings",
    "SweepSettings",
    "TrainSettings",
    "WritingSettings",
    "channel_axis_setting",
    "check_settings",
    "data_range_setting",
    "device_setting",
    "intensities_setting",
    "noise_setting",
    "seed_setting",
    "setting",
    "settings_of",
    "steps_setting",
    "table_of",
    "tau_setting",
]
