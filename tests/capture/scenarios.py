"""What is played against the stack, in this order; README.md says what is special about some."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable

from book import Capture, Session
from rows import (
    BIRTHS,
    PLAIN_BIRTHS,
    U00,
    U01,
    U02,
    U10,
    U11,
    U12,
    U20,
    U21,
    U22,
    U30,
    U31,
    U32,
    add_account,
    add_kyc,
    add_user,
    balance,
    child,
    extremes,
    phone,
    user,
)

from support.pipeline.stack import PARTITIONS

LONG_S = 1.2
"""How long a transaction stays open among others: at least two beats pass."""

KILL_ROUNDS = 5
"""A kill right after Connect wrote its offsets redelivers nothing; it is then done again."""


def streaming(capture: Capture) -> None:
    capture.transaction(
        add_user(U01, "Edsger"), add_kyc(5, U01, "PENDING"), add_account(6, U01), add_account(7, U01)
    )
    capture.transaction(phone(U00, "+1"), phone(U10, "+1"), phone(U20, "+1"))
    capture.transaction(add_user(U11, "Barbara"), add_user(U21, "Donald"), add_account(8, U21))


def first_user_of_a_partition(capture: Capture) -> None:
    capture.transaction(add_user(U30, "Late"), add_kyc(9, U30, "VERIFIED"), add_account(10, U30))


def interleaved(capture: Capture) -> None:
    """LSNs of the changes in the order a b c a b c, commits in the order c a b; rows are taken over in turn."""
    a, b, c = Session(capture), Session(capture), Session(capture)
    a.run(phone(U00, "a1"), balance(6, 1))
    b.run(phone(U10, "b1"), balance(8, 2))
    c.run(phone(U20, "c1"), balance(10, 3))
    a.run(phone(U30, "a2"))
    b.run(phone(U21, "b2"))
    c.run(phone(U01, "c2"), phone(U11, "c2"))
    c.commit()
    a.run(phone(U20, "a3"), phone(U11, "a3"))
    a.commit()
    b.run(phone(U00, "b3"), phone(U20, "b3"), balance(6, 4))
    b.commit()
    for session in (a, b, c):
        session.close()


def long_transaction(capture: Capture) -> None:
    long = Session(capture).run(phone(U00, "long1"), balance(8, 50), add_user(U12, "Longone"))
    for n in range(3):
        capture.transaction(phone(U10, f"short{n}"), balance(6, n))
        capture.transaction(phone(U30, f"short{n}"), phone(U20, f"short{n}"))
    capture.poll(LONG_S)
    long.run(balance(3, 51), add_account(11, U12), phone(U11, "long2"))
    capture.transaction(phone(U21, "short"), phone(U30, "short"))
    capture.poll(LONG_S / 2)
    long.run(phone(U30, "long3"), phone(U20, "long3"))
    long.commit()
    capture.transaction(phone(U00, "after"), phone(U30, "after"))
    long.close()


def savepoints(capture: Capture) -> None:
    session = Session(capture).run(phone(U00, "kept"), "SAVEPOINT one", phone(U00, "lost"), add_account(12, U00))
    session.run("ROLLBACK TO one", add_account(13, U00), "SAVEPOINT two", "DELETE FROM accounts")
    session.run("ROLLBACK TO two", "SAVEPOINT three", phone(U10, "nested"), "RELEASE three", phone(U30, "kept"))
    session.commit()
    session.run("DELETE FROM users", add_user(U31, "Never"))
    session.close()


def null_against_default(capture: Capture) -> None:
    capture.transaction(f"UPDATE users SET region = NULL, created_at = NULL WHERE user_id = '{U00}'")
    capture.transaction(f"UPDATE accounts SET status = NULL WHERE account_id = '{child(3)}'")
    capture.transaction(
        add_user(U31, "Null", region="NULL", created_at="NULL"), add_account(14, U31, status="NULL")
    )
    capture.transaction(f"UPDATE users SET region = DEFAULT WHERE user_id = '{U10}'")


def extreme_values(capture: Capture) -> None:
    """The same values as in the snapshot, streamed, and dates that a snapshot cannot show."""
    capture.transaction(*extremes(200, [user(p, n) for n in (12, 13) for p in (0, 1, 3)], BIRTHS))


def dates_made_plain(capture: Capture) -> None:
    """Before the next snapshot."""
    plain = zip(PLAIN_BIRTHS, BIRTHS, strict=True)
    capture.transaction(
        *(
            f"UPDATE users SET date_of_birth = '{new}' WHERE date_of_birth = '{old}'"
            for new, old in plain
            if new != old
        )
    )


def numerics(capture: Capture) -> None:
    for value in ("NaN", "0.00004", "-12.3", "1e13", "NaN", "7"):
        capture.transaction(balance(3, value))


def padded_and_odd_texts(capture: Capture) -> None:
    odd = "E'Zoë \\u674e \\U0001F600 \\t\\n\\\\ \" '' \\u2028'"
    capture.transaction(
        f"UPDATE users SET country = 'F', city = '', address_line1 = {odd} WHERE user_id = '{U30}'"
    )
    capture.transaction(f"UPDATE users SET country = '', postal_code = '  x  ' WHERE user_id = '{U20}'")


def child_moved(capture: Capture) -> None:
    def move(table: str, key: str, number: int, owner: str) -> str:
        return f"UPDATE {table} SET user_id = '{owner}' WHERE {key} = '{child(number)}'"

    capture.transaction(move("accounts", "account_id", 6, U10))
    capture.transaction(move("accounts", "account_id", 7, U30), move("kyc_records", "kyc_id", 9, U00))
    # There and back in one transaction, and round all partitions in one.
    capture.transaction(move("accounts", "account_id", 3, U30), move("accounts", "account_id", 3, U00))
    capture.transaction(*(move("accounts", "account_id", 8, owner) for owner in (U00, U10, U30, U20, U11)))


def child_key_changed(capture: Capture) -> None:
    """To Debezium a child's own key is a column like others: only `before` tells of the former one."""

    def rename(table: str, key: str, number: int, new: int, more: str = "") -> str:
        return f"UPDATE {table} SET {key} = '{child(new)}'{more} WHERE {key} = '{child(number)}'"

    capture.transaction(rename("kyc_records", "kyc_id", 1, 901))
    # There and back, two that exchange theirs, and one that goes to another user as well.
    capture.transaction(
        *(rename("accounts", "account_id", *way) for way in ((3, 902), (902, 3), (7, 903), (10, 7), (903, 10)))
    )
    capture.transaction(rename("accounts", "account_id", 13, 904, f", user_id = '{U10}'"))


