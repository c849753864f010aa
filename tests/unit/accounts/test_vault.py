"""Keys of providers: sealed, found where they should be, and told to nobody."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from tests.unit.accounts.conftest import START, Seconds, WallClock
from tunesmith.accounts import vault as vault_module
from tunesmith.accounts.vault import FRESH_S, HeldKey, Vault
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, Problem, Unavailable

KEY = "sk-or-v1-0123456789abcdef0123456789abcdef"
OTHER = "sk-or-v1-fedcba9876543210fedcba9876543210"


@pytest.fixture
def vault(database: Database, home: Home, clock: WallClock, seconds: Seconds) -> Vault:
    return Vault(database, home.secrets, {"openrouter": None}, clock, seconds=seconds)


@pytest.fixture
def elsewhere(database: Database, home: Home) -> Vault:
    """The vault of another process: it shares the home folder and the database, and nothing else."""
    return Vault(database, home.secrets, {})


def reads(database: Database) -> list[str]:
    """Statements that look for something, from now on."""
    seen: list[str] = []

    def note(*event: object) -> None:
        if str(event[2]).startswith("SELECT"):
            seen.append(str(event[2]))

    sa.event.listen(database._engine, "before_cursor_execute", note)
    return seen


def sealed(database: Database, provider: str = "openrouter") -> bytes:
    with database.read() as connection:
        query = sa.text("SELECT sealed FROM provider_keys WHERE provider = :provider")
        return bytes(connection.execute(query, {"provider": provider}).scalar_one())


def reseal(database: Database, value: bytes) -> None:
    with database.write() as connection:
        connection.execute(sa.text("UPDATE provider_keys SET sealed = :value"), {"value": value})


def assert_shut(vault: Vault) -> None:
    """The key does not open, everything else goes on, and the message says what to do."""
    with pytest.raises(Unavailable) as refused:
        vault.get("openrouter")
    for text in (refused.value.zh, refused.value.en):
        assert "vault.key" in text and "tunesmith providers set-key openrouter --key-stdin" in text
    [held] = vault.held()
    assert (held.source, held.opens, held.hint) == ("stored", False, None)


def test_a_stored_key_comes_back_here_in_another_process_and_after_a_restart(vault: Vault, elsewhere: Vault) -> None:
    assert vault.get("openrouter") is None
    vault.put("openrouter", KEY, "root")
    assert vault.get("openrouter") == KEY
    assert elsewhere.get("openrouter") == KEY


def test_the_environments_key_wins_and_is_never_stored(database: Database, home: Home, seconds: Seconds) -> None:
    vault = Vault(database, home.secrets, {"openrouter": OTHER}, seconds=seconds)
    seen = reads(database)
    assert vault.get("openrouter") == OTHER
    assert seen == []
    vault.put("openrouter", KEY, "root")
    assert vault.get("openrouter") == OTHER
    assert Vault(database, home.secrets, {"openrouter": ""}).get("openrouter") == KEY
    assert vault.forget("openrouter") is True
    assert vault.get("openrouter") == OTHER
    assert vault.forget("openrouter") is False


def test_another_process_sees_a_new_key_and_a_forgotten_one_within_five_seconds(
    database: Database, vault: Vault, elsewhere: Vault, seconds: Seconds
) -> None:
    assert FRESH_S == 5.0
    for given in (KEY, OTHER, None):
        before = vault.get("openrouter")
        if given is None:
            elsewhere.forget("openrouter")
        else:
            elsewhere.put("openrouter", given, "root")
        seen = reads(database)
        seconds.pass_(FRESH_S - 0.001)
        assert [vault.get("openrouter") for _ in range(100)] == [before] * 100
        assert seen == []
        seconds.pass_(0.001)
        assert vault.get("openrouter") == given
        assert len(seen) == 1


def test_this_process_sees_its_own_change_at_once(vault: Vault) -> None:
    assert vault.get("openrouter") is None
    for key in (KEY, OTHER):
        vault.put("openrouter", key, "root")
        assert vault.get("openrouter") == key
    assert vault.forget("openrouter")
    assert vault.get("openrouter") is None


async def test_the_event_loop_never_reads_the_database(
    database: Database, vault: Vault, elsewhere: Vault, seconds: Seconds
) -> None:
    elsewhere.put("openrouter", KEY, "root")
    threads: list[threading.Thread] = []
    sa.event.listen(database._engine, "before_cursor_execute", lambda *_: threads.append(threading.current_thread()))
    assert [await vault.current("openrouter") for _ in range(3)] == [KEY] * 3
    seconds.pass_(FRESH_S)
    assert await vault.current("openrouter") == KEY
    assert len(threads) == 4  # BEGIN and SELECT, each time that what is known is too old
    assert threading.main_thread() not in threads


async def test_what_was_known_last_is_at_hand_without_any_reading(
    database: Database, home: Home, vault: Vault, elsewhere: Vault, seconds: Seconds
) -> None:
    elsewhere.put("openrouter", KEY, "root")
    seen = reads(database)
    assert vault.at_hand("openrouter") is None
    assert Vault(database, home.secrets, {"openrouter": OTHER}).at_hand("openrouter") == OTHER
    assert seen == []
    assert await vault.current("openrouter") == KEY
    seen.clear()
    seconds.pass_(1000)
    assert vault.at_hand("openrouter") == KEY
    assert seen == []
    vault.put("openrouter", OTHER, "root")
    assert vault.at_hand("openrouter") == OTHER
    vault.forget("openrouter")
    assert vault.at_hand("openrouter") is None


def test_a_change_that_cannot_be_written_changes_nothing(home: Home, tmp_path: Path) -> None:
    nowhere = Vault(Database(f"sqlite:///{tmp_path}/none/x.db"), home.secrets, {})
    with pytest.raises(sa.exc.OperationalError):
        nowhere.put("openrouter", KEY, "root")
    assert nowhere.at_hand("openrouter") is None


def test_a_key_set_while_another_thread_reads_is_not_forgotten_again(
    database: Database, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has the old answer in its hand when the new key is set, and keeps it only after."""
    found, go = threading.Event(), threading.Event()
    stored = Vault._stored

    def slow(self: Vault, provider: str) -> str | None:
        answer = stored(self, provider)
        found.set()
        go.wait(10)
        return answer

    monkeypatch.setattr(Vault, "_stored", slow)
    reader = threading.Thread(target=vault.get, args=("openrouter",))
    reader.start()
    found.wait(10)
    writer = threading.Thread(target=vault.put, args=("openrouter", KEY, "root"))
    writer.start()
    writer.join(0.2)  # where it does not wait for the reader it is through by now
    go.set()
    reader.join()
    writer.join()
    assert vault.get("openrouter") == KEY


