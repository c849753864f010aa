"""Users, signing in, bearers and API keys, on a real database."""

import asyncio
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.accounts.conftest import PASSWORD, START, CountingHasher, Seconds, WallClock, segment, signed, unfold
from tunesmith.accounts.passwords import AT_ONCE, MAX_WAITING, Passwords
from tunesmith.accounts.service import AccountService
from tunesmith.accounts.throttle import PAIR
from tunesmith.accounts.tokens import LIFETIME_S, not_signed_in
from tunesmith.accounts.user import User
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Problem,
    TooMany,
    Unauthenticated,
    Unavailable,
)

HERE = "192.0.2.1"
WRONG = "wrong horse"


async def refused(accounts: AccountService, bearer: str) -> bool:
    """Whether the bearer is refused, as every other is."""
    try:
        await accounts.identify(bearer)
    except Unauthenticated as problem:
        assert (problem.zh, problem.en, problem.details) == (not_signed_in().zh, not_signed_in().en, {})
        return True
    return False


async def sign_in(accounts: AccountService, name: str = "ada", password: str = PASSWORD, address: str = HERE) -> str:
    return (await accounts.login(name, password, address)).token


# users


def test_a_user_comes_back_as_added(accounts: AccountService) -> None:
    assert not accounts.any_users()
    ada = accounts.add("ada", PASSWORD, "admin")
    assert ada == User("ada", "admin", False, START)
    assert accounts.any_users()
    bob = accounts.add("bob", PASSWORD)
    assert bob.role == "member"
    assert accounts.list() == [ada, bob]
    assert accounts.get("ada") == ada


def test_a_password_is_kept_as_its_hash_alone(accounts: AccountService, database: Database, home: Home) -> None:
    accounts.add("ada", PASSWORD)
    with database.read() as connection:
        (kept,) = connection.exec_driver_sql("SELECT password FROM users").scalars()
    assert kept.startswith("$argon2id$")
    for file in home.root.rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes()


@pytest.mark.parametrize("again", ["ada", "Ada", "ADA", "ａｄａ"])
def test_a_name_that_differs_only_in_case_is_taken(accounts: AccountService, again: str) -> None:
    accounts.add("ada", PASSWORD)
    with pytest.raises(Conflict, match="ada"):
        accounts.add(again, PASSWORD)
    assert [user.name for user in accounts.list()] == ["ada"]


def test_names_differing_in_case_added_at_once_leave_one(accounts: AccountService) -> None:
    outcomes: list[object] = []
    barrier = threading.Barrier(4)

    def add(name: str) -> None:
        barrier.wait()
        try:
            outcomes.append(accounts.add(name, PASSWORD))
        except Conflict as problem:
            outcomes.append(problem)

    adding = [threading.Thread(target=add, args=(name,)) for name in ("ada", "Ada", "aDa", "adA")]
    for one in adding:
        one.start()
    for one in adding:
        one.join()
    assert len(accounts.list()) == 1
    assert sum(isinstance(outcome, User) for outcome in outcomes) == 1


@pytest.mark.parametrize("name", ["", "local", "a/b", "x" * 65])
def test_a_bad_name_is_refused_before_anything_is_hashed(
    accounts: AccountService, hasher: CountingHasher, name: str
) -> None:
    with pytest.raises(Invalid):
        accounts.add(name, PASSWORD)
    assert hasher.made == 0


def test_a_bad_password_leaves_no_user(accounts: AccountService) -> None:
    with pytest.raises(Invalid):
        accounts.add("ada", "short")
    assert not accounts.any_users()


def test_an_unknown_user_is_not_found_by_any_verb(accounts: AccountService) -> None:
    for name in ("nobody", "", "local", "x" * 1_000_000, "a\x00b", "\ud800"):
        for verb in (accounts.get, accounts.disable, accounts.enable, accounts.create_key, accounts.keys):
            with pytest.raises(NotFound) as missing:
                verb(name)
            assert len(missing.value.en) < 200
        with pytest.raises(NotFound):
            accounts.set_password(name, PASSWORD)


def test_the_last_admin_who_may_sign_in_cannot_be_disabled(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD, "admin")
    accounts.add("bob", PASSWORD, "admin")
    accounts.add("eve", PASSWORD)
    assert accounts.disable("bob").disabled
    with pytest.raises(Conflict, match="last admin"):
        accounts.disable("ada")
    assert accounts.disable("bob").disabled  # twice is fine, also then
    assert accounts.disable("eve").disabled
    accounts.enable("bob")
    assert accounts.disable("ada").disabled


