"""The keys of a store: one that authenticates manifests, and age's, that encrypt and decrypt files."""

import hashlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyrage

from kycache.actors.files.shard_folder import sync_folder, write_whole
from kycache.model.errors import ConfigurationError, Refused
from kycache.model.signing import KEY_CHARACTERS_MIN

from .settings import SnapshotSettings
from .stores import Store

KEY_FILE = "store.key"
"""In a store that is a folder, where no key is set."""

IDENTITY_BYTES_MAX = 1 << 20
"""An age identity is 74 characters."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a command needs to write or read a store's snapshots."""

    mac: bytes = field(repr=False)
    recipients: tuple[Any, ...] = ()
    identities: tuple[Any, ...] = field(default=(), repr=False)
    recipients_digest: str = ""
    """Tells whether a file was written for the same recipients."""


def keys_of(settings: SnapshotSettings, store: Store, *, writing: bool) -> Keys:
    """The keys that the settings name.

    Args:
        writing: make the store's own key where it has none yet.

    Raises:
        ConfigurationError: a remote store without a key, or unencrypted without being told so; a recipient or an
            identity that is none.
        Refused: a folder without its key.
    """
    if writing and store.remote and not (settings.recipients or settings.allow_unencrypted):
        raise ConfigurationError(
            f"{store.url} would hold personal data unencrypted",
            "set `[snapshots] recipients`, or `[snapshots] allow_unencrypted` where the bucket itself is trusted",
        )
    recipients = tuple(_recipient(text) for text in settings.recipients)
    digest = hashlib.sha256("\n".join(sorted(settings.recipients)).encode()).hexdigest()
    mac = _mac_key(settings, store, writing=writing)
    return Keys(mac, recipients, _identities(settings.identity), digest if recipients else "")


def _mac_key(settings: SnapshotSettings, store: Store, *, writing: bool) -> bytes:
    if settings.key is not None:
        return settings.key.encode()
    if store.root is None:
        raise ConfigurationError(
            f"{store.url} has no key: anyone who can write there could change a snapshot unnoticed",
            "set `[snapshots] key` (KYCACHE_SNAPSHOTS_KEY), the same on every node",
        )
    path = store.root / KEY_FILE
    if not path.exists():
        if writing:
            _make_key(path)
        elif not store.files():
            return secrets.token_bytes()  # there is nothing that it could be wrong for
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if len(text) < KEY_CHARACTERS_MIN:
        raise Refused(
            f"{store.url} has no {KEY_FILE}: its snapshots cannot be checked",
            "name the store that has one, set `[snapshots] key`, or take a first one: `kycache snapshot create`",
        )
    return text.encode()


def _make_key(path: Path) -> None:
    """Write a new key; of two processes that do so at once, both end with the same."""
    made = path.with_name(f".{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    write_whole(made, secrets.token_hex(32).encode() + b"\n")
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    finally:
        made.unlink()
    sync_folder(path.parent)


def _recipient(text: str) -> Any:
    try:
        return (
            pyrage.ssh.Recipient.from_str(text)
            if text.startswith("ssh-")
            else pyrage.x25519.Recipient.from_str(text)
        )
    except pyrage.RecipientError:
        raise ConfigurationError(
            f"{text!r} is no age recipient", "write age1… (`age-keygen -y`) or an SSH public key"
        ) from None


def _identities(path: Path | None) -> tuple[Any, ...]:
    if path is None:
        return ()
    try:
        data = path.read_bytes()[:IDENTITY_BYTES_MAX]
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", "set `[snapshots] identity`") from None
    try:
        if data.startswith(b"-----BEGIN"):
            return (pyrage.ssh.Identity.from_buffer(data),)
        lines = [line.strip() for line in data.decode("ascii").splitlines()]
        found = tuple(pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#"))
    except (pyrage.IdentityError, UnicodeDecodeError):
        found = ()
    if not found:
        raise ConfigurationError(
            f"{path} holds no age identity", "name a file that `age-keygen` or `ssh-keygen` wrote"
        )
    return found
