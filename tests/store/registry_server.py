"""A real registry on loopback, and a proxy before it that misbehaves as told."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAM = "docker-registry"
CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}", relativeurls: true}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running_registry(folder: Path) -> Iterator[int]:
    """Start Debian's docker-registry and yield its port."""
    port = free_port()
    config = folder / "config.yml"
    config.write_text(CONFIG.format(root=folder / "data", port=port))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, "serve", str(config)], stdout=log, stderr=log)
    try:
        for _ in range(200):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            time.sleep(0.05)
        else:
            raise AssertionError((folder / "log").read_text())
        yield port
    finally:
        process.kill()
        process.wait()


class CuttingProxy:
    """Passes TCP connections on and cuts some after a number of bytes.

    Attributes:
        port: where it listens.
        down_limits, up_limits: bytes after which each next connection is cut, on the way from
            and to the registry; used up in order, then nothing is cut any more.
        n_cuts: how many connections it cut.
        seconds_a_piece: how long it waits after each piece of 16 KiB.
    """

    def __init__(self, target: int) -> None:
        self.down_limits: list[int] = []
        self.up_limits: list[int] = []
        self.n_cuts = 0
        self.seconds_a_piece = 0.0
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
                time.sleep(self.seconds_a_piece)
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