def test_two_admins_disabled_at_once_leave_one(accounts: AccountService) -> None:
    names = ["ada", "bob", "cid", "dan"]
    for name in names:
        accounts.add(name, PASSWORD, "admin")
    barrier = threading.Barrier(len(names))
    kept = []

    def disable(name: str) -> None:
        barrier.wait()
        try:
            accounts.disable(name)
        except Conflict:
            kept.append(name)

    disabling = [threading.Thread(target=disable, args=(name,)) for name in names]
    for one in disabling:
        one.start()
    for one in disabling:
        one.join()
    assert len(kept) == 1
    assert [user.name for user in accounts.list() if not user.disabled] == kept


# signing in


async def test_a_token_stands_for_its_user_for_an_hour(accounts: AccountService, clock: WallClock) -> None:
    accounts.add("ada", PASSWORD, "admin")
    accounts.add("bob", PASSWORD)
    issued = await accounts.login("ada", PASSWORD, HERE)
    assert issued.expires_in == 3600
    assert issued.token not in repr(issued)
    assert await accounts.identify(issued.token) == Caller("ada", admin=True)
    assert await accounts.identify(await sign_in(accounts, "bob")) == Caller("bob", admin=False)
    clock.pass_(LIFETIME_S)
    assert await refused(accounts, issued.token)


async def test_a_name_typed_with_other_code_points_signs_in(accounts: AccountService) -> None:
    accounts.add("Jos\u00e9", PASSWORD)
    assert await accounts.identify(await sign_in(accounts, "Jose\u0301")) == Caller("Jos\u00e9")


async def test_unknown_wrong_and_disabled_are_told_the_same_after_the_same_work(
    accounts: AccountService, hasher: CountingHasher
) -> None:
    accounts.add("ada", PASSWORD)
    accounts.add("eve", PASSWORD)
    accounts.disable("eve")
    await sign_in(accounts)
    told, work = set(), []
    cases = [("ada", WRONG), ("nobody", WRONG), ("nobody", PASSWORD), ("eve", PASSWORD), ("eve", WRONG)]
    cases += [
        ("", WRONG),
        ("local", PASSWORD),
        ("a\x00b", WRONG),
        ("x" * 100_000, WRONG),
        ("ada", ""),
        ("ada", "x" * 9),
    ]
    for number, (name, password) in enumerate(cases):
        before = hasher.made, len(hasher.verified)
        with pytest.raises(Unauthenticated) as problem:
            await accounts.login(name, password, f"10.0.0.{number}")
        told.add((problem.value.zh, problem.value.en, str(problem.value.details)))
        work.append((hasher.made - before[0], len(hasher.verified) - before[1]))
    assert len(told) == 1
    assert set(work) == {(0, 1)}


async def test_an_unknown_name_is_slowed_like_a_known_one(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD)
    told = []
    for name in ("ada", "nobody", "a b"):
        for _ in range(PAIR.free):
            with pytest.raises(Unauthenticated):
                await accounts.login(name, WRONG, f"10.0.0.{len(told)}")
        with pytest.raises(TooMany) as slowed:
            await accounts.login(name, WRONG, f"10.0.0.{len(told)}")
        told.append((slowed.value.en, slowed.value.details))
    assert told == [told[0]] * 3
    assert told[0][1] == {"retry_after": 2}


async def test_a_password_too_long_is_wrong_costs_nothing_and_counts(
    accounts: AccountService, hasher: CountingHasher
) -> None:
    accounts.add("ada", PASSWORD)
    for _ in range(PAIR.free):
        with pytest.raises(Unauthenticated):
            await accounts.login("ada", "x" * 20_000_000, HERE)
    assert hasher.verified == []
    with pytest.raises(TooMany):
        await accounts.login("ada", PASSWORD, HERE)


async def test_while_slowed_the_password_is_not_looked_at_even_if_it_is_right(
    accounts: AccountService, hasher: CountingHasher, seconds: Seconds
) -> None:
    accounts.add("ada", PASSWORD)
    for _ in range(PAIR.free):
        with pytest.raises(Unauthenticated):
            await accounts.login("ada", WRONG, HERE)
    looked_at = len(hasher.verified)
    with pytest.raises(TooMany) as slowed:
        await accounts.login("ada", PASSWORD, HERE)
    assert slowed.value.details == {"retry_after": 2}
    assert len(hasher.verified) == looked_at
    seconds.pass_(2)
    await sign_in(accounts)
    for _ in range(PAIR.free):
        with pytest.raises(Unauthenticated):
            await accounts.login("ada", WRONG, HERE)


