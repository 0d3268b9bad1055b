"""`kycache ingest` and `web` as processes of their own on a topic of their own, fed by a `FakeSource`."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic

from kycache.cli.main import main
from support.pipeline.fake_source import FakeSource

KYCACHE = (sys.executable, "-m", "kycache.cli.main")
WAIT_S = 60.0
LOOK_S = 0.1


class Home:
    """A configuration and data directory for one topic."""

    def __init__(self, folder: Path, bootstrap: str, topic: str, **more: dict[str, str]) -> None:
        self.folder = folder
        self.bootstrap = bootstrap
        self.topic = topic
        self.configuration = folder / "kycache.toml"
        sections: dict[str, dict[str, str]] = {
            "data": {"dir": "data"},
            "kafka": {"bootstrap": bootstrap, "topic": topic, "group": f"group-{topic}"},
            **more,
        }
        text = "".join(
            f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
            for name, values in sections.items()
        )
        self.configuration.write_text(text, encoding="utf-8")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            [*KYCACHE, "--config", str(self.configuration), *arguments],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            cwd=self.folder,
        )

    def status(self) -> list[dict[str, Any]]:
        """The shards of `kycache status --json`. In this process: it is asked over and over."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
            main(["--config", str(self.configuration), "status", "--json"])
        assert not ended.value.code
        shards: list[dict[str, Any]] = json.loads(out.getvalue())["shards"]
        return shards

    def log(self) -> str:
        """What the processes here have logged."""
        return "".join(p.read_text(encoding="utf-8") for p in sorted(self.folder.glob("*.log")))

    @contextlib.contextmanager
    def ingest(self, name: str = "ingest") -> Iterator[subprocess.Popen[bytes]]:
        """An ingest at work; SIGTERM must end it with exit 0, unless the test has ended it."""
        path = self.folder / f"{name}.log"
        with path.open("ab") as log:
            before = log.tell()
            process = subprocess.Popen(
                [*KYCACHE, "--config", str(self.configuration), "ingest"],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        try:
            # What `status` says may be a killed predecessor's, and a signal before the handlers stand just kills.
            deadline = time.monotonic() + WAIT_S
            while process.poll() is None and b'"ingesting"' not in path.read_bytes()[before:]:
                assert time.monotonic() < deadline, f"does not come up\n{self.log()}"
                time.sleep(LOOK_S)
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                ended = process.wait(WAIT_S)
                assert ended == 0, f"ended with {ended}\n{self.log()}"
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def wait(self, condition: Any, complaint: str) -> list[dict[str, Any]]:
        """Wait until the shards' status satisfies a condition."""
        deadline = time.monotonic() + WAIT_S
        while True:
            shards = self.status()
            if shards and condition(shards):
                return shards
            assert time.monotonic() < deadline, f"{complaint}: {shards}\n{self.log()}"
            time.sleep(LOOK_S)


def offset(shard: dict[str, Any]) -> int:
    """The position in a shard's status; 0 while it has no store."""
    position = shard["position"]
    return 0 if position is None else int(position["offset"])


def make_topic(bootstrap: str, topic: str, partitions: int, compression: str = "producer") -> None:
    """An empty topic."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics(
            [
                NewTopic(
                    name=topic,
                    num_partitions=partitions,
                    replication_factor=1,
                    topic_configs={"compression.type": compression},
                )
            ]
        )
    finally:
        admin.close()


def delete_topic(bootstrap: str, topic: str) -> None:
    """Remove a topic."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.delete_topics([topic])
    finally:
        admin.close()


class Feed:
    """Sends a source's records as they come, each into its own partition."""

    def __init__(self, bootstrap: str, topic: str, source: FakeSource, sent: int = 0) -> None:
        """Args:
        sent: how many records of the source's log were sent before.
        """
        self.source = source
        self.sent = sent
        self._topic = topic
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, acks="all")

    def send(self) -> None:
        """Send what is new in the source's log."""
        for sent in self.source.log[self.sent :]:
            self._producer.send(self._topic, key=sent.key, value=sent.value, partition=sent.partition)
        self.sent = len(self.source.log)
        self._producer.flush()

    def raw(self, partition: int, key: bytes | None, value: bytes | None) -> None:
        """Send something that Debezium would not."""
        self._producer.send(self._topic, key=key, value=value, partition=partition)
        self._producer.flush()

    def end_offsets(self) -> list[int]:
        """How many records each partition was sent by the source."""
        return [len(records) for records in self.source.records()]

    def close(self) -> None:
        """Let go of the broker."""
        self._producer.close()
