"""Where snapshots are kept: a folder, or a bucket that obstore can reach. Blocking; called in threads.

A file appears whole or not at all: multipart uploads show up when they are completed, and a folder's files are
written beside their names and renamed. In a folder they are fsynced too, before anything relies on them.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import MemoryStore, from_url

from kycache.actors.files.shard_folder import PRIVATE, sync_folder
from kycache.model.errors import ConfigurationError, Refused, Unreachable

from .manifest import is_id
from .settings import MIB, shown

if TYPE_CHECKING:
    from obstore import WritableFile
    from obstore.store import ClientConfig, RetryConfig

READ_BYTES = 8 * MIB
"""Of one request: large enough for a bucket's latency to disappear, and little to lose and ask for again."""

UPLOADS_AT_ONCE = 4
"""Parts in flight; with those being filled, what an upload holds in memory."""

CONNECT_WAIT = timedelta(seconds=10)

REQUEST_WAIT = timedelta(seconds=120)
"""For one part or range, over a slow line."""

RETRY: "RetryConfig" = {"max_retries": 5, "retry_timeout": timedelta(minutes=2)}

_NUMBER = re.compile(r"\(os error (\d+)\)")

_STAGED = re.compile(r".*#\d+")
"""How obstore names a file that is not whole yet."""


class Missing(Refused):
    """The store holds no such file."""


class Stored(NamedTuple):
    """A file of a store."""

    path: str
    size: int
    modified: datetime


class Writer:
    """A file that is being written; it is there once `close` has returned."""

    def __init__(self, store: "Store", path: str, file: "WritableFile") -> None:
        self._store = store
        self._path = path
        self._file = file

    def write(self, data: bytes) -> int:
        """Append; returns how many bytes that was."""
        with self._store.told("write", self._path):
            return self._file.write(data)

    def flush(self) -> None:
        """Nothing: what is not closed is not there."""

    def close(self) -> None:
        """Make the file appear, durably."""
        with self._store.told("write", self._path):
            self._file.close()
        self._store.settle(self._path)