def user_key_changed(capture: Capture) -> None:
    """ON UPDATE CASCADE: the children follow into another partition; then a namesake takes the old key."""
    capture.transaction(add_user(U02, "Before"), add_kyc(15, U02, "VERIFIED"), add_account(16, U02))
    capture.transaction(f"UPDATE users SET user_id = '{U22}' WHERE user_id = '{U02}'")
    capture.transaction(
        f"UPDATE users SET user_id = '{U32}' WHERE user_id = '{U22}'",
        add_user(U22, "Namesake"),
        add_account(17, U22),
        balance(16, 5),
    )


def deleted_with_cascade(capture: Capture) -> None:
    capture.transaction(
        f"UPDATE accounts SET user_id = '{U21}' WHERE account_id = '{child(16)}'",
        f"DELETE FROM users WHERE user_id IN ('{U32}', '{U22}', '{U01}')",
    )
    capture.transaction(f"DELETE FROM users WHERE user_id = '{U21}'")


def deleted_and_inserted_again(capture: Capture) -> None:
    capture.transaction(
        f"DELETE FROM users WHERE user_id = '{U10}'", add_user(U10, "Again"), add_account(6, U10, balance="9")
    )
    # Twice in one transaction; the account's key comes back under another user.
    capture.transaction(
        f"DELETE FROM users WHERE user_id = '{U30}'",
        add_user(U30, "Once"),
        f"DELETE FROM users WHERE user_id = '{U30}'",
        add_user(U30, "Twice"),
        add_kyc(9 + 1000, U30, "EXPIRED"),
        add_account(7, U20),
    )
    capture.transaction(f"DELETE FROM users WHERE user_id = '{U11}'")
    capture.transaction(add_user(U11, "Later"))


def copied(capture: Capture) -> None:
    session = Session(capture)
    with (
        session.db.cursor() as cursor,
        cursor.copy("COPY users(user_id, first_name, last_name) FROM STDIN") as copy,
    ):
        for n in (20, 21):
            for p in range(PARTITIONS):
                copy.write_row((user(p, n), f"Copy{p}", "Real"))
    session.commit()
    session.close()


