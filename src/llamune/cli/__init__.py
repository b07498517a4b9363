"""The command line: one file per command, each reads options, calls a room or a job, prints."""

from llamune.cli._main import main

__all__ = ["main"]
