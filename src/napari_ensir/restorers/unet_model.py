"""A U-Net from an image to another of its channels, as a model of its own. Knows no loss."""

from __future__ import annotations

from napari_ensir.restorers.learned import Model
from napari_ensir.restorers.networks import NetworkShape, UNet

__all__ = ["UNetModel"]


class UNetModel(Model):
    """A model that has this network and no other; what it is used for, and its loss, a subclass says."""

    settings: NetworkShape

    def __init__(self, settings: NetworkShape) -> None:
        super().__init__()
        self.settings = settings
        self.network = UNet(settings.channels, settings.channels, width=settings.width, depth=settings.depth)
        self.multiple = self.network.multiple
