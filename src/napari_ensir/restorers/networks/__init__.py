"""Networks that run in tiles: our checkpoints, TorchScript and exported files."""
