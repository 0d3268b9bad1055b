"""A peer of `bench/ingest.py`: kafka-python into one Redis hash per user; reads to the end and ends.

    python bench/peers/redis_hash.py BOOTSTRAP TOPIC PORT

It knows no versions, delete markers, quarantine, watermarks, counts or order: the least that a join needs.
"""

# pyright: reportMissingModuleSource=false
# A check need not have the bench extra.
from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.client import Pipeline

KEYS = {"users": "user_id", "kyc_records": "kyc_id", "accounts": "account_id"}
POLL_RECORDS = 2_000


def run(bootstrap: str, topic: str, port: str) -> None:
    """A pipeline per poll."""
    from kafka import KafkaConsumer, TopicPartition
    from redis import Redis

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id="redis",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=POLL_RECORDS,
    )
    partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    server = Redis(port=int(port))
    while any(consumer.position(tp) < end for tp, end in ends.items()):
        pipeline = server.pipeline(transaction=False)
        for records in consumer.poll(timeout_ms=200, max_records=POLL_RECORDS).values():
            for record in records:
                put(pipeline, record.value)
        pipeline.execute()
        consumer.commit()
    consumer.close()


def put(pipeline: Pipeline, value: bytes | None) -> None:
    """One row into its user's hash."""
    event = None if value is None else json.loads(value)
    table = "" if event is None else event["source"]["table"]
    if event is None or table not in KEYS:
        return
    row = event["after"] or event["before"]
    name, field = f"user:{row['user_id']}", f"{table}:{row[KEYS[table]]}"
    if event["op"] == "d":
        pipeline.hdel(name, field)
    else:
        pipeline.hset(name, field, json.dumps(event["after"]))


if __name__ == "__main__":
    run(*sys.argv[1:])
