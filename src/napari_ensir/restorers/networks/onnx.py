"""ONNX networks, checked and run by onnxruntime."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from functools import cache
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

# Messages of onnx.proto that lead to nodes, functions and weights: the message in each field, "" for text.
_MESSAGES = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 10: "", 11: "Attribute"},
    "Node": {5: "Attribute", 7: ""},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "External"},
    "External": {1: "", 2: ""},
}


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
    defined, used, locations = set[str](), set[str](), set[str]()
    with ensemble_errors(f"{where} is not an ONNX model, or it is damaged"):
        for each in _messages(_message_type().FromString(content)):
            texts = {
                field.number: [str(text, "utf-8") for text in values]
                for field, values in each.ListFields()
                if not field.message_type
            }
            if each.DESCRIPTOR.name == "Function":
                defined.update(texts.get(10, ()))
            elif each.DESCRIPTOR.name == "Node":
                used.update(texts.get(7, ()))
            elif "location" in texts.get(1, ()):
                locations.update(texts.get(2, [""]))
    if unknown := sorted(used - defined - _STANDARD):
        raise EnsembleError(
            f"{where} uses operators of {unknown[0][:80]!r}; only those of the ONNX standard can be run."
        )
    for name in locations:
        path = PurePosixPath(name)
        if not path.name or path.is_absolute() or ".." in path.parts or set(name) & set("\\:*\0"):
            raise EnsembleError(
                f"{where} keeps weights in {name[:80]!r}; only files in its own folder are read."
            )
    return locations


@cache
def _message_type() -> Any:
    """Protobuf class of a model, whose fields are all repeated, so that no value hides another."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="onnx.proto", package="onnx")
    for name, contents in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, inner in contents.items():
            field = message.field.add(name=f"field_{number}", number=number, label=3)  # repeated
            field.type = field.TYPE_MESSAGE if inner else field.TYPE_BYTES
            if inner:
                field.type_name = f".onnx.{inner}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("onnx.Model"))


def _messages(message: Any) -> Iterator[Any]:
    """A message, and all messages in it."""
    yield message
    for field, values in message.ListFields():
        for each in values if field.message_type else ():
            yield from _messages(each)