async def test_a_stranger_slows_the_owner_of_an_account_for_a_minute_at_most(
    accounts: AccountService, seconds: Seconds
) -> None:
    accounts.add("ada", PASSWORD)
    for stranger in range(60):
        try:
            await accounts.login("ada", WRONG, f"10.0.0.{stranger}")
        except TooMany as slowed:
            seconds.pass_(slowed.details["retry_after"])
        except Unauthenticated:
            pass
    with pytest.raises(TooMany) as slowed_too:
        await accounts.login("ada", PASSWORD, HERE)
    assert slowed_too.value.details["retry_after"] <= 60
    seconds.pass_(60)
    await sign_in(accounts)


async def test_a_step_of_the_wall_clock_changes_no_delay(accounts: AccountService, clock: WallClock) -> None:
    accounts.add("ada", PASSWORD)
    for _ in range(PAIR.free):
        with pytest.raises(Unauthenticated):
            await accounts.login("ada", WRONG, HERE)
    for step in (1e9, -2e9):
        clock.pass_(step)
        with pytest.raises(TooMany) as slowed:
            await accounts.login("ada", PASSWORD, HERE)
        assert slowed.value.details == {"retry_after": 2}


async def test_of_fifty_guesses_at_once_no_more_are_looked_at_than_one_by_one(
    accounts: AccountService, hasher: CountingHasher
) -> None:
    accounts.add("ada", PASSWORD)
    guesses = (accounts.login("ada", f"{WRONG} {number}", HERE) for number in range(50))
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    kinds = [type(outcome) for outcome in outcomes]
    assert (kinds.count(Unauthenticated), kinds.count(TooMany)) == (PAIR.free, 50 - PAIR.free)
    assert len(hasher.verified) == PAIR.free


async def test_right_passwords_at_once_are_all_let_in(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD)
    tokens = await asyncio.gather(*(sign_in(accounts) for _ in range(12)))
    assert [await accounts.identify(token) for token in tokens] == [Caller("ada")] * 12


async def test_a_right_password_among_wrong_ones_does_not_let_more_of_them_be_looked_at_than_before(
    accounts: AccountService, hasher: CountingHasher
) -> None:
    accounts.add("ada", PASSWORD)
    accounts.add("mallory", PASSWORD)
    guesses = [accounts.login("ada", f"{WRONG} {number}", HERE) for number in range(50)]
    own = [accounts.login("mallory", PASSWORD, HERE) for _ in range(8)]
    outcomes = await asyncio.gather(*guesses, *own, return_exceptions=True)
    kinds = [type(outcome) for outcome in outcomes[:50]]
    assert (kinds.count(Unauthenticated), kinds.count(TooMany)) == (PAIR.free, 50 - PAIR.free)


async def test_a_guesser_who_hangs_up_has_still_guessed(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD)
    for _ in range(PAIR.free):
        guess = asyncio.create_task(accounts.login("ada", WRONG, HERE))
        await asyncio.sleep(0)
        guess.cancel()
        await asyncio.gather(guess, return_exceptions=True)
    with pytest.raises(TooMany):
        await accounts.login("ada", WRONG, HERE)


