"""From a Kafka record's bytes to an item (`model/change.py`). Pure; never raises for what a record holds.

Debezium's envelope is accepted bare or wrapped in `{"schema", "payload"}`. What cannot be understood becomes
`Poison` with a reason that names place and setting, never a value; what proves a wrong connector becomes
`Misrouted`. The rules are those of DESIGN 6.8 and of DEBEZIUM; the line numbers below are the latter's.
"""

from typing import NamedTuple, cast

import msgspec

from kycache.model.change import Beat, Change, Item, Misrouted, Origin, Poison, Scope, Skip, Truncate
from kycache.model.connector import MESSAGE_BYTES_MAX
from kycache.model.fingerprint import FINGERPRINT, scope_of
from kycache.model.partition import KeyForm, key_bytes
from kycache.model.scalars.refused import ValueRefused
from kycache.model.scalars.times import TIME_PROBE, TimePrecision, probe_fits
from kycache.model.values import (
    USER_KEY_BYTES_MAX,
    Absent,
    Value,
    decoder,
    id_decoder,
    key_order_bytes,
    printer,
)
from kycache.model.view import HEARTBEAT_TABLE, Kind, Table, View

from .envelope import NULL, Envelope, Poisoned, origin_of
from .image import ColumnRefused, Image, ImageDecoder, Values
from .redact import without_secrets

KAFKA_KEY_BYTES_MAX = 2 * USER_KEY_BYTES_MAX
"""A Kafka key: a user id in JSON, whose escapes and column name take some room."""

VALUE_BYTES_MAX = MESSAGE_BYTES_MAX
"""A record's value: the printed connector sends no larger ones; another's go to quarantine unread."""


class Record(NamedTuple):
    """A Kafka record, as far as it matters here: kafka-python's own has these names, and is taken as it is."""

    offset: int
    timestamp: int
    """In milliseconds."""
    key: bytes | None
    value: bytes | None


USERS_REMEMBERED = 65_536
"""User ids whose two forms are kept: a fifth of the users make four fifths of the changes; some 25 MB."""


class _Shape:
    """A table's decoders, resolved once."""

    __slots__ = ("image", "key_at", "key_column", "key_decoder", "name", "number", "owner")

    def __init__(self, number: int, table: Table, times: TimePrecision) -> None:
        self.number = number
        self.name = table.name
        self.owner = table.owner
        self.image = ImageDecoder(table, times)
        self.key_at = table.index_of(table.key)
        self.key_column = table.key
        of_key = id_decoder if table.is_child and table.key == table.owner else decoder
        self.key_decoder = of_key(table.key_type)


class _User(NamedTuple):
    """A user id in the forms that a change needs."""

    key: bytes
    """Order-preserving: the profile's key."""
    kafka_key: bytes


