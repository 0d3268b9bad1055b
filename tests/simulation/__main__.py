"""`python -m simulation 0-9999 --jobs 2`: many histories; who fails is named, and runs again by number."""

import argparse
import sys
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain

from simulation.schedule import run

CHUNK = 10
"""Seeds handed to a process at once."""

FAILURES_MAX = 20
"""Shown before giving up: they rarely differ by then."""


def seeds_of(text: str) -> Iterable[int]:
    """`7`, `0-99`, `1,5,10-20`."""
    ranges = (part.partition("-") for part in text.split(","))
    return chain.from_iterable(range(int(low), int(high or low) + 1) for low, _, high in ranges)


def fails(seed: int, *, verbose: bool = False) -> str | None:
    """What a seed's history broke; None where all is well."""
    try:
        run(seed)
    except Exception as error:
        return traceback.format_exc() if verbose else f"{type(error).__name__}: {error}"
    return None


def main() -> int:
    """Exit code 0 where every history held."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("seeds", nargs="?", default="0-999", type=seeds_of, help="7, 0-999, or 1,5,10-20")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--first", action="store_true", help="stop at the first that fails")
    options = parser.parse_args()
    seeds = list(options.seeds)
    begun, done, failures = time.monotonic(), 0, 0
    with ProcessPoolExecutor(options.jobs) as pool:
        for problem in pool.map(partial(fails, verbose=len(seeds) == 1), seeds, chunksize=CHUNK):
            done += 1
            if problem is not None:
                failures += 1
                print(problem, flush=True)
                if options.first or failures >= FAILURES_MAX:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
    seconds = time.monotonic() - begun
    rate = done / seconds / options.jobs
    print(f"{done} histories, {failures} failed; {seconds:.1f} s, {rate:.0f} per second and process")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