async def test_a_crowd_beyond_the_queue_is_asked_to_wait_and_not_punished(
    database: Database, home: Home, clock: WallClock, seconds: Seconds
) -> None:
    let = threading.Event()

    class Held(CountingHasher):
        def verify(self, password: str | bytes, hash: str | bytes) -> bool:
            assert let.wait(timeout=30)
            return super().verify(password, hash)

    accounts = AccountService(database, home, clock, seconds=seconds, passwords=Passwords(Held()))
    accounts.add("ada", PASSWORD)
    room = AT_ONCE + MAX_WAITING
    crowd = [asyncio.create_task(accounts.login(f"user{n}", WRONG, f"10.0.0.{n}")) for n in range(room + 10)]
    finished: set[asyncio.Task[object]] = set()
    while len(finished) < 10:
        finished, _ = await asyncio.wait(crowd, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
    assert {type(task.exception()) for task in finished} == {TooMany}
    for _ in range(3 * PAIR.free):
        with pytest.raises(TooMany) as full:
            await accounts.login("ada", PASSWORD, HERE)
        assert full.value.details == {"retry_after": 1}
    let.set()
    await asyncio.gather(*crowd, return_exceptions=True)
    await sign_in(accounts)


async def test_a_hash_with_old_parameters_is_renewed_by_signing_in_and_tokens_stay(
    database: Database, home: Home, clock: WallClock, accounts: AccountService
) -> None:
    accounts.add("ada", PASSWORD)
    token = await sign_in(accounts)
    stronger = CountingHasher(passes=2)
    later = AccountService(database, home, clock, passwords=Passwords(stronger))
    with pytest.raises(Unauthenticated):
        await later.login("ada", WRONG, HERE)
    assert stronger.made == 1  # nobody's: a wrong password renews nothing
    await sign_in(later)
    assert stronger.made == 2
    await sign_in(later)
    assert stronger.made == 2
    with database.read() as connection:
        (kept,) = connection.exec_driver_sql("SELECT password FROM users").scalars()
    assert "t=2" in kept
    assert await later.identify(token) == Caller("ada")


async def test_the_right_password_of_a_disabled_user_renews_nothing(
    database: Database, home: Home, accounts: AccountService
) -> None:
    """The hash it would take could be told by the time it takes."""
    accounts.add("eve", PASSWORD)
    accounts.disable("eve")
    stronger = CountingHasher(passes=2)
    later = AccountService(database, home, passwords=Passwords(stronger))
    with pytest.raises(Unauthenticated):
        await later.login("eve", PASSWORD, HERE)
    assert (stronger.made, len(stronger.verified)) == (1, 1)


async def test_a_renewed_hash_does_not_undo_a_password_changed_meanwhile(
    database: Database, home: Home, accounts: AccountService
) -> None:
    accounts.add("ada", PASSWORD)

    class Late(CountingHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            if password == PASSWORD:
                accounts.set_password("ada", "another horse")
            return super().hash(password, salt=salt)

    later = AccountService(database, home, passwords=Passwords(Late(passes=2)))
    stale = await sign_in(later)
    assert await refused(later, stale)
    with pytest.raises(Unauthenticated):
        await later.login("ada", PASSWORD, HERE)
    assert await later.identify(await sign_in(later, password="another horse")) == Caller("ada")


async def test_people_are_known_while_the_loops_own_threads_are_all_busy(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD)
    let = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(let.wait, 30)) for _ in range(100)]
    await asyncio.sleep(0)
    try:
        assert await accounts.identify(await sign_in(accounts)) == Caller("ada")
        assert not any(task.done() for task in busy)
    finally:
        let.set()
        await asyncio.gather(*busy)


# tokens that stop


async def test_a_token_of_a_disabled_user_is_refused_at_once_and_stays_void(accounts: AccountService) -> None:
    accounts.add("eve", PASSWORD)
    token = await sign_in(accounts, "eve")
    accounts.disable("eve")
    assert await refused(accounts, token)
    accounts.enable("eve")
    assert await refused(accounts, token)
    assert await accounts.identify(await sign_in(accounts, "eve")) == Caller("eve")


async def test_a_changed_password_voids_tokens_and_the_old_password(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD)
    token = await sign_in(accounts)
    accounts.set_password("ada", "another horse")
    assert await refused(accounts, token)
    with pytest.raises(Unauthenticated):
        await sign_in(accounts)
    assert await accounts.identify(await sign_in(accounts, password="another horse")) == Caller("ada")


async def test_another_users_password_or_state_does_not_touch_a_token(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD)
    accounts.add("eve", PASSWORD)
    token = await sign_in(accounts)
    accounts.set_password("eve", "another horse")
    accounts.disable("eve")
    assert await accounts.identify(token) == Caller("ada")


async def test_another_process_that_disables_a_user_stops_the_token_here(
    accounts: AccountService, database: Database, home: Home, clock: WallClock
) -> None:
    accounts.add("eve", PASSWORD)
    token = await sign_in(accounts, "eve")
    AccountService(database, home, clock).disable("eve")
    assert await refused(accounts, token)


async def test_a_token_is_good_in_another_process_and_after_a_restart(
    accounts: AccountService, database: Database, home: Home, clock: WallClock
) -> None:
    accounts.add("ada", PASSWORD)
    token = await sign_in(accounts)
    assert await AccountService(database, home, clock).identify(token) == Caller("ada")


