"""What the JSON of an exported program may say. Reads no files and knows no archives.

``torch.export`` makes Python of such a program: names become the text of a function, shapes are evaluated as
expressions, the structure of inputs imports modules by their names. So every word in it is either a plain
name or one of the forms below, and what is returned is made of these alone.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_ensir.errors import EnsembleError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "CheckedNetwork",
    "Records",
    "checked_payload",
    "checked_program",
    "pack",
    "read_network",
    "read_records",
]


Records = dict[str, bytes]
"""Contents by name, without the archive's own name in front."""

_MAX_UNFOLDED = 2**25
_MAX_RECORDS = 2**17


def read_records(
    path: str | Path, known: re.Pattern[str], content: bytes | None = None
) -> tuple[Records, list[str]]:
    """The records of known names, and the names of the others, which are not read.

    Parameters
    ----------
    path
        A file; it is opened once.
    known
        What names may be, exact to the case.
    content
        What the file holds, where that was read already; `path` is then only named in messages.

    Raises
    ------
    EnsembleError
        If two records are of one name, as torch reads names, or belong to several archives; if one differs
        from a known name by its case; or if they would unfold to more than torch writes.
    OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error
        If it is no archive, or a damaged one.
    """
    records: Records = {}
    others: list[str] = []
    with (
        open(path, "rb") if content is None else io.BytesIO(content) as file,
        zipfile.ZipFile(file) as archive,
    ):
        infos = archive.infolist()
        _check_sizes(infos, file.seek(0, io.SEEK_END), path)
        taken: set[str] = set()
        roots: set[str] = set()
        for info in infos:
            root, slash, name = info.filename.partition("/")
            if not slash:
                others.append(info.filename)
                continue
            roots.add(root)
            if name.lower() in taken or len(roots) > 1:
                raise EnsembleError(f"{path} holds two files of one name, or of two archives.")
            taken.add(name.lower())
            if known.fullmatch(name):
                records[name] = archive.read(info)
            elif known.fullmatch(name.lower()):
                raise EnsembleError(f"{path} holds {name[:80]!r}, which torch writes in other letters.")
            else:
                others.append(name)
    return records, others


def _check_sizes(infos: list[zipfile.ZipInfo], size: int, path: str | Path) -> None:
    """Torch compresses nothing but code: what unfolds to more than that would fill the memory."""
    folded = [info for info in infos if info.compress_type != zipfile.ZIP_STORED]
    for info in folded:
        if info.file_size > _MAX_UNFOLDED:
            raise EnsembleError(
                f"{path} has a compressed record of {info.file_size // 2**20} MB ({info.filename[:80]!r}), "
                "as torch writes none."
            )
    stored = sum(info.file_size for info in infos if info.compress_type == zipfile.ZIP_STORED)
    unfolded = sum(info.file_size for info in folded)
    if len(infos) > _MAX_RECORDS or stored > size or unfolded > 4 * _MAX_UNFOLDED:
        raise EnsembleError(f"{path} states more records, or larger ones, than a file of torch holds.")


def pack(records: Mapping[str, bytes]) -> io.BytesIO:
    """An archive of these records and no others, stored as they are.

    Torch asks for no alignment here: what it reads from memory it copies into memory of its own.

    Examples
    --------
    >>> zipfile.ZipFile(pack({"version": b"3"})).namelist()
    ['archive/version']
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, record in records.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), record)
    content.seek(0)
    return content


_NAME = re.compile(r"[\w.-]*", re.ASCII)
_SIZE = re.compile(r"[\w*+/() -]*", re.ASCII)
_TEXT = re.compile(r"[\w.,>+< =-]*", re.ASCII)
"""Arguments such as ``"bij,bjk->bik"``, and torch's versions."""

