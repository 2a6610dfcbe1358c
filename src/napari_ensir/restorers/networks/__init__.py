"""Restorers that apply networks in tiles, and the readers of TorchScript, ONNX and checkpoints."""