async def test_a_token_of_another_home_is_refused(
    accounts: AccountService, database: Database, tmp_path: Path, clock: WallClock
) -> None:
    accounts.add("ada", PASSWORD)
    other = AccountService(database, Home(tmp_path / "other"), clock)
    assert await refused(other, await sign_in(accounts))


async def test_a_role_is_read_from_the_database_and_not_from_the_token(accounts: AccountService, home: Home) -> None:
    accounts.add("bob", PASSWORD)
    header, claims = unfold(await sign_in(accounts, "bob"))
    key = (home.secrets / "token.key").read_bytes()
    assert await refused(accounts, signed(header, claims | {"role": "admin", "admin": True}, key))
    assert await accounts.identify(signed(header, claims, key)) == Caller("bob", admin=False)


async def test_a_well_signed_token_of_a_user_who_never_was_is_refused(accounts: AccountService, home: Home) -> None:
    accounts.add("bob", PASSWORD)
    header, claims = unfold(await sign_in(accounts, "bob"))
    key = (home.secrets / "token.key").read_bytes()
    for name in ("nobody", "local", "", "BOB"):
        assert await refused(accounts, signed(header, claims | {"sub": name}, key))
    for epoch in (-1, 1, 10**30):
        assert await refused(accounts, signed(header, claims | {"ver": epoch}, key))


async def test_a_key_file_that_is_not_fit_stops_the_start_and_lets_nobody_in(
    accounts: AccountService, home: Home
) -> None:
    (home.secrets / "token.key").write_bytes(b"default")
    (home.secrets / "token.key").chmod(0o600)
    with pytest.raises(Unavailable, match="shorter than 32 bytes"):
        accounts.start()
    accounts.add("ada", PASSWORD)
    with pytest.raises(Unavailable):
        await accounts.login("ada", PASSWORD, HERE)


def test_starting_makes_the_key_and_composing_does_not(accounts: AccountService, home: Home) -> None:
    assert not (home.secrets / "token.key").exists()
    accounts.start()
    accounts.start()
    assert len((home.secrets / "token.key").read_bytes()) == 32


# API keys


async def test_an_api_key_stands_for_its_user(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD, "admin")
    made = accounts.create_key("ada", "nightly job")
    assert await accounts.identify(made.secret) == Caller("ada", admin=True)
    (kept,) = accounts.keys("ada")
    assert (kept.id, kept.user, kept.label, kept.revoked_at) == (made.id, "ada", "nightly job", None)


async def test_a_revoked_key_stops_at_once_and_revoking_twice_is_fine(
    accounts: AccountService, clock: WallClock
) -> None:
    accounts.add("ada", PASSWORD)
    one, other = accounts.create_key("ada"), accounts.create_key("ada")
    assert accounts.revoke_key(one.id).revoked_at == START
    assert await refused(accounts, one.secret)
    assert await accounts.identify(other.secret) == Caller("ada")
    clock.pass_(60)
    assert accounts.revoke_key(one.id).revoked_at == START
    for unknown in ("0" * 12, "", other.secret, "\ud800"):
        with pytest.raises(NotFound) as missing:
            accounts.revoke_key(unknown)
        assert other.secret not in missing.value.en


async def test_a_disabled_users_keys_stop_at_once_and_come_back_with_them(accounts: AccountService) -> None:
    accounts.add("eve", PASSWORD)
    made = accounts.create_key("eve")
    accounts.disable("eve")
    assert await refused(accounts, made.secret)
    with pytest.raises(Conflict):
        accounts.create_key("eve")
    accounts.enable("eve")
    assert await accounts.identify(made.secret) == Caller("eve")


async def test_a_key_outlives_a_changed_password(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD)
    made = accounts.create_key("ada")
    accounts.set_password("ada", "another horse")
    assert await accounts.identify(made.secret) == Caller("ada")


async def test_a_known_id_with_another_secret_is_refused(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD)
    one, other = accounts.create_key("ada"), accounts.create_key("ada")
    assert await refused(accounts, one.secret[:17] + other.secret[17:])
    assert await refused(accounts, one.secret[:17] + "A" * 43)
    assert await refused(accounts, one.secret[:-1])
    assert await refused(accounts, one.id)