class RecordDecoder:
    """Decodes the records of one view."""

    def __init__(
        self,
        view: View,
        key_form: KeyForm = KeyForm.PLAIN,
        heartbeat_table: str = HEARTBEAT_TABLE,
        times: TimePrecision = TimePrecision.ADAPTIVE,
    ) -> None:
        """Args:
        times: the mode that the log was written in.
        """
        self._form = key_form
        self._heartbeats = heartbeat_table
        self._times = times
        self._shapes = {t.name: _Shape(n, t, times) for n, t in enumerate(view.tables)}
        self._numbers = {t.name: n for n, t in enumerate(view.tables)}
        self._user = id_decoder(view.root.key_type)
        self._print_user = printer(view.root.key_type)
        self._numeric = view.root.key_type.kind is Kind.INT
        self._key_column = view.root.key
        self._scope = scope_of(view)
        self._envelope = msgspec.json.Decoder(Envelope)
        self._image = msgspec.json.Decoder(Image | None)
        self._users: dict[object, _User] = {}
        self._secrets = {t.name: t.secret for t in view.tables if t.secret}

    def decode(self, record: Record) -> Item:
        """What a record means. Total: every record is some item."""
        if record.value is None:
            return Skip(record.offset, "tombstone")
        try:
            return self._decode(record, record.value)
        except Poisoned as poison:
            user = poison.user if poison.user is not None else self._user_of_key(record.key)
            scope = poison.scope or (Scope.SHARD if user is None else Scope.PROFILE)
            return Poison(
                record.offset,
                record.timestamp,
                record.key,
                without_secrets(record.value, self._secrets) if self._secrets else record.value,
                poison.reason,
                scope,
                user if scope is Scope.PROFILE else None,
                poison.table,
                poison.key,
                poison.origin,
            )

    def _decode(self, record: Record, value: bytes) -> Item:
        if len(value) > VALUE_BYTES_MAX:
            raise Poisoned(f"the value has {len(value)} bytes, more than {VALUE_BYTES_MAX}")
        try:
            envelope = self._envelope.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Poisoned(f"not a Debezium envelope: {_without_values(error)}") from None
        if envelope.payload is not msgspec.UNSET:
            if envelope.payload is None:
                return Skip(record.offset, "tombstone")
            envelope = envelope.payload
        source, op = envelope.source, envelope.op
        if op == "m":
            return Skip(record.offset, "logical message")
        if source is None or op is None:
            raise Poisoned("not a Debezium envelope: no `op` or no `source`")
        shape = self._shapes.get(source.table)
        if shape is None and source.table != self._heartbeats:
            return Skip(record.offset, "a table outside the view")
        origin = origin_of(op, source)
        if op == "t":
            if shape is None:
                return Skip(record.offset, "truncate of the heartbeat table")
            return Truncate(record.offset, origin, shape.number)
        if op not in ("c", "r", "u", "d"):
            # Streamed or of a snapshot, nobody can say: it must neither move the watermark nor end a snapshot.
            raise Poisoned(f"table {source.table!r}: unknown operation")
        if shape is None:
            return self._beat(record, origin, op, self._image_of("after", envelope.after, origin))
        if op == "d":
            return self._delete(record, origin, shape, envelope.before)
        return self._row(record, origin, shape, envelope)

    def _row(self, record: Record, origin: Origin, shape: _Shape, envelope: Envelope) -> Item:
        image: Image = {}
        usual = shape.image.read(envelope.after)
        if usual is None:
            unusual = self._image_of("after", envelope.after, origin)
            if unusual is None:
                raise Poisoned(f"table {shape.name!r}, op {envelope.op}: no row image", origin=origin)
            image, owner, decoded, sent_key = (
                unusual,
                unusual.get(shape.owner),
                None,
                unusual.get(shape.key_column),
            )
        else:
            owner, decoded, sent_key = usual
        user = self._user_of_row(record, shape, owner, origin)
        if user is None:
            return self._misrouted(record, shape)
        former: Value = None
        if envelope.op == "u" and envelope.before != NULL:
            former_owner, former = self._names_before(shape, envelope.before, origin, (owner, sent_key))
            if former_owner is not None and former_owner != user:
                return _moved_in_one(record, shape)
        if decoded is None:
            decoded = self._decode_each(shape, image, user, origin, former)
        values = decoded.values
        key: Value = None
        if shape.number:  # the root's key is the user: one root row a profile
            found = values[shape.key_at]
            absent = found is None or isinstance(found, Absent)
            key = self._primary_key(shape, image, user.key, origin) if absent else cast("Value", found)
        # Without a known `before`, an update's placeholder says that the value did not change.
        doubtful = decoded.placeholders and not (envelope.op == "u" and envelope.before == NULL)
        return Change(
            record.offset,
            origin,
            shape.number,
            user.kafka_key,
            user.key,
            key,
            values,
            doubtful,
            decoded.extra,
            decoded.partial,
            None if former == key else former,
        )

    def _names_before(
        self, shape: _Shape, before: msgspec.Raw, origin: Origin, after: tuple[object, object]
    ) -> tuple[_User | None, Value]:
        """Whose row an update met, under which primary key; None where the image does not tell, or tells no news.

        Of an image that REPLICA IDENTITY DEFAULT made up (line 12) the key alone can be right.
        """
        try:
            owner, key = names = shape.image.names(before)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Poisoned("not a Debezium envelope: `before` is no object", origin=origin) from None
        if names == after:
            return None, None
        try:
            user = None if owner == 0 and shape.number else self._user_of(owner)
        except ValueRefused:
            user = None
        try:
            former = shape.key_decoder(key) if shape.number and key is not None else None
        except ValueRefused:
            former = None
        return user, former

    def _decode_each(self, shape: _Shape, image: Image, user: _User, origin: Origin, former: Value) -> Values:
        """An unusual image: odd values, or columns that come for the first time, or fewer than the view's."""
        try:
            decoded = shape.image.decode_each(image)
        except ColumnRefused as refused:
            # Without a key the whole profile is in doubt; the key's own refusal is the first that is told.
            named = None if shape.number == 0 else self._primary_key(shape, image, user.key, origin)
            if former not in (None, named):
                named = None  # it is about two rows
            raise Poisoned(
                f"table {shape.name!r}: {refused}", user=user.key, table=shape.number, key=named, origin=origin
            ) from None
        shape.image.learn(image)
        return decoded

    def _delete(self, record: Record, origin: Origin, shape: _Shape, before: msgspec.Raw) -> Item:
        image = self._image_of("before", before, origin)
        if image is None:  # whose row it was, nobody can say
            raise Poisoned(f"table {shape.name!r}, op d: no row image", scope=Scope.DIRECTORY, origin=origin)
        owner = image.get(shape.owner)
        if owner is None or (shape.number and owner in ("", 0)):
            # Line 12: under REPLICA IDENTITY DEFAULT `before` is fabricated but for the key.
            raise Poisoned(
                f"table {shape.name!r}: a delete whose {shape.owner!r} is empty: "
                f"set REPLICA IDENTITY FULL on {shape.name!r}",
                scope=Scope.DIRECTORY,
                table=shape.number,
                origin=origin,
            )
        try:
            user = self._user_of_row(record, shape, owner, origin)
        except Poisoned as poison:
            if poison.scope is Scope.ROW:
                return Skip(record.offset, "a delete of a row that was nobody's")
            poison.scope = poison.scope or Scope.DIRECTORY
            raise
        if user is None:
            return self._misrouted(record, shape)
        key = None if shape.number == 0 else self._primary_key(shape, image, user.key, origin)
        return Change(record.offset, origin, shape.number, user.kafka_key, user.key, key, None)

    def _image_of(self, name: str, image: msgspec.Raw, origin: Origin) -> Image | None:
        try:
            found: Image | None = self._image.decode(image)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Poisoned(f"not a Debezium envelope: `{name}` is no object", origin=origin) from None
        return found

    def _user_of_row(self, record: Record, shape: _Shape, owner: object, origin: Origin) -> _User | None:
        """The user whose row a record is about; None where the record has another's key.

        An id is a user's where both print alike: then so do the Kafka keys, and both are in one partition. A text
        that prints otherwise (a uuid in capitals, `007`) has a Kafka key of its own, and no user has that one.
        """
        try:
            user, problem = self._user_of(owner), ""
        except ValueRefused as error:
            user, problem = None, str(error)
        if user is not None and record.key == user.kafka_key:
            if len(user.key) <= USER_KEY_BYTES_MAX:
                return user
            problem = f"an id of {len(user.key)} bytes, more than {USER_KEY_BYTES_MAX}"
        elif type(owner) not in (str, int) or record.key != self._sent_key(owner):
            if problem:
                raise Poisoned(
                    f"table {shape.name!r}: column {shape.owner!r}: {problem}", table=shape.number, origin=origin
                )
            return None
        # The record's key is the row's id as it was sent, so the connector is right.
        alone = shape.number > 0 or owner == "" or (user is not None and record.key == user.kafka_key)
        raise Poisoned(
            f"table {shape.name!r}: column {shape.owner!r}: {problem or 'not written as the ids of users are'}",
            scope=Scope.ROW if alone else Scope.SHARD,
            table=shape.number,
            origin=origin,
        )

    def _sent_key(self, owner: object) -> bytes:
        """The Kafka key of an id as it stands in the row."""
        return key_bytes(self._form, self._key_column, str(owner), type(owner) is int)

    def _user_of(self, owner: object) -> _User:
        """The user that a row image names. Raises `ValueRefused`."""
        known = self._users.get(owner) if type(owner) is str else None
        if known is not None:
            return known
        stored = self._user(owner)
        if stored == "":
            raise ValueRefused("empty")
        kafka_key = key_bytes(self._form, self._key_column, str(self._print_user(stored)), self._numeric)
        user = _User(key_order_bytes(stored), kafka_key)
        if len(self._users) >= USERS_REMEMBERED:
            self._users.clear()
        if type(owner) is str and len(user.key) <= USER_KEY_BYTES_MAX:
            self._users[owner] = user
        return user

    def _misrouted(self, record: Record, shape: _Shape) -> Misrouted:
        return Misrouted(
            record.offset,
            f"a change of table {shape.name!r} has {_describe_key(record.key)}, not its {shape.owner!r} in "
            f"key form {self._form}",
            "check `[kafka] key`, and message.key.columns and the key transform of the connector "
            "(`kycache connector` prints them)",
        )

    def _primary_key(self, shape: _Shape, image: Image, user: bytes, origin: Origin) -> Value:
        try:
            return shape.key_decoder(image.get(shape.key_column))
        except ValueRefused as error:
            raise Poisoned(
                f"table {shape.name!r}: primary key {shape.key_column!r}: {error}",
                user=user,
                table=shape.number,
                origin=origin,
            ) from None

    def _beat(self, record: Record, origin: Origin, op: str, image: Image | None) -> Item:
        if op == "d" or image is None:
            return Skip(record.offset, "a deleted heartbeat row")
        beat_id = image.get("user_id")
        expected = key_bytes(self._form, self._key_column, str(beat_id))
        if not isinstance(beat_id, str) or record.key not in (expected, beat_id.encode()):
            return Misrouted(
                record.offset,
                f"a row of table {self._heartbeats!r} has {_describe_key(record.key)}, not its 'user_id'",
                "check message.key.columns and the connector's key transform (`kycache connector` prints them)",
            )
        if not probe_fits(image.get(TIME_PROBE), self._times):
            return Misrouted(
                record.offset,
                f"the log is not written in time.precision.mode={self._times}, in which it is read",
                "where the connector was changed: give it what `kycache connector` prints, and run "
                "`kycache rebuild --epoch`; where the data directory is new: set `[kafka] time_precision_mode`, "
                "and empty it",
            )
        truncated = image.get("truncated") if op == "u" else None
        names = truncated.split(",") if isinstance(truncated, str) else []
        names += [n for n in self._numbers if "," in n and f",{n}," in f",{truncated},"]
        tables = tuple(self._numbers[n] for n in names if n in self._numbers)
        found = image.get(FINGERPRINT)
        # A truncate's trigger touches the row too, and leaves what the beat before it wrote.
        if names or not isinstance(found, str) or not found.startswith(self._scope):
            found = ""
        return Beat(record.offset, origin, tables, found)

    def _user_of_key(self, key: bytes | None) -> bytes | None:
        """The user that a Kafka key names, in the configured form."""
        if key is None or len(key) > KAFKA_KEY_BYTES_MAX:
            return None
        try:
            text: object = key.decode()
            if self._form is not KeyForm.PLAIN:
                text = msgspec.json.decode(key)
            if self._form is KeyForm.JSON and isinstance(text, dict):
                text = text.get(self._key_column)
            user = self._user_of(text)
        except (ValueError, msgspec.MsgspecError, RecursionError):
            return None
        return user.key if user.kafka_key == key and len(user.key) <= USER_KEY_BYTES_MAX else None


def _moved_in_one(record: Record, shape: _Shape) -> Misrouted:
    """The former owner's partition was told nothing, and would keep the row for ever (line 13)."""
    return Misrouted(
        record.offset,
        f"an update of table {shape.name!r} gives a row to another user in one record: whose it was is not told",
        f"let message.key.columns of the connector name {shape.owner!r} for {shape.name!r} "
        "(`kycache connector` prints it), so that such an update comes as a delete and a create",
    )


def _describe_key(key: bytes | None) -> str:
    """What kind of Kafka key it is, without what it says."""
    if key is None:
        return "no key"
    if key.startswith(b'{"schema"'):
        return "a schema-wrapped key"
    if key.startswith(b"{"):
        return "a JSON object as key"
    if key.startswith(b'"'):
        return "a quoted key"
    return f"a key of {len(key)} bytes"


def _without_values(error: Exception) -> str:
    """msgspec's messages name types and places only; a decoding error of the text is cut to its kind."""
    return str(error) if isinstance(error, msgspec.ValidationError) else type(error).__name__
