"""A whole kycache ingest in one process, on a mock clock, through everything that can go wrong at once.

One seed is one history: a source (`fake_source`) and, between its records and the shards, every fault that
redelivery, rebalances, full disks, power loss and kills amount to. The code under test is the real one: decoding,
the consumer's way with orders, holders, actors, folding, LMDB. Replaced are what is outside of it:

    log.py     Kafka's topic and client: records in, whichever a poll happens to bring
    seams.py   threads (run in place), and a commit that fails, is lost, or is the last thing the process does
    limits.py  in half of the histories: mailbox and batch so small that their limits are met
    member.py  one ingest process over these
    world.py   a data directory and its members: who holds which shard, what a death leaves behind

Beside it the oracle:

    model.py   what a shard must hold at a position, said once more and otherwise: by the source's own order
    check.py   compares after each commit, and at the end with what SQL says

`schedule.py` makes one history of a seed, and `__main__.py` many. `mutants.py` puts bugs into the product to see
that they are found. How to run them is in docs/contributing.md.
"""