def test_keys_are_listed_by_user_the_newest_first(accounts: AccountService, clock: WallClock) -> None:
    accounts.add("ada", PASSWORD)
    accounts.add("bob", PASSWORD)
    first = accounts.create_key("ada")
    clock.pass_(1)
    second = accounts.create_key("bob")
    clock.pass_(1)
    third = accounts.create_key("ada")
    everybodys, adas = accounts.keys(), accounts.keys("ada")
    assert [key.id for key in everybodys] == [third.id, second.id, first.id]
    assert [key.id for key in adas] == [third.id, first.id]


@pytest.mark.parametrize("label", ["x" * 101, "a\nb", "a\x1bb", "a\u202eb"])
def test_a_label_that_could_forge_a_line_is_refused(accounts: AccountService, label: str) -> None:
    accounts.add("ada", PASSWORD)
    with pytest.raises(Invalid):
        accounts.create_key("ada", label)
    assert accounts.keys() == []


def test_a_key_is_kept_as_a_digest_alone(accounts: AccountService, database: Database, home: Home) -> None:
    accounts.add("ada", PASSWORD)
    secret = accounts.create_key("ada").secret[17:].encode()
    for file in home.root.rglob("*"):
        assert not file.is_file() or secret not in file.read_bytes()


def test_a_user_has_so_many_good_keys_and_may_have_others_after_revoking_some(
    accounts: AccountService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.accounts.service.MAX_KEYS", 2)
    accounts.add("ada", PASSWORD)
    accounts.add("bob", PASSWORD)
    first = accounts.create_key("ada")
    accounts.create_key("ada")
    with pytest.raises(Conflict, match="2 good API keys"):
        accounts.create_key("ada")
    accounts.create_key("bob")
    accounts.revoke_key(first.id)
    accounts.create_key("ada")
    assert [len(accounts.keys("ada", revoked=revoked)) for revoked in (True, False)] == [3, 2]
    assert len(accounts.keys(most=3)) == 3


def test_a_key_is_revoked_by_its_owner_or_by_whoever_may_revoke_all(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD)
    accounts.add("bob", PASSWORD)
    made = accounts.create_key("ada")
    with pytest.raises(NotFound):
        accounts.revoke_key(made.id, "bob")
    assert accounts.keys("ada")[0].revoked_at is None
    assert accounts.revoke_key(made.id, "ada").revoked_at == START


async def test_the_last_use_of_a_key_is_kept_to_the_minute_and_a_disabled_users_is_none(
    accounts: AccountService, clock: WallClock
) -> None:
    accounts.add("ada", PASSWORD)
    accounts.add("eve", PASSWORD)
    adas, eves = accounts.create_key("ada"), accounts.create_key("eve")
    accounts.disable("eve")
    assert await refused(accounts, eves.secret)
    await accounts.identify(adas.secret)
    clock.pass_(59)
    await accounts.identify(adas.secret)
    accounts.close()
    assert {key.user: key.last_used_at for key in accounts.keys(None)} == {"ada": START, "eve": None}
    clock.pass_(1)
    assert await accounts.identify(adas.secret) == Caller("ada")  # who is closed still lets people in


# one's own password


async def test_logging_in_is_dated_and_a_wrong_password_is_not(accounts: AccountService, clock: WallClock) -> None:
    accounts.add("ada", PASSWORD)
    with pytest.raises(Unauthenticated):
        await accounts.login("ada", WRONG, HERE)
    assert accounts.get("ada").last_login_at is None
    clock.pass_(5)
    await sign_in(accounts)
    assert accounts.get("ada").last_login_at == clock.now
    assert accounts.list()[0].last_login_at == clock.now


async def test_who_knows_the_old_password_takes_another_and_a_token(accounts: AccountService) -> None:
    accounts.add("ada", PASSWORD)
    before = await sign_in(accounts)
    issued = await accounts.change_password("ada", PASSWORD, "another horse", HERE)
    assert await refused(accounts, before)
    assert await accounts.identify(issued.token) == Caller("ada")
    await sign_in(accounts, password="another horse")
    with pytest.raises(Unauthenticated):
        await accounts.login("ada", PASSWORD, HERE)


async def test_a_wrong_old_password_changes_nothing_and_counts_with_those_of_signing_in(
    accounts: AccountService, hasher: CountingHasher
) -> None:
    accounts.add("ada", PASSWORD)
    made = hasher.made
    for _ in range(PAIR.free):
        with pytest.raises(Forbidden, match="old password"):
            await accounts.change_password("ada", WRONG, "another horse", HERE)
    for attempt in (
        accounts.change_password("ada", PASSWORD, "another horse", HERE),
        accounts.login("ada", PASSWORD, HERE),
    ):
        with pytest.raises(TooMany):
            await attempt
    assert hasher.made - made <= 1  # that of nobody


async def test_a_new_password_that_is_none_is_told_before_the_old_one_is_looked_at(
    accounts: AccountService, hasher: CountingHasher
) -> None:
    accounts.add("ada", PASSWORD)
    with pytest.raises(Invalid):
        await accounts.change_password("ada", PASSWORD, "short", HERE)
    assert hasher.verified == []


@pytest.mark.parametrize("act", ["set_password", "disable"])
async def test_an_admin_who_acts_meanwhile_wins(
    database: Database, home: Home, clock: WallClock, seconds: Seconds, act: str
) -> None:
    admins = AccountService(database, home, clock, passwords=Passwords(CountingHasher()))

    class Interrupted(CountingHasher):
        """The admin acts just when the old password was found right."""

        def verify(self, password: str | bytes, hash: str | bytes) -> bool:
            right = super().verify(password, hash)
            admins.disable("ada") if act == "disable" else admins.set_password("ada", "set by an admin")
            return right

    accounts = AccountService(database, home, clock, seconds=seconds, passwords=Passwords(Interrupted()))
    admins.add("ada", PASSWORD)
    with pytest.raises(Conflict, match="by somebody else"):
        await accounts.change_password("ada", PASSWORD, "another horse", HERE)
    admins.enable("ada")
    await sign_in(admins, password=PASSWORD if act == "disable" else "set by an admin")


# whatever is sent


@pytest.mark.parametrize(
    "bearer",
    [
        "", "x", "null", "undefined", "Bearer", "YOUR_TOKEN", "tsk_", "tsk__", "tsk_000000000000_" + "A" * 43, "..",
        "a.b.c", "' OR 1=1 --", "tsk_' OR '1'='1", "x" * (1 << 20), "tsk_" + "x" * (1 << 20), "\x00", "\ud800", "令牌",
        segment({"alg": "none", "typ": "JWT"}) + "." + segment({"sub": "ada"}) + ".",
    ],
)  # fmt: skip
async def test_what_is_neither_token_nor_key_is_refused(accounts: AccountService, bearer: str) -> None:
    accounts.add("ada", PASSWORD)
    assert await refused(accounts, bearer)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(), st.text().map("tsk_{}".format), st.text("abc.-_=").map("eyJhbGciOiJIUzI1NiJ9.{}".format)))
