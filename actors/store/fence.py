"""What keeps a batch from committing once its partition was taken away."""

from threading import Lock

import lmdb


class Fence:
    """Lets batches commit until it is closed; closing waits for a commit under way, and no longer.

    One per assignment of a partition: nothing that was polled before the assignment was taken away may
    commit after it (DESIGN 6.11).
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Nothing commits any more."""
        return self._closed

    def commit(self, txn: "lmdb.Transaction[bytes]") -> bool:
        """Commit, or abort where the fence is closed; whether it was committed."""
        with self._lock:
            if self._closed:
                txn.abort()
            else:
                txn.commit()
            return not self._closed

    def close(self) -> None:
        """Let nothing commit any more."""
        with self._lock:
            self._closed = True