def columns_come_and_go(capture: Capture) -> None:
    capture.transaction(
        "ALTER TABLE users ADD COLUMN nickname text DEFAULT 'nick', ADD COLUMN extra json, ADD COLUMN extrab jsonb"
    )
    document = '{"b": [1, 2.50, null], "a": "ü\\n", "a": true}'
    capture.transaction(
        f"UPDATE users SET extra = '{document}', extrab = '{document}', phone = '+2' WHERE user_id = '{U00}'"
    )
    capture.transaction(phone(U30, "+2"))
    capture.transaction("ALTER TABLE users DROP COLUMN nickname, DROP COLUMN extra, DROP COLUMN extrab")
    # A column of the view: null in every row, so that its absence and its return change nothing.
    capture.transaction("ALTER TABLE users DROP COLUMN address_line2")
    capture.transaction(phone(U00, "+3"), phone(U20, "+3"))
    capture.transaction("ALTER TABLE users ADD COLUMN address_line2 text")
    capture.transaction(f"UPDATE users SET address_line2 = 'again' WHERE user_id = '{U20}'", phone(U30, "+4"))


def column_of_another_type(capture: Capture) -> None:
    """Numbers where the view declares text; the quarantined row heals by the next one."""
    capture.transaction("ALTER TABLE users ALTER COLUMN email TYPE int USING NULL")
    capture.transaction(f"UPDATE users SET email = 7 WHERE user_id = '{U20}'")


def column_of_its_type_again(capture: Capture) -> None:
    capture.transaction("ALTER TABLE users ALTER COLUMN email TYPE varchar(255) USING email::text")
    capture.transaction("UPDATE users SET email = NULL WHERE email IS NOT NULL", phone(U20, "+5"))


def connector_killed(capture: Capture) -> None:
    """kill -9 of Kafka Connect in mid-stream, until something comes twice."""
    pipeline = capture.pipeline
    for round_ in range(KILL_ROUNDS):
        before = len(capture.records)

        def write(round_: int = round_) -> None:
            owners = (U00, U10, U20, U30)
            for n in range(36):
                capture.transaction(phone(owners[n % 4], f"k{round_}-{n}"), balance(3, n))
                time.sleep(0.02)

        writer = threading.Thread(target=write)
        writer.start()
        capture.poll(0.5)
        os.kill(pipeline.stack.debezium.pid, signal.SIGKILL)
        writer.join()
        capture.poll(0.5)
        capture.settle()
        seen = [_identity(r["value"]) for r in capture.records[before:] if r["value"]]
        again = {change for change in seen if seen.count(change) > 1 and json.loads(change)[1] == "accounts"}
        if len(again) > 1:  # of one account: all but the last are older than what was there
            return
    raise AssertionError("no two changes came twice")


def _identity(value: str) -> str:
    event = json.loads(value)
    return json.dumps([event["source"]["sequence"], event["source"]["table"], event["before"], event["after"]])


def re_snapshot(capture: Capture) -> None:
    """The connector forgets its offsets; what changed meanwhile comes as snapshot rows, deletes as absence."""
    capture.rest("PUT", "/stop")
    capture.wait_state("STOPPED", 0)
    capture.transaction(f"DELETE FROM users WHERE user_id IN ('{user(0, 20)}', '{user(3, 20)}', '{U31}')")
    capture.transaction(f"DELETE FROM accounts WHERE account_id IN ('{child(3)}', '{child(120)}')")
    capture.transaction(phone(U00, "away"), add_user(U31, "Back", region="'APAC'"), add_user(U01, "Away"))
    capture.transaction(f"UPDATE users SET user_id = '{U21}' WHERE user_id = '{user(1, 20)}'")
    capture.rest("DELETE", "/offsets")
    capture.rest("PUT", "/resume")
    capture.wait_state("RUNNING", 1)


def after_re_snapshot(capture: Capture) -> None:
    capture.transaction(phone(U00, "+6"), phone(U10, "+6"), phone(U20, "+6"), phone(U30, "+6"))
    capture.transaction(f"DELETE FROM users WHERE user_id = '{U31}'", add_account(3, U30, balance="3"))


def signals_switched_on(capture: Capture) -> None:
    config = capture.rest("GET", "/config")
    more = {
        "signal.enabled.channels": "file",
        "signal.file": str(capture.pipeline.directory / "signals.jsonl"),
        "signal.poll.interval.ms": "500",
    }
    (capture.pipeline.directory / "signals.jsonl").touch()
    capture.rest("PUT", "/config", config | more)
    capture.wait_state("RUNNING", 1)


