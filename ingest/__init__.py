"""From Kafka to the shards: the consumer thread, group membership, and what a record means."""
