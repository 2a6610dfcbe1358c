"""Print the lines of code of each sub-package: no comments, docstrings or blank lines."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "napari_ensir"
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def count_code(text: str) -> int:
    """Lines that hold code."""
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in NOT_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(text)):
        has_docstring = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if has_docstring and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def main() -> None:
    """Print a line for each sub-package, then the sum."""
    counts: Counter[str] = Counter()
    files = sorted(PACKAGE.rglob("*.py"))
    for path in files:
        parts = path.relative_to(PACKAGE).parts
        counts["/".join(parts[:2]) if len(parts) > 2 else parts[0]] += count_code(path.read_text("utf-8"))
    for name, count in counts.items():
        print(f"{count:6d}  {name}")
    print(f"{counts.total():6d}  lines of code in {len(files)} files")


if __name__ == "__main__":
    main()