def blocking_snapshot(capture: Capture) -> None:
    """By Debezium's file channel: the printed connector has no signal table. Writers go on meanwhile."""
    before = len(capture.records)
    data = {"data-collections": ["public.users", "public.accounts"], "type": "BLOCKING"}
    with (capture.pipeline.directory / "signals.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps({"id": "blocking", "type": "execute-snapshot", "data": data}) + "\n")
    for n in range(4):
        capture.transaction(phone(U00, f"block{n}"), phone(U30, f"block{n}"))
        capture.poll(0.2)

    def last_row() -> bool:
        rows = [json.loads(r["value"]) for r in capture.records[before:] if r["value"]]
        return any(r["source"]["snapshot"] == "last" for r in rows)

    capture.wait("the last row of a blocking snapshot", last_row)


def truncate_child(capture: Capture) -> None:
    """The transaction stays open while beats pass it by."""
    session = Session(capture).run("TRUNCATE kyc_records")
    capture.poll(LONG_S)
    session.run(add_kyc(300, U20, "VERIFIED"))
    session.commit()
    session.run("TRUNCATE users CASCADE").close()  # rolled back


def truncate_insert_truncate(capture: Capture) -> None:
    capture.transaction(
        "TRUNCATE accounts",
        add_account(301, U00, balance="1"),
        add_account(302, U30, balance="2"),
        "TRUNCATE kyc_records",
    )


def truncate_insert_truncate_same(capture: Capture) -> None:
    """And the same table twice: what was put in between is gone too."""
    capture.transaction(
        *("TRUNCATE accounts", add_account(303, U10), add_account(304, U20), "TRUNCATE accounts"),
        *(add_account(303, U30), add_kyc(305, U00, "REJECTED")),
    )


def truncate_all_and_fill(capture: Capture) -> None:
    capture.transaction(
        "TRUNCATE users CASCADE",
        *(add_user(u, "New") for u in (U00, U10, U20, U30)),
        *(add_kyc(306, U10, "VERIFIED"), add_account(307, U30)),
    )


def truncate_cascade(capture: Capture) -> None:
    capture.transaction(*(add_user(u, "Last") for u in (U01, U11, U21, U31)), add_account(308, U31))
    capture.transaction("TRUNCATE users CASCADE")


def after_truncate(capture: Capture) -> None:
    capture.transaction(
        *(add_user(u, "Fresh") for u in (U00, U10, U20, U30)), add_kyc(309, U00), add_account(310, U30)
    )


def timestamp_out_of_range(capture: Capture) -> None:
    """Postgres has it, Debezium's microseconds have not: it wraps, and the true value is lost."""
    capture.transaction(f"UPDATE users SET created_at = '294276-12-31 23:59:59.999999' WHERE user_id = '{U10}'")


def timestamp_in_range_again(capture: Capture) -> None:
    capture.transaction(f"UPDATE users SET created_at = '2026-01-01' WHERE user_id = '{U10}'")


def dates_in_a_snapshot(capture: Capture) -> None:
    """The last one, for it leaves the view other than Postgres: the snapshot's rows do not hold the dates."""
    owners = [user(p, n) for n in (14, 15) for p in (0, 2, 3)]
    births = zip(owners, BIRTHS, strict=True)
    capture.transaction(*(add_user(owner, "Born", date_of_birth=f"'{born}'") for owner, born in births))
    capture.settle()
    capture.rest("PUT", "/stop")
    capture.wait_state("STOPPED", 0)
    capture.rest("DELETE", "/offsets")
    capture.rest("PUT", "/resume")
    capture.wait_state("RUNNING", 1)


SCENARIOS: list[Callable[[Capture], None]] = [
    streaming,
    first_user_of_a_partition,
    interleaved,
    long_transaction,
    savepoints,
    null_against_default,
    extreme_values,
    dates_made_plain,
    numerics,
    padded_and_odd_texts,
    child_moved,
    child_key_changed,
    user_key_changed,
    deleted_with_cascade,
    deleted_and_inserted_again,
    copied,
    columns_come_and_go,
    column_of_another_type,
    column_of_its_type_again,
    connector_killed,
    re_snapshot,
    after_re_snapshot,
    signals_switched_on,
    blocking_snapshot,
    truncate_child,
    truncate_insert_truncate,
    truncate_insert_truncate_same,
    truncate_all_and_fill,
    truncate_cascade,
    after_truncate,
    timestamp_out_of_range,
    timestamp_in_range_again,
    dates_in_a_snapshot,
]
