"""Histories through every fault at once (tests/simulation says how), and the bugs that must be found by them.

Each of these is put into the product by hand; `make mutants` does it and tells after how many seeds it was found
(`simulation/mutants.py` has the patches). All are, within 1,000:

 1. a change whose version equals the stored one is dropped: rows of one COPY, and redelivery after a merge
 2. versions are compared the other way round at their last part: within a transaction the older image wins
 3. a delete leaves no marker: what comes late resurrects the row
 4. snapshot rows move the watermark: it promises what is still to be read
 5. an incremental snapshot sweeps like a whole one: rows it did not send are gone
 6. the position of a batch is committed ahead of its last record
 7. the counts of the index are not told that a status changed
 8. a closed fence is ignored: a batch commits after its partition was taken away
 9. what precedes a whole snapshot is applied when it comes again
10. the sweep after a whole snapshot never happens: people deleted meanwhile stay
11. a truncate drops no rows, only remembers that it was
12. a batch polled before the shard was opened again is taken, and leaves a gap
13. readiness comes with the first snapshot row
14. an older row heals a newer one that could not be understood
15. delete markers are dropped while a replay may still need them
16. a child whose own key changes stays under the former one too
17. runs are counted from 1 for each assignment, and no partition is parked: an earlier one's batch is taken
18. a shard whose mailbox was full does not say that it has room again: it stands still
19. a mailbox is never full: it grows as fast as the log is read
20. a batch ends inside a source transaction whose rest is in hand
"""

from pathlib import Path

import pytest

from simulation import mutants
from simulation.schedule import run
from support.faults import seeds

SEEDS = seeds(100)
"""Some ten seconds of a core; thousands are for `make simulate`."""

GROUPS = 5
"""One test each, so that the suite's processes share them."""


@pytest.mark.parametrize("group", range(GROUPS))
def test_histories_keep_every_promise(group: int) -> None:
    for seed in SEEDS[group::GROUPS]:
        run(seed)


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutants_patch_still_fits(mutant: mutants.Mutant, tmp_path: Path) -> None:
    """The code it spoils is there, once."""
    mutant.put_into(mutants.copy_of_the_package(tmp_path))
