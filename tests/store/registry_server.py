"""A real registry on loopback, and a proxy before it that misbehaves as told."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.concurrency import PATIENCE_SECONDS, free_port, wait_until

PROGRAM = "docker-registry"
CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}", relativeurls: true}}
"""


@contextmanager
def running_registry(folder: Path) -> Iterator[int]:
    """Start Debian's docker-registry and yield its port."""
    port = free_port()
    config = folder / "config.yml"
    config.write_text(CONFIG.format(root=folder / "data", port=port))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, "serve", str(config)], stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Whether a registry answers there."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=PATIENCE_SECONDS).close()
    except OSError:
        return False
    return True


class CuttingProxy:
    """Passes TCP connections on and cuts some after a number of bytes.

    Attributes:
        port: where it listens.
        down_limits, up_limits: bytes after which each next connection is cut, on the way from
            and to the registry; used up in order, then nothing is cut any more.
        n_cuts: how many connections it cut.
    """

    def __init__(self, target: int) -> None:
        self.down_limits: list[int] = []
        self.up_limits: list[int] = []
        self.n_cuts = 0
        self.guard = threading.Lock()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with proxy.guard:
                    down = proxy.down_limits.pop(0) if proxy.down_limits else None
                    up = proxy.up_limits.pop(0) if proxy.up_limits else None
                with socket.create_connection(("127.0.0.1", target)) as server:
                    pumps = [
                        threading.Thread(target=proxy.pump, args=pair)
                        for pair in (
                            (self.request, server, up),
                            (server, self.request, down),
                        )
                    ]
                    for pump in pumps:
                        pump.start()
                    for pump in pumps:
                        pump.join()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def pump(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        left = limit
        with suppress(OSError):
            while data := source.recv(16 << 10):
                target.sendall(data if left is None else data[:left])
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        self.n_cuts += 1
                        break
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
