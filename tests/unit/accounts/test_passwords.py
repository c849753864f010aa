"""Hashing passwords: the parameters, what is refused, and how many at once."""

import asyncio
import re
import threading

import pytest
from pwdlib.hashers.argon2 import Argon2Hasher

from tests.unit.accounts.conftest import CountingHasher
from tunesmith.accounts.passwords import AT_ONCE, MAX_WAITING, Passwords
from tunesmith.kernel.problems import Invalid, TooMany


async def test_a_hash_is_argon2id_with_the_parameters_owasp_asks_at_least() -> None:
    made = Passwords().hash("correct horse")
    assert re.match(r"\$argon2id\$v=19\$m=19456,t=2,p=1\$", made)
    assert await Passwords().verify("correct horse", made)
    assert await Passwords().renewed("correct horse", made) is None


async def test_the_right_password_is_right_and_others_are_wrong(hasher: CountingHasher) -> None:
    passwords = Passwords(hasher)
    made = passwords.hash("correct horse")
    assert await passwords.verify("correct horse", made)
    for wrong in (
        "",
        "correct hors",
        "correct horse ",
        "Correct horse",
        "correct horse\x00",
        "correct\nhorse",
        "\ud800",
    ):
        assert not await passwords.verify(wrong, made)


def test_equal_passwords_have_different_hashes(hasher: CountingHasher) -> None:
    passwords = Passwords(hasher)
    assert passwords.hash("correct horse") != passwords.hash("correct horse")


async def test_the_whole_of_a_long_password_counts(hasher: CountingHasher) -> None:
    passwords = Passwords(hasher)
    long = "x" * 1023
    made = passwords.hash(long + "a")
    assert await passwords.verify(long + "a", made)
    assert not await passwords.verify(long + "b", made)
    assert not await passwords.verify(long[:72], made)


async def test_a_password_is_the_same_however_its_letters_are_composed(hasher: CountingHasher) -> None:
    passwords = Passwords(hasher)
    assert await passwords.verify("Jose\u0301 y Marta", passwords.hash("Jos\u00e9 y Marta"))


@pytest.mark.parametrize(
    "password",
    ["", "1234567", "e\u0301" * 7, "x" * 1025, "x" * 50_000_000, "correct\nhorse", "correct\x00horse", "\ud800" * 9],
)
def test_a_password_that_is_none_is_refused_before_it_is_hashed(hasher: CountingHasher, password: str) -> None:
    with pytest.raises(Invalid) as refused:
        Passwords(hasher).hash(password)
    assert refused.value.details == {"field": "password"}
    assert not password or password not in refused.value.en
    assert hasher.made == 0


@pytest.mark.parametrize("password", ["x" * 8, "x" * 1024, "密码密码密码密码", "pass word\u00a0\U0001f600"])
async def test_every_password_within_the_bounds_is_taken(hasher: CountingHasher, password: str) -> None:
    passwords = Passwords(hasher)
    assert await passwords.verify(password, passwords.hash(password))


async def test_a_password_too_long_is_wrong_and_costs_no_hash(hasher: CountingHasher) -> None:
    passwords = Passwords(hasher)
    made = passwords.hash("correct horse")
    before = hasher.made
    for hash in (made, None):
        assert not await passwords.verify("x" * 50_000_000, hash)
    assert (hasher.made, hasher.verified) == (before, [])


async def test_nobodys_password_takes_one_verification_of_a_fixed_hash(hasher: CountingHasher) -> None:
    passwords = Passwords(hasher)
    for guess in ("correct horse", "", "another"):
        assert not await passwords.verify(guess, None)
    assert len(hasher.verified) == 3
    assert len(set(hasher.verified)) == 1
    assert hasher.made == 1


async def test_the_hash_for_nobody_has_the_parameters_of_everybodys() -> None:
    class Watching(Argon2Hasher):
        seen = ""

        def verify(self, password: str | bytes, hash: str | bytes) -> bool:
            self.seen = str(hash)
            return super().verify(password, hash)

    watching = Watching(time_cost=3, memory_cost=16, parallelism=1)
    await Passwords(watching).verify("correct horse", None)
    assert "m=16,t=3,p=1" in watching.seen


