"""An opened file: bytes at a position, mapped or read, refused when the file has changed."""

from __future__ import annotations

import mmap
import os
import stat
import threading
from pathlib import Path

import numpy as np

from llamune.gguf.errors import GgufError

__all__ = ["Source"]

NOT_BLOCKING = getattr(os, "O_NONBLOCK", 0)  # a FIFO must not make us wait for a writer
BINARY = getattr(os, "O_BINARY", 0)  # Windows turns line ends otherwise


class Source:
    """A regular file, open read-only.

    Headers are always read with `pread`, so that a file that shrinks gives an error and not
    SIGBUS. Tensor data comes from a map when `mapped` is set, which is only safe for files
    that nobody changes, such as a store's blobs.

    Raises:
        GgufError: the path is missing, unreadable or not a regular file.
    """

    def __init__(self, path: Path, *, mapped: bool) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.descriptor = -1
        self.map: np.ndarray[tuple[int], np.dtype[np.uint8]] | None = None
        try:
            self.descriptor = os.open(path, os.O_RDONLY | NOT_BLOCKING | BINARY)
            status = os.fstat(self.descriptor)
        except OSError as error:
            self.close()
            raise GgufError(path, rule="readable", problem=f"{error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise GgufError(path, rule="regular file", problem="is not a regular file")
        self.size = status.st_size
        self.identity = (status.st_size, status.st_mtime_ns)
        if mapped and self.size:
            self.map = np.frombuffer(
                mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ), np.uint8
            )

    def close(self) -> None:
        """Close the file; a map lives on as long as views of it do."""
        self.map = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def check_unchanged(self) -> None:
        """Refuse to go on with a file that is not as it was when its header was checked.

        Raises:
            GgufError: the size or the time of the last change differs.
        """
        if self.descriptor < 0:
            raise GgufError(self.path, rule="open file", problem="is closed")
        status = os.fstat(self.descriptor)
        if (status.st_size, status.st_mtime_ns) != self.identity:
            raise GgufError(
                self.path,
                rule="unchanged",
                problem=f"changed while it was open ({self.size:,} bytes before, "
                f"{status.st_size:,} now)",
                hint="wait until it is written completely, then run the command again",
            )

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return exactly `n_bytes` at `offset`.

        Raises:
            GgufError: the file ends before.
        """
        if self.descriptor < 0:
            raise GgufError(self.path, rule="open file", problem="is closed")
        pieces = []
        while n_bytes > 0:
            piece = self.read_some(offset, n_bytes)
            if not piece:
                raise GgufError(
                    self.path,
                    rule="complete",
                    problem=f"ends here; {n_bytes:,} more bytes were expected",
                    offset=offset,
                    hint="the file is cut short: copy or download it again",
                )
            pieces.append(piece)
            offset += len(piece)
            n_bytes -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_some(self, offset: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes` at `offset`, none at the end of the file."""
        if hasattr(os, "pread"):
            return os.pread(self.descriptor, n_bytes, offset)
        with self.lock:  # Windows has no pread: seek and read must not be torn apart
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.read(self.descriptor, n_bytes)

    def view(self, offset: int, n_bytes: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """Return bytes of tensor data, read-only: from the map, or read after a check.

        Raises:
            GgufError: the file has changed or ends before.
        """
        if self.map is not None:
            return self.map[offset : offset + n_bytes]
        self.check_unchanged()
        data = np.frombuffer(self.read(offset, n_bytes), np.uint8)
        self.check_unchanged()
        return data
