"""All that knows napari and Qt: one file a widget, plus the layer picker, outputs and sample data."""
