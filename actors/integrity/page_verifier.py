"""The walk over a file's pages that never maps it: `lmdb.verify`, but for one thing that it takes for damage.

A value on pages of its own that is written again within the same transaction, and shorter, stays on the pages
that it had: LMDB overwrites them in place and gives none back ("we don't bother to try shrinking the page",
mdb.c, mdb_cursor_put). `lmdb.verify` counts the pages that the value needs, not those that it has, and calls the
others a leak.
"""

from pathlib import Path
from struct import Struct
from typing import Any

import lmdb.verify

_PAGE_NUMBER = Struct("<Q")
_Strict: Any = lmdb.verify._Verifier  # it has no types


class _Verifier(_Strict):  # type: ignore[misc]
    def _bigdata(self, ctx: Any, pgno: int, i: int, buf: Any, doff: int, dsize: int, want_bytes: bool) -> Any:
        """Looked at as if the value filled all of its pages; what needs more than it has is damage as before."""
        data = super()._bigdata(ctx, pgno, i, buf, doff, max(dsize, self._room(buf, doff)), want_bytes)
        return None if data is None else data[:dsize]

    def _room(self, node: Any, at: int) -> int:
        """How many bytes the pages hold that a node names; 0 where they cannot be had, which is damage."""
        if at + _PAGE_NUMBER.size > self.psize:
            return 0
        (first,) = _PAGE_NUMBER.unpack_from(node, at)
        page = self.read_page(first) if first < self.next_pgno else None
        return 0 if page is None else int(self._pg_pages(page, 0)) * int(self.psize) - int(self.hdrsz)


def damages(path: Path) -> list[str]:
    """What is wrong with an LMDB file, as far as its pages tell; empty where nothing is.

    Raises:
        VerifyError: it cannot even be begun.
    """
    with path.open("rb") as file:
        problems: list[str] = _Verifier(file, path.stat().st_size).verify()
    return problems