_ARITHMETIC = "add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem"
_OPERATORS = re.compile(
    rf"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+|_operator\.({_ARITHMETIC})|torch\.sym_\w+", re.ASCII
)
# What torch writes shapes with.
_FUNCTIONS = {
    *("Integer", "Float", "Rational", "Mul", "Add", "Pow", "Mod", "PythonMod", "FloorDiv"),
    *("CleanDiv", "CeilDiv", "Max", "Min", "Abs", "Eq", "Ne", "Ge", "Gt", "Le", "Lt", "And", "Or", "Not"),
}
_SYMBOL = re.compile(r"[su]\d+", re.ASCII)
_ASSUMPTIONS = ("positive", "integer", "nonnegative", "nonzero")
_MOST_LETTERS = 10_000
_MOST_POWER = 64


def checked_program(program: Any, where: str) -> Any:
    """The program, of known words only; notes on where it came from are left out.

    Parameters
    ----------
    program
        From JSON.
    where
        Named in the message.

    Raises
    ------
    EnsembleError
        If any word is none that torch writes for a plain network of ATen operators.
    """
    return _checked(program, "", where)


def checked_payload(payload: Any, where: str) -> Any:
    """A list of tensors with the records they stand in, none of them a pickle.

    Raises
    ------
    EnsembleError
        If one refers to anything else.
    """
    for key, value in _items(payload):
        special = key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", str(value), re.ASCII)
        if special or (key == "use_pickle" and value is not False):
            raise EnsembleError(f"{where} refers to a pickle ({key} = {str(value)[:80]!r}).")
    return _checked(payload, "", where)


def _items(value: Any) -> list[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, dict):
        return [pair for key, each in value.items() for pair in [(key, each), *_items(each)]]
    return [pair for each in value for pair in _items(each)] if isinstance(value, list) else []


def _checked(value: Any, key: str, where: str) -> Any:
    """A part of the program that stands under this key."""
    if key == "guards_code":
        return [_plain_guard(each, where) for each in value] if isinstance(value, list) else []
    if isinstance(value, dict):
        if key == "metadata" and all(isinstance(each, str) for each in value.values()):
            return {}  # where each line came from: free text, and no part of the program
        checked_key = _plain_size if key == "range_constraints" else _plain_name
        return {checked_key(name, where): _checked(each, name, where) for name, each in value.items()}
    if isinstance(value, list):
        return [_checked(each, key, where) for each in value]
    return _word(value, key, where) if isinstance(value, str) else value


def _word(word: str, key: str, where: str) -> str:
    if key in ("target", "as_operator"):
        if not _OPERATORS.fullmatch(word):
            raise EnsembleError(f"{where} uses {word[:80]!r}; only operators of ATen are allowed.")
        return word
    if key == "expr_str":
        return _plain_expression(word, where)
    if key in ("in_spec", "out_spec"):
        return _plain_structure(word, where) if word else word
    if key in ("as_string", "as_strings", "torch_version"):
        if not _TEXT.fullmatch(word):
            raise EnsembleError(f"{where} has the text {word[:80]!r}, which no plain network needs.")
        return word
    return _plain_name(word, where)


def _plain_name(word: str, where: str) -> str:
    if not _NAME.fullmatch(word):
        raise EnsembleError(f"{where} has {word[:80]!r} where a plain name should stand.")
    return word


def _plain_size(word: str, where: str) -> str:
    """What a range is of: looked up as it is written, ``2*s39``, and never evaluated."""
    if not _SIZE.fullmatch(word):
        raise EnsembleError(f"{where} has {word[:80]!r} where a size should stand.")
    return word


def _plain_structure(text: str, where: str) -> str:
    """How inputs or outputs are nested, if by tuples, lists and dicts alone."""
    try:
        protocol, tree = json.loads(text)
        return json.dumps([int(protocol), _branch(tree)])
    except (KeyError, TypeError, ValueError) as error:
        raise EnsembleError(f"{where} has inputs or outputs of no plain structure: {text[:80]!r}.") from error


def _branch(tree: Any) -> dict[str, Any]:
    kind, context = tree["type"], tree["context"]
    names = json.loads(context) if kind == "builtins.dict" else []
    empty = context is None if kind is None else context == "null" or kind == "builtins.dict"
    known = kind in (None, "builtins.tuple", "builtins.list", "builtins.dict")
    if not known or not empty or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ValueError(kind)
    context = json.dumps(names) if kind == "builtins.dict" else context
    return {
        "type": kind,
        "context": context,
        "children_spec": [_branch(each) for each in tree["children_spec"]],
    }