def test_nothing_of_the_key_lies_in_the_database_and_no_two_seals_are_alike(
    database: Database, home: Home, vault: Vault
) -> None:
    seals = set()
    for _ in range(5):
        vault.put("openrouter", KEY, "root")
        seals.add(sealed(database))
    assert len({seal[:12] for seal in seals}) == 5
    assert {len(seal) for seal in seals} == {12 + len(KEY) + 16}
    for file in home.root.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file


def test_the_key_that_seals_is_made_when_first_needed_with_nobody_else_reading_it(home: Home, vault: Vault) -> None:
    assert (vault.get("openrouter"), vault.held(), vault.forget("openrouter")) == (None, [], False)
    assert list(home.secrets.iterdir()) == []
    before = os.umask(0)
    try:
        vault.put("openrouter", KEY, "root")
    finally:
        os.umask(before)
    [file] = home.secrets.iterdir()
    assert (file.name, stat.S_IMODE(file.stat().st_mode), file.stat().st_size) == ("vault.key", 0o600, 32)


def test_a_replaced_vault_key_opens_nothing_until_the_key_is_set_again(
    home: Home, vault: Vault, elsewhere: Vault
) -> None:
    vault.put("openrouter", KEY, "root")
    (home.secrets / "vault.key").write_bytes(os.urandom(32))
    assert_shut(elsewhere)
    vault.put("openrouter", OTHER, "root")
    assert elsewhere.get("openrouter") == OTHER


def test_a_lost_vault_key_is_not_made_anew_by_reading_and_opens_again_when_it_is_back(
    home: Home, vault: Vault, elsewhere: Vault
) -> None:
    vault.put("openrouter", KEY, "root")
    file = home.secrets / "vault.key"
    file.rename(file.with_name("elsewhere"))
    assert_shut(elsewhere)
    assert not file.exists()
    file.with_name("elsewhere").rename(file)
    assert elsewhere.get("openrouter") == KEY


@pytest.mark.parametrize("at", [0, 11, 12, 20, -17, -16, -1])
def test_a_row_that_was_tampered_with_does_not_open(
    database: Database, vault: Vault, elsewhere: Vault, at: int
) -> None:
    vault.put("openrouter", KEY, "root")
    changed = bytearray(sealed(database))
    changed[at] ^= 1
    reseal(database, bytes(changed))
    assert_shut(elsewhere)


@pytest.mark.parametrize("size", [0, 1, 11, 12, 27, 28, 40])
def test_a_row_that_was_cut_does_not_open(database: Database, vault: Vault, elsewhere: Vault, size: int) -> None:
    vault.put("openrouter", KEY, "root")
    reseal(database, sealed(database)[:size])
    assert_shut(elsewhere)


def test_a_row_moved_to_another_provider_does_not_open(
    database: Database, vault: Vault, elsewhere: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault_module, "PROVIDERS", ("openrouter", "together"))
    vault.put("together", OTHER, "root")
    with database.write() as connection:
        connection.execute(sa.text("UPDATE provider_keys SET provider = 'openrouter'"))
    assert_shut(elsewhere)


def test_one_key_that_does_not_open_is_in_the_way_of_no_other(
    database: Database, vault: Vault, elsewhere: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault_module, "PROVIDERS", ("openrouter", "together"))
    vault.put("openrouter", KEY, "root")
    reseal(database, b"rubbish")
    vault.put("together", OTHER, "root")
    assert elsewhere.get("together") == OTHER
    assert [(held.provider, held.opens) for held in vault.held()] == [("openrouter", False), ("together", True)]