async def test_the_first_who_signs_in_pays_for_it_whoever_they_are() -> None:
    """Or the first unknown name after a start would be told by its time."""
    made = CountingHasher().hash("correct horse")
    work = []
    for hash in (made, None):
        fresh = CountingHasher()
        await Passwords(fresh).verify("correct horse", hash)
        work.append((fresh.made, len(fresh.verified)))
    assert work == [(1, 1), (1, 1)]


async def test_a_hash_with_other_parameters_is_renewed() -> None:
    old, new = CountingHasher(passes=1), CountingHasher(passes=2)
    kept = old.hash("correct horse")
    renewed = await Passwords(new).renewed("correct horse", kept)
    assert renewed is not None
    assert "t=2" in renewed
    assert await Passwords(new).verify("correct horse", renewed)


async def test_a_kept_hash_that_is_none_is_wrong(hasher: CountingHasher) -> None:
    for kept in ("", "plain text", "$argon2id$v=19$m=8,t=1,p=1$x$y", "$2b$12$" + "x" * 53):
        assert not await Passwords(hasher).verify("correct horse", kept)


class MeetingHasher(CountingHasher):
    """Verifies only when as many as allowed are at it together."""

    def __init__(self) -> None:
        super().__init__()
        self.at_it = self.most = 0
        self._meeting = threading.Barrier(AT_ONCE)
        self._count = threading.Lock()

    def verify(self, password: str | bytes, hash: str | bytes) -> bool:
        with self._count:
            self.at_it += 1
            self.most = max(self.most, self.at_it)
        self._meeting.wait(timeout=30)
        try:
            return super().verify(password, hash)
        finally:
            with self._count:
                self.at_it -= 1


async def test_two_are_hashed_at_once_and_no_more() -> None:
    hasher = MeetingHasher()
    passwords = Passwords(hasher)
    await asyncio.gather(*(passwords.verify("correct horse", None) for _ in range(12)))
    assert (AT_ONCE, hasher.most) == (2, 2)


class HeldHasher(CountingHasher):
    """Verifies only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def verify(self, password: str | bytes, hash: str | bytes) -> bool:
        assert self.let.wait(timeout=30)
        return super().verify(password, hash)


async def test_the_event_loop_goes_on_while_a_password_is_hashed() -> None:
    hasher = HeldHasher()
    waiting = asyncio.create_task(Passwords(hasher).verify("correct horse", None))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not waiting.done()
    hasher.let.set()  # by the loop: were it blocked, this would never be
    assert await waiting is False


async def test_beyond_a_bound_nobody_waits_and_room_is_made_again() -> None:
    hasher = HeldHasher()
    passwords = Passwords(hasher)
    full = [asyncio.create_task(passwords.verify("correct horse", None)) for _ in range(AT_ONCE + MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(TooMany) as refused:
        await passwords.verify("correct horse", None)
    assert refused.value.details == {"retry_after": 1}
    hasher.let.set()
    await asyncio.gather(*full)
    assert not await passwords.verify("correct horse", None)


async def test_a_full_queue_puts_off_renewing_a_hash_and_refuses_nobody_for_it() -> None:
    hasher = HeldHasher()
    passwords = Passwords(hasher)
    full = [asyncio.create_task(passwords.verify("correct horse", None)) for _ in range(AT_ONCE + MAX_WAITING)]
    await asyncio.sleep(0)
    old = CountingHasher(passes=2).hash("correct horse")
    assert await passwords.renewed("correct horse", old) is None
    hasher.let.set()
    await asyncio.gather(*full)
    assert await passwords.renewed("correct horse", old) is not None


async def test_who_leaves_the_queue_makes_room() -> None:
    hasher = HeldHasher()
    passwords = Passwords(hasher)
    full = [asyncio.create_task(passwords.verify("correct horse", None)) for _ in range(AT_ONCE + MAX_WAITING)]
    await asyncio.sleep(0)
    for task in full:
        task.cancel()
    await asyncio.gather(*full, return_exceptions=True)
    hasher.let.set()
    assert not await passwords.verify("correct horse", None)
    assert len(hasher.verified) <= AT_ONCE + 1
