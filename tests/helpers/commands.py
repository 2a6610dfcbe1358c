"""Calls of the command line in this process."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner, Result

from napari_ensir.cli.app import app


def invoke(*arguments: Any, status: int = 0) -> Result:
    """Return the result of a command, which must have this exit status."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.stderr
    if status == 1:
        assert all(line.startswith("napari-ensir: ") for line in result.stderr.splitlines())
    return result


def run(*arguments: Any, status: int = 0) -> str:
    """Return standard output of a command; standard error if it must fail."""
    result = invoke(*arguments, status=status)
    return result.stderr if status else result.stdout


def run_both(*arguments: Any, status: int = 0) -> tuple[str, str]:
    """Return standard output and standard error of a command."""
    result = invoke(*arguments, status=status)
    return result.stdout, result.stderr
