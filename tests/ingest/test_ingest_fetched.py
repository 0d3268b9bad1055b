"""Records of a fetch, read our way and kafka-python's: the same, whatever the batches are like."""

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from types import SimpleNamespace
from typing import Any

import kafka.codec
import pytest
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, UnsupportedCodecError
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import calc_crc32c

from kycache.actors.store.turn import Turn
from kycache.ingest.consuming.fetched import Fetched, PartitionRecords
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.thread import _Session
from kycache.model.definition import default_view
from kycache.model.errors import HaltShard
from simulation.member import SteppedThread
from support.faults import seeds

TP = TopicPartition("kyc.changes", 3)
EPOCH = 7
NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODECS = {"gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
HEAD_BYTES = 61
ATTRIBUTES_AT, CRC_AT, EPOCH_AT, LENGTH_AT = 21, 17, 12, 8
APPEND_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20

Sent = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
"""A record: milliseconds, key, value, headers."""


def resealed(batch: bytearray, flags: int = 0) -> bytes:
    """A batch after somebody's hand, with a checksum that is right."""
    batch[ATTRIBUTES_AT + 1] |= flags
    struct.pack_into(">i", batch, EPOCH_AT, EPOCH)
    struct.pack_into(">I", batch, CRC_AT, calc_crc32c(memoryview(batch)[ATTRIBUTES_AT:]))
    return bytes(batch)


def built(offset: int, records: Sequence[Sent | None], *, codec: int = NONE, producer: int = -1) -> bytearray:
    """One batch; of records, None for one that compaction took."""
    count = 0 if producer >= 0 else -1  # a producer's epoch, and its count of records; -1: it has none
    builder = MemoryRecordsBuilder(
        2, codec, 1 << 20, offset, producer_id=producer, producer_epoch=count, base_sequence=count
    )
    for record in records:
        if record is None:
            builder.skip(1)
        else:
            builder.append(*record)
    builder.close()
    return bytearray(builder.buffer())


def some(random: Random) -> Sent:
    sizes = (0, 1, 36, 63, 64, 200, 8191, 8192, 20_000)
    key, value = (random.choice((None, random.randbytes(random.choice(sizes)))) for _ in range(2))
    headers = [(f"h{n}", random.choice((None, b"x" * 200))) for n in range(random.choice((0, 0, 3)))]
    return 1_795_000_000_000 + random.randrange(-(10**7), 10**7), key, value, headers


def some_batches(random: Random) -> tuple[bytes, list[Any]]:
    """A fetch's bytes, and the transactions in it that were aborted."""
    made, aborted, offset = b"", [], 1_000
    for _ in range(random.randrange(1, 6)):
        records: list[Sent | None] = [some(random) for _ in range(random.randrange(1, 8))]
        kind = random.choice(
            ("plain", "plain", *CODECS, "idempotent", "appended", "compacted", "aborted", "committed")
        )
        flags = {"appended": APPEND_TIME, "aborted": TRANSACTIONAL, "committed": TRANSACTIONAL}.get(kind, 0)
        producer = 5 if kind in ("idempotent", "aborted", "committed") else -1
        if kind == "compacted":
            records = [records[0], *(r for r in records[1:] for r in (None, r))]
        made += resealed(built(offset, records, codec=CODECS.get(kind, NONE), producer=producer), flags)
        if kind in ("aborted", "committed"):
            if kind == "aborted":
                aborted.append(SimpleNamespace(producer_id=producer, first_offset=offset))
            offset += len(records)
            marker = struct.pack(">hh", 0, kind == "committed")
            made += resealed(built(offset, [(1, marker, b"", [])], producer=producer), TRANSACTIONAL | CONTROL)
            records = [None]
        offset += len(records)
    return made, aborted


def read(kind: Callable[..., Any], data: bytes, aborted: list[Any], begin: int, step: int) -> list[Any]:
    """What one of both delivers of a fetch, and where it would read on after each take."""
    drained: list[Any] = []
    records = kind(
        begin,
        TP,
        MemoryRecords(data),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=aborted,
        on_drain=drained.append,
    )
    told: list[Any] = []
    while records:
        took = records.take(step)
        told.append([(r.leader_epoch, r.offset, r.timestamp, r.key, r.value) for r in took])
        told.append((records.next_fetch_offset, records.leader_epoch))
    assert drained == [records]
    assert records.bytes_read > 0 or not any(told[::2])
    return told


@pytest.mark.parametrize("seed", seeds(200))
def test_both_ways_deliver_the_same(seed: int) -> None:
    random = Random(seed)
    data, aborted = some_batches(random)
    begin, step = random.choice((1_000, 1_003)), random.choice((1, 3, 1_000))
    ours = read(PartitionRecords, data, aborted, begin, step)
    assert ours == read(Fetcher.PartitionRecords, data, aborted, begin, step)


def test_a_usual_batch_is_read_our_way() -> None:
    records = PartitionRecords(0, TP, MemoryRecords(resealed(built(0, [(1, b"k", b"v", [])], producer=5))))
    assert records.take(10) == [Fetched(EPOCH, 0, 1, b"k", b"v")]


def test_a_wrong_checksum_is_said_as_the_client_says_it() -> None:
    good, bad = resealed(built(0, [(1, b"k", b"v", [])])), bytearray(resealed(built(1, [(1, b"k", b"v", [])])))
    bad[-3] ^= 1
    errors = []
    for kind in (PartitionRecords, Fetcher.PartitionRecords):
        records = kind(0, TP, MemoryRecords(good + bytes(bad)))
        assert len(records.take(10)) == 1
        with pytest.raises(CorruptRecordError) as caught:
            records.take(10)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert str(TP) in errors[0]


class Parked:
    """A consumer and a sink that remember."""

    def __init__(self) -> None:
        self.paused: list[TopicPartition] = []
        self.halted: dict[int, HaltShard] = {}

    def assignment(self) -> set[TopicPartition]:
        return {TP, TopicPartition(TP.topic, 30)}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        assert (tp, offset) == (TP, 0)

    def pause(self, tp: TopicPartition) -> None:
        self.paused.append(tp)

    def halt(self, partition: int, error: HaltShard) -> None:
        self.halted[partition] = error


@pytest.mark.parametrize("flags", [0, TRANSACTIONAL])
def test_a_compression_that_cannot_be_read_halts_its_partition(
    flags: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client stood still behind such a batch, and its group was told that Kafka does not answer."""
    monkeypatch.setattr(kafka.codec, "zstd", None)  # as where the library is not installed
    batch = resealed(built(0, [(1, b"k", b"v", [])], producer=5), ZSTD | flags)
    with pytest.raises(UnsupportedCodecError) as caught:
        PartitionRecords(0, TP, MemoryRecords(batch), isolation_level=IsolationLevel.READ_COMMITTED).take(10)
    parked: Any = Parked()
    thread = SteppedThread(KafkaSettings(""), default_view(), "i", "p", parked, Turn())
    thread._unreadable(_Session(parked, {TP.partition: 1}), caught.value)
    assert parked.paused == [TP]
    assert list(parked.halted) == [TP.partition]
    assert "zstd" in parked.halted[TP.partition].problem


@pytest.mark.parametrize("flags", [0, TRANSACTIONAL])
@pytest.mark.parametrize("codec", CODECS)
def test_what_no_codec_wrote_is_corrupt(codec: str, flags: int) -> None:
    """The checksum is right, what it covers is not: each library has its own errors, and ingest ended by them."""
    random = Random(codec)
    for _ in range(50):
        batch = built(0, [some(random) for _ in range(3)], codec=CODECS[codec], producer=5)
        for _ in range(random.randrange(1, 20)):
            batch[random.randrange(HEAD_BYTES, len(batch))] = random.randrange(256)
        if random.random() < 0.3:
            del batch[random.randrange(HEAD_BYTES, len(batch)) :]
            struct.pack_into(">i", batch, LENGTH_AT, len(batch) - LENGTH_AT - 4)
        records = PartitionRecords(0, TP, MemoryRecords(resealed(batch, flags)))
        with suppress(CorruptRecordError):
            records.take(10)


@pytest.mark.parametrize("seed", seeds(200))
def test_what_is_no_record_is_refused_or_read_within_its_bounds(seed: int) -> None:
    """The checksum is right, what it covers is not: a broken producer's."""
    random = Random(seed)
    batch = built(0, [some(random) for _ in range(3)])
    size = len(batch)
    for _ in range(random.randrange(1, 4)):
        batch[random.randrange(61, min(size, 100))] = random.choice((0x00, 0x01, 0x7F, 0x80, 0xFF))
    try:
        taken = PartitionRecords(-(2**70), TP, MemoryRecords(resealed(batch))).take(10)
    except CorruptRecordError:
        return
    assert sum(len(r.key or b"") + len(r.value or b"") for r in taken) < size
