"""A soak of one engine over HTTP: random load, clients that leave or read slowly, adapters replaced all the time.

    PYTHONPATH=. python benchmarks/soak.py [--minutes 30] [--clients 24] [--swaps 0] [--seed 0]

The engine serves a tiny model of random weights as the server starts it, in float32. What every prompt is answered by the
base and by each version of the adapter is asked once, one after the other. Then clients ask at random, many at once. The
adapter's name stays while its weights are replaced over and over: an answer has to be, from its first token to its last,
that of a version that was current when it was asked for. Exits 1 when a stream did not end as it says it did, said what
no version says, or got stuck; when rows are left at the end; or when memory grew from the second quarter to the last.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from tests.tiny_model import make_tiny_adapter, make_tiny_base

VERSIONS = 4
PATIENCE_S = 120.0
SYSTEM = "The mayor of the town is called Ada, and the river is called Lin. "
PROMPTS = [SYSTEM * (1 + n % 3) + f"question {n}: " + "what is the capital? " * (1 + n % 5) for n in range(16)]
LENGTHS = (1, 7, 30, 90)
SWAP_EVERY_S = 0.1
# safetensors keeps some 2 kB of every file it has read: 30 MB in half an hour of swaps
GROWTH, SLACK = 1.05, 16e6


@dataclass
class Seen:
    """What came of the load."""

    ended: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    tokens: int = 0
    cached: int = 0
    rss: list[float] = field(default_factory=list)


@dataclass
class Town:
    """The adapter whose weights change: ``version`` counts the changes, ``% VERSIONS`` says which weights it has."""

    version: int = 0


@asynccontextmanager
async def engine(home: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """The engine's process, ready, and a session on its socket."""
    base = make_tiny_base(home / "tiny", endless=True)
    for version in range(VERSIONS):
        make_tiny_adapter(base, home / f"v{version}", seed=version + 1, rank=2 + 3 * version)
    command = [sys.executable, "-m", "tunesmith.inference.worker", "--base-name", "tiny", "--base-path", str(base)]
    command += ["--socket", str(home / "s"), "--precision", "float32", "--threads", "1"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    connector = aiohttp.UnixConnector(str(home / "s"), limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=PATIENCE_S)
    try:
        async with aiohttp.ClientSession("http://engine", connector=connector, timeout=timeout) as session:
            async with asyncio.timeout(PATIENCE_S):
                while (await health(session)).get("status") != "ready":  # noqa: ASYNC110  (a process of its own)
                    await asyncio.sleep(0.1)
            yield session
    finally:
        process.terminate()
        await process.wait()


async def health(session: aiohttp.ClientSession) -> dict[str, Any]:
    try:
        async with session.get("/health") as response:
            found: dict[str, Any] = await response.json()
            return found
    except aiohttp.ClientConnectorError:
        return {}


async def wear(session: aiohttp.ClientSession, name: str, version: int, home: Path) -> None:
    body = {"lora_name": name, "lora_path": str(home / f"v{version % VERSIONS}"), "load_inplace": True}
    async with session.post("/v1/load_lora_adapter", json=body) as response:
        assert response.status == 200, await response.text()


def question(model: str, prompt: int, tokens: int, owner: str = "") -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": PROMPTS[prompt]}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_salt": owner,
    }


async def known(session: aiohttp.ClientSession, home: Path) -> dict[tuple[int, int], str]:
    """What the base (-1) and each version answer to each prompt, asked alone and with nothing to begin with."""
    for version in range(VERSIONS):
        await wear(session, f"v{version}", version, home)
    answers = {}
    for version in range(-1, VERSIONS):
        for prompt in range(len(PROMPTS)):
            body = question("tiny" if version < 0 else f"v{version}", prompt, max(LENGTHS), f"{version} {prompt}")
            async with session.post("/v1/chat/completions", json=body) as response:
                text, finish, _ = await read(response)
            assert finish == "length"
            answers[version, prompt] = text
    return answers


async def read(
    response: aiohttp.ClientResponse, *, pause_s: float = 0.0, most: int = 1 << 30
) -> tuple[str, str | None, dict[str, Any]]:
    """Text, finish reason and usage of a stream; the reason is None where ``[DONE]`` or the reason did not come.

    Args:
        pause_s: slept before every frame that is read.
        most: frames read before the client leaves.
    """
    texts, finish, done, usage = [], None, False, {}
    frames = 0
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        frames += 1
        if frames > most:
            break
        if pause_s:
            await asyncio.sleep(pause_s)
        if line.startswith(b"data: [DONE]"):
            done = True
            continue
        frame = json.loads(line[5:])
        if "error" in frame:
            return "".join(texts), frame["error"]["message"], {}
        usage = frame.get("usage") or usage
        for choice in frame["choices"]:
            texts.append(choice["delta"].get("content", ""))
            finish = choice["finish_reason"] or finish
    return "".join(texts), finish if done else None, usage


