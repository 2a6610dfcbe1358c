"""ONNX networks, checked and run by onnxruntime."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_ensir.errors import EnsembleError, ensemble_errors, extra_needed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

_MAX_WEIGHTS = 2**34
"""Largest size of all files with weights together."""

_STANDARD = {"", "ai.onnx"}
_DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}

# Fields of onnx.proto that lead to nodes, functions and tensors: message, field number, message in it.
_MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
    "external": {},
}
_TEXTS = {("function", 10): "defined", ("node", 7): "used", ("external", 1): "key", ("external", 2): "value"}


def is_onnx(start: bytes) -> bool:
    """Whether a file that starts with these bytes looks like an ONNX model.

    A model starts with its IR version, followed by another of its first fields; a safetensors file, whose
    first bytes may be the same, has an opening brace at byte 8.
    """
    return start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x3a", b"\x42") and start[8:9] != b"{"


def read_beside(path: Path) -> Callable[[str], bytes]:
    """Return a function that reads files in the folder of a model, or in folders within it.

    Parameters
    ----------
    path
        The file of the model.
    """

    def read(name: str) -> bytes:
        found = path.parent / name
        try:
            if not found.resolve(strict=True).is_relative_to(path.parent.resolve()) or not found.is_file():
                raise EnsembleError(f"{path} keeps weights in {name[:80]!r}, which is not in its folder.")
            if found.stat().st_size > _MAX_WEIGHTS:
                raise EnsembleError(f"{found} is larger than {_MAX_WEIGHTS // 2**30} GB.")
            return found.read_bytes()
        except (OSError, RuntimeError) as error:
            raise EnsembleError(
                f"{path} keeps weights in {name[:80]!r}, which cannot be read; put that file beside it."
            ) from error

    return read


class OnnxNetwork:
    """An ONNX model as a function of tensors.

    The session of onnxruntime gets the bytes that were checked, never a path, and only its CPU provider.

    Parameters
    ----------
    content
        The serialised model.
    where
        Used in messages.
    read_weights
        Reads a file of weights by the name in the model.

    Attributes
    ----------
    shape : list of int or None
        Sizes of the input along each axis; None: free.

    Raises
    ------
    EnsembleError
        If the extra ``onnx`` is missing, `content` is not a model from one floating-point image to one, it
        needs operators that the ONNX standard does not define, or its weights are elsewhere.
    """

    def __init__(self, content: bytes, where: str, read_weights: Callable[[str], bytes]) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else onnxruntime reports its use to Microsoft
        with extra_needed("onnx", f"{where} is an ONNX network, which needs onnxruntime"):
            import onnxruntime
        onnxruntime.disable_telemetry_events()  # Windows ignores the variable
        weights = {name: read_weights(name) for name in sorted(_check_model(content, where))}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if weights:
            options.add_external_initializers_from_files_in_memory(
                list(weights), list(weights.values()), [len(each) for each in weights.values()]
            )
        with ensemble_errors(f"{where} cannot be read by onnxruntime"), _plain_errors():
            self._session: Any = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
            inputs, outputs = (
                [(each.name, each.type, each.shape) for each in side]
                for side in (self._session.get_inputs(), self._session.get_outputs())
            )
        if len(inputs) != 1 or len(outputs) != 1:
            raise EnsembleError(
                f"{where} has {len(inputs)} inputs and {len(outputs)} outputs; one of each is needed."
            )
        self._name, dtype, shape = inputs[0]
        if unsupported := {dtype, outputs[0][1]} - _DTYPES.keys():
            raise EnsembleError(
                f"{where} takes or returns {unsupported.pop()}; floating-point images are needed."
            )
        self._dtype = _DTYPES[dtype]
        self.shape = [n if isinstance(n, int) and n > 0 else None for n in shape]

    def __call__(self, tiles: Tensor) -> Tensor:
        """Apply the network to a tensor of its shape.

        Raises
        ------
        RuntimeError
            If the network cannot be applied to this shape.
        """
        array = tiles.cpu().numpy().astype(self._dtype, copy=False)
        with _plain_errors():
            (result,) = self._session.run(None, {self._name: np.ascontiguousarray(array)})
        return torch.from_numpy(np.asarray(result, np.float32)).to(tiles.device)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise RuntimeError for errors of onnxruntime, without their codes and C++ signatures."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's errors share no other base class
        text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
        if "onnxruntime::" in text:
            text = text.rpartition(") ")[2]
        if "is under development" in str(error):  # a newer opset than onnxruntime supports
            text = "its opset is not supported; export it with an older opset, or update onnxruntime"
        raise RuntimeError(text[:300].rstrip(".")) from error


def _check_model(content: bytes, where: str) -> set[str]:
    """Names of the files with weights; EnsembleError where operators or names are not allowed."""
    found: dict[str, set[str]] = {"defined": set(), "used": set(), "location": set()}
    with ensemble_errors(f"{where} is not an ONNX model, or it is damaged"):
        _collect(memoryview(content), "model", found)
    if unknown := sorted(found["used"] - found["defined"] - _STANDARD):
        raise EnsembleError(
            f"{where} uses operators of {unknown[0][:80]!r}; only those of the ONNX standard can be run."
        )
    for name in found["location"]:
        path = PurePosixPath(name)
        if not path.name or path.is_absolute() or ".." in path.parts or set(name) & set("\\:*\0"):
            raise EnsembleError(
                f"{where} keeps weights in {name[:80]!r}; only files in its own folder are read."
            )
    return found["location"]


def _collect(content: memoryview, message: str, found: dict[str, set[str]]) -> None:
    """Add the operator domains and external files of a protobuf message to `found`."""
    texts: dict[str, str] = {}
    for number, value in _fields(content):
        if inner := _MESSAGES[message].get(number):
            _collect(value, inner, found)
        elif kind := _TEXTS.get((message, number)):
            texts[kind] = str(value, "utf-8")
    for kind, text in texts.items():
        if kind in found:
            found[kind].add(text)
    if texts.get("key") == "location":
        found["location"].add(texts.get("value", ""))


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Numbers and contents of the length-delimited fields of a protobuf message."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(content, at)
        elif kind == 2:
            size, at = _varint(content, at)
            yield tag >> 3, content[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("unknown kind of field")
    if at != len(content):
        raise ValueError("a field is truncated")


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A protobuf integer and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("an integer is too long")