def _plain_expression(text: str, where: str) -> str:
    """A shape's expression, if it is made of numbers, symbols and known functions alone."""
    try:
        if len(text) > _MOST_LETTERS:
            raise ValueError
        tree = ast.parse(text, mode="eval").body
        _plain_node(tree)
        return ast.unparse(tree)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        shown = f"{where} has a shape that is no plain expression: {text[:80]!r}."
        raise EnsembleError(shown) from error


def _plain_node(node: ast.expr) -> None:
    """Raise ValueError if this node, or one below it, is not allowed."""
    below: list[ast.expr] = []
    match node:
        case ast.Constant(value=bool() | int() | float()):
            pass
        case ast.Name(id=name) if _SYMBOL.fullmatch(name):
            pass
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            below = [operand]
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.FloorDiv() | ast.Mod()):
            below = [node.left, node.right]
        case ast.Compare(left=left, comparators=others):
            below = [left, *others]
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)], keywords=given):
            if not _SYMBOL.fullmatch(name) or not all(_is_assumption(each) for each in given):
                raise ValueError
        case ast.Call(func=ast.Name(id=name), args=below, keywords=[]) if name in _FUNCTIONS:
            if name == "Pow" and not _is_small_power(*below):
                raise ValueError
        case _:
            raise ValueError
    for each in below:
        _plain_node(each)


def _plain_guard(text: Any, where: str) -> str:
    """A condition that torch found on the sizes of inputs, if it is integer arithmetic on sizes alone.

    Networks that halve and double their images have some: ``L['x'].size()[2] == 4*(L['x'].size()[2] // 4)``.
    Torch makes Python of them, which runs at every call.
    """
    try:
        if not isinstance(text, str) or len(text) > _MOST_LETTERS:
            raise ValueError
        tree = ast.parse(text.strip(), mode="eval").body
        _size_node(tree)
        return ast.unparse(tree)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise EnsembleError(
            f"{where} has a guard that is more than arithmetic on the sizes of inputs: {str(text)[:80]!r}."
        ) from error


def _size_node(node: ast.expr) -> None:
    """Raise ValueError if this node of a guard, or one below it, is not allowed."""
    below: list[ast.expr] = []
    match node:
        case ast.Constant(value=int()):
            pass
        case ast.BoolOp(values=below):
            pass
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            below = [operand]
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.FloorDiv() | ast.Mod()):
            below = [node.left, node.right]
        case ast.Compare(left=left, ops=signs, comparators=others) if all(
            isinstance(sign, (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)) for sign in signs
        ):
            below = [left, *others]
        case ast.Call(func=ast.Name(id="max" | "min"), args=below, keywords=[]):
            pass
        case ast.Subscript(
            value=ast.Call(func=ast.Attribute(value=source, attr="size"), args=[], keywords=[]),
            slice=ast.Constant(value=int()),
        ) if _is_input(source):
            pass
        case _:
            raise ValueError
    for each in below:
        _size_node(each)


def _is_input(node: ast.expr) -> bool:
    """Whether this stands for an input: ``L['x']``, or ``L['flat_args'][0]``."""
    match node:
        case ast.Name(id="L"):
            return True
        case ast.Subscript(value=value, slice=ast.Constant(value=str() as name)):
            return name.isidentifier() and name.isascii() and _is_input(value)
        case ast.Subscript(value=ast.Subscript() as value, slice=ast.Constant(value=int())):
            return _is_input(value)
        case _:
            return False


def _is_assumption(given: ast.keyword) -> bool:
    return given.arg in _ASSUMPTIONS and isinstance(given.value, ast.Constant) and given.value.value is True


def _is_small_power(base: ast.expr, exponent: ast.expr) -> bool:
    """Whether a power cannot grow beyond reason as it is evaluated."""
    if any(isinstance(each, ast.Name) and each.id == "Pow" for each in ast.walk(base)):
        return False
    match exponent:
        case ast.Call(func=ast.Name(id="Integer" | "Rational"), args=numbers, keywords=[]):
            pass
        case _:
            numbers = [exponent]
    plain = [each.operand if isinstance(each, ast.UnaryOp) else each for each in numbers]
    return all(
        isinstance(each, ast.Constant) and type(each.value) is int and each.value <= _MOST_POWER
        for each in plain
    )