async def client(
    session: aiohttp.ClientSession, chance: random.Random, answers: dict[tuple[int, int], str], town: Town, seen: Seen
) -> None:
    """Asks until it is canceled."""
    while True:
        await asyncio.sleep(chance.expovariate(20))
        worn, prompt, tokens = chance.random() < 0.7, chance.randrange(len(PROMPTS)), chance.choice(LENGTHS)
        kind = chance.choices(["read", "leave", "slow"], [80, 15, 5])[0]
        body = question("town" if worn else "tiny", prompt, tokens, chance.choice(["", "ada", "lin"]))
        first = town.version
        try:
            async with session.post("/v1/chat/completions", json=body) as response:
                last = town.version + 1  # a swap may be under way
                if response.status != 200:
                    seen.faults.append(f"HTTP {response.status}: {(await response.text())[:200]}")
                    continue
                most = chance.randrange(1, 20) if kind == "leave" else 1 << 30
                text, finish, usage = await read(response, pause_s=0.02 if kind == "slow" else 0.0, most=most)
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.faults.append(f"{kind}: {type(error).__name__} {error}"[:200])
            continue
        versions = {version % VERSIONS for version in range(first, last + 1)} if worn else {-1}
        # where it ends inside a character, that shows as U+FFFD
        right = any(answers[version, prompt].startswith(text.rstrip("\ufffd")) for version in versions)
        if kind != "leave":
            right = right and bool(text) and finish == "length" and usage.get("completion_tokens") == tokens
            seen.tokens += usage.get("completion_tokens", 0)
            seen.cached += usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        seen.ended[kind] += 1
        if not right:
            seen.faults.append(f"{kind}: {finish=} {usage=} versions {versions} prompt {prompt}: {text[:80]!r}")


async def swap(session: aiohttp.ClientSession, home: Path, town: Town) -> None:
    """Replaces the adapter until it is canceled."""
    while True:
        await wear(session, "town", town.version + 1, home)
        town.version += 1
        await asyncio.sleep(SWAP_EVERY_S)


async def soak(options: argparse.Namespace, home: Path) -> bool:
    seen, town, chance = Seen(), Town(), random.Random(options.seed)
    async with engine(home) as session:
        answers = await known(session, home)
        await wear(session, "town", 0, home)
        load = [
            asyncio.create_task(client(session, random.Random(chance.random()), answers, town, seen))
            for _ in range(options.clients)
        ]
        load.append(asyncio.create_task(swap(session, home, town)))
        began = time.monotonic()
        print(
            f"{'s':>6} {'rss MB':>8} {'cache MB':>9} {'running':>8} {'waiting':>8} {'ended':>8} {'swaps':>7} {'faults':>7}"
        )
        while time.monotonic() - began < options.minutes * 60 or town.version < options.swaps:
            await asyncio.sleep(min(10.0, options.minutes * 60 / 24))
            if broken := next((task for task in load if task.done()), None):
                broken.result()
            now = await health(session)
            seen.rss.append(now["memory"]["rss"])
            print(
                f"{time.monotonic() - began:>6.0f} {now['memory']['rss'] / 1e6:>8.1f} {now['memory']['cache'] / 1e6:>9.1f} "
                f"{now['rows']['running']:>8} {now['rows']['waiting']:>8} {seen.ended.total():>8} "
                f"{town.version:>7} {len(seen.faults):>7}",
                flush=True,
            )
        for task in load:
            task.cancel()
        await asyncio.gather(*load, return_exceptions=True)
        left = await emptied(session)
    return told(seen, town, left)


async def emptied(session: aiohttp.ClientSession) -> dict[str, int]:
    """The rows that are left some seconds after the last client has gone."""
    rows: dict[str, int] = {}
    for _ in range(100):
        rows = (await health(session))["rows"]
        if not any(rows.values()):
            break
        await asyncio.sleep(0.1)
    return rows


def told(seen: Seen, town: Town, left: dict[str, int]) -> bool:
    quarter = max(1, len(seen.rss) // 4)
    early, late = statistics.median(seen.rss[quarter : 2 * quarter]), statistics.median(seen.rss[-quarter:])
    flat = late <= early * GROWTH + SLACK
    print(
        f"streams: {dict(seen.ended)}; tokens {seen.tokens}, prompt tokens known before {seen.cached}; swaps {town.version}"
    )
    print(f"memory: {early / 1e6:.1f} MB in the second quarter, {late / 1e6:.1f} MB in the last; flat: {flat}")
    print(f"rows left: {left}; faults: {len(seen.faults)}")
    for fault in seen.faults[:20]:
        print("  " + fault)
    return flat and not any(left.values()) and not seen.faults and seen.cached > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--swaps", type=int, default=0, help="go on until the adapter was replaced so often")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if asyncio.run(soak(options, Path(folder))) else 1)


if __name__ == "__main__":
    main()
