"""Choice of a lookup table, and the base class of the panels that make or use one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari_ensir.ensemble.lut.load import SUFFIX
from napari_ensir.errors import EnsembleError
from napari_ensir.viewer.controls.combo import Choice
from napari_ensir.viewer.controls.dialogs import open_asked, save_asked
from napari_ensir.viewer.controls.forms import button
from napari_ensir.viewer.controls.inputs import WithButton
from napari_ensir.viewer.controls.worker import delayed
from napari_ensir.viewer.layers.layers import OUTPUT_KEY
from napari_ensir.viewer.layers.records import open_lut
from napari_ensir.viewer.layers.session import get_session
from napari_ensir.viewer.panel import Panel, shows_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import napari
    from magicgui.widgets import PushButton
    from magicgui.widgets.bases import Widget

    from napari_ensir.ensemble.lut.lut import WeightLUT

_OPEN_FILTER = f"Lookup table or ensemble (*{SUFFIX} *.ome.tif *.ome.tiff zarr.json .zattrs)"


def save_button() -> PushButton:
    """Return the button that :class:`TablePanel` connects."""
    return button(
        "Save LUT…", "Write the lookup table to a file, for images without ground truth.", "save_button"
    )


class TableChoice(WithButton):
    """Combo box of the lookup tables of a viewer, with a button that opens another.

    The value is the title of a table.

    Parameters
    ----------
    viewer
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer, self._session = viewer, get_session(viewer)
        self.luts: dict[str, WeightLUT] = {}
        titles = Choice(
            {},
            name="table",
            label="Table",
            tooltip="Lookup tables that were fitted or opened in this viewer, or of its ensemble layers.",
        )
        opening = button(
            "Open…",
            "Open a lookup table, or the table of an ensemble that was saved as OME-TIFF or OME-Zarr (choose "
            "the zarr.json in its folder).",
            "open_button",
        )
        super().__init__(titles, opening)
        self.refresh()

    @property
    def lut(self) -> WeightLUT | None:
        """The chosen table."""
        return self.luts.get(self.value)

    def refresh(self) -> None:
        """Offer the present tables, without a signal; the newest is chosen if the chosen one is gone."""
        self.luts = dict(self._session.tables)
        for layer in self._viewer.layers:
            output = layer.metadata.get(OUTPUT_KEY, {})
            lut = output.get("lut")
            if output.get("kind") == "ensemble" and lut is not None and lut not in self.luts.values():
                self.luts[f"{layer.name} (layer)"] = lut
        with self.inner.changed.blocked():
            before = self.value
            self.inner.offer({title: (title, title) for title in self.luts})
            if self.luts and before not in self.luts:
                self.value = list(self.luts)[-1]

    def open(self, path: str | Path) -> None:
        """Open a lookup table, or the table in the record of a saved ensemble, and choose it."""
        self.value = self._session.open(path, open_lut(path))

    def ask_and_open(self) -> None:
        """Ask for a file, and open it."""
        open_asked(self.native, "Open a lookup table", _OPEN_FILTER, self.open)


class TablePanel(Panel):
    """Panel with a lookup table, which can be saved if the panel contains a :func:`save_button`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._revealed: tuple[Widget, ...] = ()
        super().__init__(*args, **kwargs)
        # Later, once the new texts are laid out.
        self._reveal_soon = delayed(self.native, self._scroll, 50)
        if "save_button" in self.obstacles():
            self.on_change(save_button=self._ask_and_save)

    @property
    def lut(self) -> WeightLUT | None:
        """The lookup table that was made or chosen."""
        raise NotImplementedError

    def obstacles(self) -> Mapping[str, str]:
        """See Panel."""
        missing = "" if self.lut is not None else "There is no lookup table yet."
        return {**super().obstacles(), "save_button": missing}

    def reveal(self, *widgets: Widget) -> None:
        """Scroll until these widgets are in view; if they do not all fit, the first one is."""
        self._revealed = widgets
        self._reveal_soon.start()

    def _scroll(self) -> None:
        for widget in reversed(self._revealed):
            self.native.ensureWidgetVisible(widget.native, 0, 0)

    @shows_errors
    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the lookup table to a file, and show the outcome under the buttons.

        Parameters
        ----------
        path : str or Path
            ``.lut.safetensors`` is appended if the name lacks it.
        overwrite : bool
            Replace an existing file.
        """
        missing = self.obstacles()["save_button"]
        if self.lut is None or missing:
            raise EnsembleError(missing)
        self.say(f"Saved {self.lut.save(path, overwrite=overwrite).name}.")

    def _ask_and_save(self) -> None:
        save = partial(self.save, overwrite=True)  # the dialog has asked
        save_asked(self.native, "Save the lookup table", "ensemble", "Lookup table", SUFFIX, save)


class TableChoicePanel(TablePanel):
    """Panel with a control that chooses its lookup table.

    Parameters
    ----------
    *args, **kwargs
        As for :class:`~napari_ensir.viewer.panel.Panel`; one of the parts contains the control.
    tables : TableChoice
        The control.
    """

    def __init__(self, *args: Any, tables: TableChoice, **kwargs: Any) -> None:
        self._tables, self.open_button = tables, tables.button
        super().__init__(*args, **kwargs)
        self.open_button.changed.connect(self.safely(tables.ask_and_open))
        self.on_change(table=self.table_changed)
        self.connect_while_open(get_session(self.viewer).changed, self.layers_changed)

    @property
    def lut(self) -> WeightLUT | None:
        """The chosen table."""
        return self._tables.lut

    @shows_errors
    def layers_changed(self) -> None:
        """See Panel."""
        super().layers_changed()
        self._tables.refresh()
        self.table_changed()

    def table_changed(self) -> None:
        """Show the chosen table, after it, the tables or the layers have changed."""
        raise NotImplementedError

    @shows_errors
    def open(self, path: str | Path) -> None:
        """Open a lookup table, or the table in the record of a saved ensemble, and choose it."""
        self._tables.open(path)