def test_a_vault_key_that_others_may_read_is_refused_by_everything_that_needs_it(
    home: Home, vault: Vault, elsewhere: Vault
) -> None:
    vault.put("openrouter", KEY, "root")
    (home.secrets / "vault.key").chmod(0o644)
    for attempt in (lambda: elsewhere.get("openrouter"), lambda: vault.put("openrouter", OTHER, "root")):
        with pytest.raises(Unavailable, match="chmod 600") as refused:
            attempt()
        assert str(home.secrets / "vault.key") in refused.value.zh
    (home.secrets / "vault.key").chmod(0o600)
    assert elsewhere.get("openrouter") == KEY


@pytest.mark.parametrize(
    "bad",
    [
        "", "short12", "x" * 513, "with space", "tab\tinside", "new\nline", "trailing1\n", "null\0null", "schlüssel",
        "密钥密钥密钥密钥", "half\ud800half", "del\x7fdelete",
    ],
)  # fmt: skip
def test_what_no_key_can_be_is_refused_without_being_quoted(vault: Vault, bad: str) -> None:
    with pytest.raises(Invalid) as refused:
        vault.put("openrouter", bad, "root")
    assert refused.value.details == {"field": "key"}
    assert not bad or bad not in f"{refused.value.zh} {refused.value.en} {refused.value!r}"
    assert vault.held() == []


@pytest.mark.parametrize("good", ["12345678", "!~\"'\\%{}", "x" * 512])
def test_every_possible_key_is_one(vault: Vault, elsewhere: Vault, good: str) -> None:
    vault.put("openrouter", good, "root")
    assert elsewhere.get("openrouter") == good


@pytest.mark.parametrize("name", ["", "OpenRouter", "nobody", "open\nrouter"])
def test_an_unknown_provider_is_refused(vault: Vault, name: str) -> None:
    for attempt in (lambda: vault.put(name, KEY, "root"), lambda: vault.forget(name)):
        with pytest.raises(Invalid, match="openrouter") as refused:
            attempt()
        assert refused.value.details == {"field": "provider"}


def test_what_is_held_is_told_with_its_last_letters_and_no_more(database: Database, home: Home, vault: Vault) -> None:
    vault.put("openrouter", KEY, "root")
    assert vault.held() == [HeldKey("openrouter", "stored", "root", START, "cdef")]
    both = Vault(database, home.secrets, {"openrouter": OTHER})
    assert both.held() == [
        HeldKey("openrouter", "environment", hint="3210"),
        HeldKey("openrouter", "stored", "root", START, "cdef"),
    ]


@pytest.mark.parametrize(("length", "hint"), [(8, None), (23, None), (24, "xxxx")])
def test_of_a_short_key_not_even_the_end_is_told(vault: Vault, length: int, hint: str | None) -> None:
    vault.put("openrouter", "x" * length, "root")
    [held] = vault.held()
    assert held.hint == hint


def test_no_log_line_message_or_repr_holds_a_key(database: Database, home: Home, vault: Vault) -> None:
    told: list[str] = []
    with capture_logs() as logs:
        vault.put("openrouter", KEY, "root")
        vault.get("openrouter")
        told += [repr(vault), repr(vault.held()), repr(vault._known)]
        (home.secrets / "vault.key").write_bytes(os.urandom(32))
        fresh = Vault(database, home.secrets, {})
        with pytest.raises(Problem) as refused:
            fresh.get("openrouter")
        told += [refused.value.zh, refused.value.en, repr(refused.value), repr(refused.value.details)]
        vault.forget("openrouter")
    assert [each["event"] for each in logs] == ["provider_key_set", "provider_key_forgotten"]
    assert KEY[:-4] not in "".join(told) + repr(logs)


_PUTTING = """
import sys
from pathlib import Path
from tunesmith.accounts.vault import Vault
from tunesmith.kernel.db import Database

vault = Vault(Database(sys.argv[1]), Path(sys.argv[2]), {})
print("ready", flush=True)
sys.stdin.readline()
vault.put("openrouter", sys.argv[3], "root")
"""


def test_processes_that_set_the_first_key_together_agree_on_what_seals_it(home: Home, vault: Vault) -> None:
    given = [f"sk-or-v1-{number:032}" for number in range(3)]
    command = [sys.executable, "-c", _PUTTING, f"sqlite:///{home.root}/tunesmith.db", str(home.secrets)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    together = [subprocess.Popen([*command, key], **pipes) for key in given]  # type: ignore[call-overload]
    for process in together:
        assert process.stdout.readline() == "ready\n"
    for process in together:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in together:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert vault.get("openrouter") in given
    assert [entry.name for entry in home.secrets.iterdir()] == ["vault.key"]


def test_neither_starting_nor_asking_for_no_key_loads_the_cipher(home: Home, database: Database) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tunesmith.accounts.vault import Vault\n"
        "from tunesmith.kernel.db import Database\n"
        "vault = Vault(Database(sys.argv[1]), Path(sys.argv[2]), {})\nvault.get('openrouter')\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'cryptography'])\n"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{home.root}/tunesmith.db", str(home.secrets)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
