"""What a column's name says: the member it becomes, and a guess at how private it is. Pure."""

import re
from collections.abc import Collection
from itertools import pairwise

from kycache.model.view import Kind, Privacy


def word_set(text: str) -> frozenset[str]:
    """The words of a text, separated by blanks."""
    return frozenset(text.split())


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\dA-Z_]+|\d+")

_SECRET_WORDS = word_set(
    "password passwd passphrase passcode pwd hash hashed digest salt secret secrets token tokens otp totp pin "
    "cvv cvc credential credentials apikey privatekey jwt encrypted ciphertext"
)
_SECRET_PAIRS = frozenset(
    {("private", "key"), ("api", "key"), ("access", "key"), ("recovery", "codes"), ("backup", "codes")}
    | {("session", "key"), ("recovery", "code"), ("backup", "code"), ("secret", "key"), ("security", "answer")}
)
_SECRET_NUMBERS = frozenset({"pin", "cvv", "cvc", "otp", "totp"})

_PERSONAL_WORDS = word_set(
    "name names email emails mail phone phones mobile tel telephone fax address addresses addr street city "
    "town zip zipcode postal postcode country birth birthday birthdate dob age gender sex ssn tin vat tax "
    "passport iban bic swift card ip latitude longitude lat lng lon location geo avatar photo picture image "
    "bio about biography note notes comment comments message nationality religion ethnicity income salary "
    "balance username login nick nickname handle surname forename website contact signature device agent "
    "license licence profile value values data details metadata attributes extra payload settings properties "
    "content text body fields"
)
_BEARING = word_set(
    "token tokens session sessions secret secrets credential credentials password passwords otp key keys"
)
"""Words of tables whose every row is a secret, which then stands in a column of a plain name."""
_PLAIN = word_set("key value data code id sid")

_PERSONAL_PARTS = ("email", "phone", "name", "birth", "passport", "address", "postal", "iban")
"""Found inside words too: `firstname`, `emailaddress`."""
_PERSONAL_TIMES = frozenset({"birth", "birthday", "birthdate", "dob", "death"})
_PERSONAL_NUMBERS = word_set(
    "age ssn tin phone mobile card balance income salary latitude longitude lat lng lon zip zipcode postcode"
)

_TIMES = frozenset({Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ})

_CREATED = re.compile(r"creat|insert|regist|join|signup|signed|made|added|opened|issued")
_NO_TIME = frozenset({"by", "id", "ids", "creator", "count", "ip", "from", "number", "no"})
"""Words of what a row came from, or of how many did, and not of when."""


def words(name: str) -> list[str]:
    """The words of a name, in lower case: `emailVerified_at` is email, verified, at."""
    return [word.lower() for word in _WORD.findall(name)]


def member(name: str, taken: Collection[str] = ()) -> str:
    """The member that a column or table becomes, in camelCase, and none that is taken."""
    first, *rest = words(name) or ["column"]
    made = first + "".join(word.capitalize() for word in rest)
    number, candidate = 1, made
    while candidate in taken:
        number += 1
        candidate = f"{made}{number}" if not made[-1].isdigit() else f"{made}_{number}"
    return candidate


def guess_privacy(name: str, kind: Kind, table: str = "") -> tuple[Privacy, str]:
    """How private a column may be, by its name, and the word that says so; empty where none does.

    Args:
        table: where it stands: the `key` of a table of tokens is one.
    """
    parts = words(name)
    if kind is Kind.BOOL:
        return Privacy.OPEN, ""
    if kind in _TIMES:
        return _by(parts, _PERSONAL_TIMES)
    if kind in (Kind.INT, Kind.NUMERIC):
        found = next((word for word in parts if word in _SECRET_NUMBERS), "")
        return (Privacy.SECRET, found) if found else _by(parts, _PERSONAL_NUMBERS)
    for pair in pairwise(parts):
        if pair in _SECRET_PAIRS:
            return Privacy.SECRET, " ".join(pair)
    if found := next((word for word in parts if word in _SECRET_WORDS), ""):
        return Privacy.SECRET, found
    bearing = next((word for word in words(table) if word in _BEARING), "")
    if kind is Kind.TEXT and bearing and _PLAIN.issuperset(parts):
        return Privacy.SECRET, bearing
    if kind is Kind.JSON:
        return Privacy.PII, "json"
    if kind is Kind.TEXT:
        return _by(parts, _PERSONAL_WORDS, _PERSONAL_PARTS)
    return Privacy.OPEN, ""


def _by(parts: list[str], personal: frozenset[str], inside: tuple[str, ...] = ()) -> tuple[Privacy, str]:
    for word in parts:
        if word in personal or any(part in word for part in inside):
            return Privacy.PII, word
    return Privacy.OPEN, ""


def is_created(name: str) -> bool:
    """The name of when a row came to be: `created_at`, `date_joined`, `creation_ts`."""
    parts = words(name)
    return _NO_TIME.isdisjoint(parts) and any(_CREATED.match(word) for word in parts)


def looks_like_owner(column: str, root: str, key: str) -> bool:
    """The name of a column that may hold the key of table `root`: `user_id` for `users` or `auth_user`."""
    parts, last = words(column), words(root)[-1:]
    if not parts or not last:
        return False
    singular = {last[0], last[0].removesuffix("s"), last[0].removesuffix("es")}
    named = "".join(parts)
    return named in {one + end for one in singular for end in ("id", "".join(words(key)))} | (singular - {"id"})
