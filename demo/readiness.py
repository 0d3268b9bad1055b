"""When the demo is ready: the shards say so, and everyone in the source is in the list. And who is told."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kycache.demo.servers import loopback
from kycache.model.errors import ConfigurationError

FRESH_S = 5.0
"""Ten beats; less than any start takes, so that an earlier start's last beat is never taken for a new one."""

_USERS_SAMPLE = re.compile(rb"^kycache_shard_users\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ReadyFacts:
    """What the ready file says besides the processes."""

    http: str
    postgres: str
    kafka: str
    topic: str
    dir: str
    connect: str | None


def is_ready(http: str) -> bool:
    """Whether every shard is ready and changes flow: what an earlier start has left may be whole, and old."""
    answer = loopback.get(f"{http}/readyz?strict=1")
    if answer is None:
        return False
    ages = [shard["stalenessSeconds"] for shard in json.loads(answer)["shards"]]
    return all(age is not None and age < FRESH_S for age in ages)


def listed_users(http: str) -> int | None:
    """How many users the list counts; None while it does not answer."""
    answer = loopback.get(f"{http}/users?size=1")
    try:
        return int(json.loads(answer)["page"]["total"]) if answer else None
    except (ValueError, KeyError, TypeError):
        return None


def held_users(http: str) -> int:
    """How many users the shards hold, ready or not; 0 while nobody tells."""
    answer = loopback.get(f"{http}/metrics") or b""
    return int(sum(float(count) for count in _USERS_SAMPLE.findall(answer)))


def write_ready_file(path: Path, facts: ReadyFacts, pids: Mapping[str, int]) -> None:
    """Replaces the ready file: a reader sees the old one or the new one, whole. For the owner only: it holds
    the database's password.

    Raises:
        ConfigurationError: it cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps({**asdict(facts), "pids": dict(pids)}, indent=2) + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise ConfigurationError(f"the ready file {path} cannot be written: {error}", "give another") from None
