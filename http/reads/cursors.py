"""Cursors: where a walk through the list goes on, opaque and signed.

A cursor holds all that a page depends on: order, filters, size, and the key of the row at the edge, which need not
be there any more. So a row is never skipped or repeated unless it changed place itself. It is signed, not
encrypted: it holds no more than the page it came with. The signature's salt is the view's hash, so a cursor made
under another view definition is refused.
"""

import binascii
import fcntl
import hashlib
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

import msgspec
from itsdangerous import BadSignature, Signer
from itsdangerous.encoding import base64_decode, base64_encode

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.shard_folder import write_whole
from kycache.http.exchange.problems import Kind, Problem
from kycache.model.errors import ConfigurationError
from kycache.model.signing import KEY_CHARACTERS_MIN

_KEY_BYTES = 32


class Cursor(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A place in one list. `edge` None is in front of all rows; `back` leads towards the front."""

    newest: bool
    size: int
    filters: tuple[str | None, ...]
    edge: bytes | None
    back: bool = False

    @property
    def where(self) -> tuple[bytes | None, ...]:
        """The filters as the order index knows them."""
        return tuple(None if value is None else value.encode() for value in self.filters)


class CursorCodec:
    """Writes and reads the cursors of one view.

    Args:
        keys: newest first; the first signs, all are accepted.
        view: the view definition's hash.
    """

    def __init__(self, keys: Sequence[str], view: str) -> None:
        self._signer = Signer(
            list(reversed(keys)),  # itsdangerous wants the newest last
            salt=f"kycache.cursor.{view}",
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Cursor).decode

    def encode(self, cursor: Cursor) -> str:
        """The cursor as clients see it: URL-safe text."""
        packed = urlsafe_b64encode(self._encode(cursor)).rstrip(b"=")
        return self._signer.sign(packed).decode("ascii")

    def decode(self, text: str) -> Cursor:
        """The cursor that `encode` wrote.

        Raises:
            Problem: it is not one, or is not signed with a key that is accepted here.
        """
        try:
            packed = self._signer.unsign(text.encode())
            signature = text.rpartition(".")[2]
            if base64_encode(base64_decode(signature)).decode("ascii") != signature:
                raise BadSignature("not in its one form")  # base64 ignores some bits of the last character
            return self._decode(urlsafe_b64decode(packed + b"=" * (-len(packed) % 4)))
        except (BadSignature, binascii.Error, msgspec.MsgspecError):
            raise Problem(
                Kind.INVALID_CURSOR, "The cursor was not made by this service; start again without one.", "cursor"
            ) from None


def cursor_keys(directory: DataDirectory, configured: Sequence[str]) -> tuple[str, ...]:
    """The signing keys, newest first: the configured ones, else those kept in the data directory.

    Those are generated at the first start; all processes on the directory share them.

    Raises:
        ConfigurationError: a key is too short, or the file can neither be read nor written.
    """
    if configured:
        return _checked(configured, "`[http] cursor_keys`")
    path = directory.root / "cursor.keys"
    try:
        directory.prepare()
        with (directory.run / "cursor.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                write_whole(path, f"{secrets.token_hex(_KEY_BYTES)}\n".encode())
            lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"cursor keys {path} cannot be read or made: {error}", "mend the file, or set `[http] cursor_keys`"
        ) from None
    return _checked(lines, str(path))


def _checked(keys: Sequence[str], where: str) -> tuple[str, ...]:
    if not keys or any(len(key) < KEY_CHARACTERS_MIN for key in keys):
        raise ConfigurationError(
            f"{where} must hold keys of at least {KEY_CHARACTERS_MIN} characters, newest first",
            "make one with `openssl rand -hex 32`",
        )
    return tuple(keys)