class Store:
    """The files of one store, by their path below its URL."""

    def __init__(self, url: str, *, part_bytes: int = 16 * MIB, writing: bool = False) -> None:
        """Args:
        url: `file:///folder`, `s3://bucket/prefix`, `gs://…`, `az://…`.
        writing: make the folder where there is none. To those who only read it is an empty one.

        Raises:
            ConfigurationError: it is none of these, or the bucket's settings (`AWS_…` variables) are wrong.
        """
        parts = urlsplit(url)
        self.url = shown(url)
        self.remote = parts.scheme != "file"
        self._part_bytes = part_bytes
        self.root: Path | None = None
        """The folder of a store that is one."""
        if self.remote:
            if parts.scheme not in ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss"):
                raise ConfigurationError(
                    f"{self.url} is no snapshot store",
                    "give `[snapshots] store` as file:///…, s3://…, gs://… or az://…",
                )
            try:
                self._store = from_url(url, client_options=_client(), retry_config=RETRY)
            except (BaseError, ValueError) as error:
                raise ConfigurationError(
                    # The library's words may name the URL as it was given, with a login.
                    f"{self.url} cannot be used as a snapshot store: {_first_line(error).replace(url, self.url)}",
                    "set `[snapshots] store`, and the bucket's own variables (AWS_REGION, AWS_ENDPOINT_URL, …)",
                ) from None
        else:
            self.root = Path(unquote(parts.path))
            if parts.netloc not in ("", "localhost") or not self.root.is_absolute():
                raise ConfigurationError(f"{self.url} names no folder", "write file:// and an absolute path")
            if parts.query or parts.fragment:  # it would be another folder than the one that was meant
                raise ConfigurationError(f"{self.url} goes on behind a ? or #", "write them as %3F and %23")
            with self.told("open", "the folder"):
                if writing:
                    self.root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
                self._store = from_url(self.root.as_uri()) if _there(self.root) else MemoryStore()

    @contextmanager
    def told(self, what: str, path: str) -> Iterator[None]:
        """Turns the library's errors into ours: what could not be done, and where."""
        try:
            yield
        except FileNotFoundError:
            raise Missing(f"{path} is not in {self.url}", "run `kycache snapshot list`") from None
        except (PermissionError, obstore.exceptions.PermissionDeniedError) as error:
            raise Refused(
                f"{self.url}: cannot {what} {path}: {_first_line(error)}", "grant access to it"
            ) from None
        except obstore.exceptions.UnauthenticatedError as error:
            raise ConfigurationError(
                f"{self.url} does not know who asks: {_first_line(error)}", "set the bucket's credentials"
            ) from None
        except (BaseError, OSError) as error:
            problem = f"{self.url}: cannot {what} {path}: {_first_line(error)}"
            number = _errno(error)
            if number == errno.EROFS:
                raise Refused(problem, "mount it for writing too") from None
            full = number in (errno.ENOSPC, errno.EDQUOT)
            remedy = "make room there" if full else "see that it can be reached"
            raise Unreachable(problem, f"{remedy}, then run the command again") from None

    def writer(self, path: str) -> Writer:
        """Write a large file, in parts."""
        with self.told("write", path):
            self._make_folder(path)
            file = obstore.open_writer(
                self._store, path, buffer_size=self._part_bytes, max_concurrency=UPLOADS_AT_ONCE
            )
        return Writer(self, path, file)

    def put(self, path: str, data: bytes) -> None:
        """Write a small file at once, atomically."""
        with self.told("write", path):
            self._make_folder(path)
            obstore.put(self._store, path, data, use_multipart=False)
        self.settle(path)

    def _make_folder(self, path: str) -> None:
        """A file that is being written is not its owner's alone yet (`settle`): its folder is."""
        if self.root is not None:
            (self.root / path).parent.mkdir(mode=PRIVATE, exist_ok=True)

    def settle(self, path: str) -> None:
        """Make a folder's file durable and its owner's alone; a bucket's is, when it was accepted."""
        if self.root is None:
            return
        file = self.root / path
        with self.told("write", path):
            file.chmod(0o600)
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            for folder in file.parents:
                sync_folder(folder)
                if folder == self.root:
                    break

    def get(self, path: str, bytes_max: int) -> bytes:
        """A small file whole.

        Raises:
            Missing: there is none.
            Refused: it is larger than it can be.
        """
        with self.told("read", path):
            result = obstore.get(self._store, path)
            if result.meta["size"] > bytes_max:
                raise Refused(f"{path} in {self.url} is damaged: it has {result.meta['size']} bytes", "")
            return bytes(result.bytes())

    def size(self, path: str) -> int:
        """How many bytes a file has.

        Raises:
            Missing: there is none.
        """
        with self.told("read", path):
            return obstore.head(self._store, path)["size"]

    def read(self, path: str, size: int) -> Iterator[bytes]:
        """A large file of `size` bytes in pieces: each is a request of its own, asked again where it fails."""
        for start in range(0, size, READ_BYTES):
            with self.told("read", path):
                yield bytes(obstore.get_range(self._store, path, start=start, end=min(size, start + READ_BYTES)))

    def files(self, folder: str | None = None) -> list[Stored]:
        """Every file of the store, or below a folder of it."""
        with self.told("list", folder or "it"):
            return [
                Stored(found["path"], found["size"], found["last_modified"])
                for chunk in obstore.list(self._store, folder)
                for found in chunk
            ]

    def delete(self, paths: Sequence[str]) -> None:
        """Remove files, one after the other; one that is gone already is no error."""
        for path in paths:
            try:
                with self.told("delete", path):
                    obstore.delete(self._store, path)
                    if self.root is not None:
                        sync_folder((self.root / path).parent)
            except Missing:
                continue

    def forget(self, folder: str) -> None:
        """Remove a folder that has become empty; a bucket has none."""
        if self.root is not None:
            with contextlib.suppress(OSError):  # somebody put something there
                (self.root / folder).rmdir()

    def unstage(self, folder: str) -> None:
        """Remove what uploads that were killed left in a folder that nobody writes to."""
        if self.root is None:
            return
        with contextlib.suppress(FileNotFoundError):
            for path in (self.root / folder).iterdir():
                if _STAGED.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def tidy(self, older_than: datetime) -> list[str]:
        """Remove what killed uploads left in a folder, and folders left empty; returns the names. Only below
        names of snapshots: whatever else lies there is somebody else's.

        A bucket's parts are not listed by it: let its lifecycle rule abort incomplete uploads.
        """
        if self.root is None or not self.root.exists():
            return []
        gone: list[str] = []
        for folder in [path for path in self.root.iterdir() if is_id(path.name) and path.is_dir()]:
            with contextlib.suppress(FileNotFoundError):  # an upload that is under way was finished meanwhile
                for path in folder.iterdir():
                    if _STAGED.fullmatch(path.name) and _modified(path) < older_than:
                        path.unlink(missing_ok=True)
                        gone.append(str(path.relative_to(self.root)))
            with contextlib.suppress(OSError):  # it is not empty; who is about to write there makes it again
                folder.rmdir()
        return gone


def _there(folder: Path) -> bool:
    """Unlike `exists`, below a file it is an error."""
    try:
        folder.stat()
    except FileNotFoundError:
        return False
    return True


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _client() -> "ClientConfig":
    plain = any(os.environ.get(name, "").startswith("http://") for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"))
    return {"connect_timeout": CONNECT_WAIT, "timeout": REQUEST_WAIT, "allow_http": plain}


def _errno(error: BaseException) -> int | None:
    """The system's number of an error, which the library tells in words."""
    told = _NUMBER.search(str(error))
    return int(told[1]) if told else getattr(error, "errno", None)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
