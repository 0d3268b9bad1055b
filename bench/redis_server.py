"""A real Redis of a bench's own, in memory alone: what it costs at its cheapest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kycache.demo.servers.children import Child, Program, stopping
from kycache.demo.servers.ports import HOST, free_ports


@dataclass
class RedisServer:
    """A running redis-server."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """User and system time since it began."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """Runs until the block ends.

    Raises:
        SystemExit: it is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is missing: apt-get install redis-server")
    (port,) = free_ports(1)
    command = (program, "--port", str(port), "--save", "", "--appendonly", "no", "--bind", HOST)
    server = Child(Program("redis", command, folder / "redis.log", directory=folder))
    with stopping(server):
        server.start()
        yield RedisServer(port, server.pid)