_BOTH = r"version|\.data/version|byteorder"
_TORCHSCRIPT = re.compile(
    rf"{_BOTH}|data\.pkl|constants\.pkl|data/\d+|constants/\d+|code/[\w./]+\.py", re.ASCII
)
_EXPORT = re.compile(
    rf"{_BOTH}|archive_format|archive_version|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/((weight|tensor)_\d+|model_(weights|constants)_config\.json|model\.pt)",
    re.ASCII,
)
_EITHER = re.compile(f"{_TORCHSCRIPT.pattern}|{_EXPORT.pattern}", re.ASCII)
_COMPILED = re.compile(r"data/aotinductor/.*|.*\.(so|dll|dylib|pyd)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, eq=False)
class CheckedNetwork:
    """A network's file as torch may read it.

    Attributes
    ----------
    kind : str
        ``"torchscript"`` or ``"export"``.
    content : io.BytesIO
        An archive of what was checked and nothing else.
    """

    kind: str
    content: io.BytesIO


def read_network(path: str | Path, content: bytes | None = None) -> CheckedNetwork:
    """Read the file of a network once, for torch to open without running anything in it.

    Parameters
    ----------
    path
        A file that ``torch.jit.save`` or ``torch.export.save`` wrote.
    content
        What it holds, where that was read already; `path` is then only named in messages.

    Raises
    ------
    EnsembleError
        If it is neither, or holds what could run.
    """
    try:
        records, others = read_records(path, _EITHER, content)
        if "serialized_exported_program.json" in others:
            raise EnsembleError(f"{path} is from an old torch; export it again with 2.8 or later.")
        for name in [one for one in others if _COMPILED.fullmatch(one)]:
            raise EnsembleError(f"{path} holds compiled code ({name[:80]}), which is not opened.")
        if "models/model.json" in records:
            return CheckedNetwork("export", pack(_checked_export(records, path)))
        if "constants.pkl" in records and any(name.startswith("code/") for name in records):
            return CheckedNetwork("torchscript", pack(_checked_torchscript(records, path)))
    except EnsembleError:
        raise
    except FileNotFoundError as error:
        raise EnsembleError(f"there is no file {path}.") from error
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise EnsembleError(f"{path} is no TorchScript and no torch.export file: {error}.") from error
    raise EnsembleError(
        f"{path} is no TorchScript and no torch.export file. Weights alone, and pickled networks, are not "
        "opened: a pickle can run anything."
    )


def _checked_torchscript(records: Records, path: str | Path) -> Records:
    for name, content in records.items():
        if name.endswith(".py") and b"__setstate__" in content:
            raise EnsembleError(f"{path} has code that runs as it is loaded ({name}: __setstate__).")
    return {name: content for name, content in records.items() if _TORCHSCRIPT.fullmatch(name)}


def _checked_export(records: Records, path: str | Path) -> Records:
    checked: Records = {}
    for name, content in records.items():
        if not _EXPORT.fullmatch(name):
            continue
        where = f"{path}: {name}"
        if name.startswith("data/sample_inputs/"):
            _tensors_anew(content, where)
            checked[name] = b""  # torch does without them, and then unpickles nothing
        elif name.endswith(".pt"):
            checked[name] = _tensors_anew(content, where)
        elif name == "models/model.json":
            checked[name] = json.dumps(checked_program(json.loads(content), str(path))).encode()
        elif name.endswith(".json"):
            checked[name] = json.dumps(checked_payload(json.loads(content), where)).encode()
        else:
            checked[name] = content
    return checked


def _tensors_anew(content: bytes, where: str) -> bytes:
    """A pickle of what this one holds, if that is tensors alone."""
    import torch

    stream = io.BytesIO()
    try:
        torch.save(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), stream)
    except Exception as error:  # many kinds for many faults
        raise EnsembleError(f"{where} is a pickle of more than tensors.") from error
    return stream.getvalue()