def test_no_text_is_anything_but_refused(accounts: AccountService, bearer: str) -> None:
    assert asyncio.run(refused(accounts, bearer))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.text(), st.text())
def test_no_name_password_or_address_lets_anybody_in_or_breaks(
    accounts: AccountService, name: str, password: str, address: str
) -> None:
    with pytest.raises((Unauthenticated, TooMany)):
        asyncio.run(accounts.login(name, password, address))


# secrets


async def test_no_secret_is_told_by_a_problem_a_representation_or_a_log(
    accounts: AccountService, home: Home, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    accounts.add("ada", PASSWORD)
    key = accounts.create_key("ada")
    issued = await accounts.login("ada", PASSWORD, HERE)
    told = [repr(key), repr(issued), repr(accounts), repr(vars(accounts)), repr(accounts.keys()), repr(accounts.list())]
    sent = [issued.token + "x", issued.token[:-1], key.secret + "x", key.secret[:-1]]
    for bearer in sent:
        with pytest.raises(Unauthenticated) as problem:
            await accounts.identify(bearer)
        told.append(_all_of(problem.value))
    for password in (WRONG, "x" * 2000):
        with pytest.raises(Unauthenticated) as problem:
            await accounts.login("ada", password, HERE)
        told.append(_all_of(problem.value))
    written = capfd.readouterr()
    everything = "\n".join([*told, written.out, written.err, caplog.text])
    token_key = (home.secrets / "token.key").read_bytes()
    for secret in (PASSWORD, WRONG, key.secret[17:], issued.token[60:], "$argon2", "x" * 1000, repr(token_key)[2:-1]):
        assert secret not in everything


def _all_of(problem: Problem) -> str:
    return f"{problem!r} {problem.zh} {problem.en} {problem.details} {problem.__cause__!r} {problem.__context__!r}"
