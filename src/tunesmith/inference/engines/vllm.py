"""vLLM's server as its clients see it: the OpenAI wire, and what is vLLM's own.

Source: vllm/entrypoints (openai/api_server, serve/lora, serve/tokenize, openai/models/serving). Where it differs from our
own worker: an answer that could be longer than the context is refused instead of cut there, nothing is checked before
it is sent, times are not told, and the answers of the adapters' routes are plain text.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.inference.engine import Event, Reference, Request, Score
from tunesmith.inference.engines import openai_wire as wire
from tunesmith.inference.engines import refusals
from tunesmith.inference.engines.answer import Label
from tunesmith.inference.engines.openai import OpenAIEngine
from tunesmith.inference.engines.upstream import Terms, Upstream
from tunesmith.kernel.problems import Invalid, NotFound, Problem, Unavailable, Unsupported
from tunesmith.models.model import Adapter, Model

_STARTED = Label(" vLLM ", "vLLM")
_JOINED = Label(
    " vLLM ",
    "vLLM",
    "请检查它是否在运行，以及 TUNESMITH_VLLM_URL 是否正确",
    "check that it runs, and TUNESMITH_VLLM_URL",
)
_AT_ONCE = 256  # rows of one call; vLLM queues what does not fit its batch
_TOKENIZING = 16
_TEMPLATE = 1024  # bytes a chat template may add to a conversation, and to each of its messages
_A_MESSAGE = 64


@dataclass(frozen=True, slots=True)
class Served:
    """A model that vLLM answers for.

    Attributes:
        root: where its files are, on vLLM's machine.
        context: most positions; 0 where it is not said (adapters).
    """

    name: str
    root: str
    context: int


class _Card(msgspec.Struct):
    id: str
    root: str | None = None
    max_model_len: int | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


class VllmEngine:
    """Generates through a vLLM server, and gives it adapters.

    Args:
        base: what the server calls the base model.
        ends: token ids that end a completion, which its wire does not tell.
        foreign: it is not our own process.
    """

    def __init__(self, upstream: Upstream, base: str, *, ends: Collection[int], foreign: bool) -> None:
        self._upstream, self._base = upstream, base
        self._foreign = foreign
        self._context = 0
        self._engine = OpenAIEngine(upstream, name=self._name, at_once=_AT_ONCE, ends=ends, salted=True)

    @staticmethod
    def started(socket: Path, base: str, ends: Collection[int]) -> "VllmEngine":
        """Ours, behind that unix socket."""
        refused = partial(refusals.refused, _STARTED)
        upstream = Upstream("http://engine", _STARTED, refused, terms=Terms(foreign=False), socket=socket)
        return VllmEngine(upstream, base, ends=ends, foreign=False)

    @staticmethod
    def joined(url: str, key: str | None, base: str, ends: Collection[int]) -> "VllmEngine":
        """Somebody's, at ``url``, with or without ``/v1`` at its end."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        refused = partial(refusals.refused, _JOINED)
        upstream = Upstream(url.removesuffix("/v1"), _JOINED, refused, headers=lambda: headers)
        return VllmEngine(upstream, base, ends=ends, foreign=True)

    async def close(self) -> None:
        """Close every connection; streams still open break."""
        await self._upstream.close()

    async def page(self, path: str, *, within_s: float, most: int) -> bytes:
        """What a GET of ``path`` gives, at most ``most`` bytes; raises as ``served``."""
        return await self._engine.page(path, within_s=within_s, most=most)

    async def served(self, *, within_s: float) -> list[Served]:
        """What it answers for, its adapters too; remembers the context of the base model.

        Raises:
            Problem: it does not answer in time, or refuses.
        """
        await self._upstream.fetch("GET", "/health", None, within_s=within_s)
        cards = await self._upstream.ask("GET", "/v1/models", None, _Cards, within_s=within_s)
        found = [Served(card.id, card.root or "", card.max_model_len or 0) for card in cards.data]
        self._context = next((each.context for each in found if each.name == self._base), self._context)
        return found

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        """See ``Engine.generate``."""
        turns = asyncio.Semaphore(_TOKENIZING)

        async def fitted(request: Request) -> Request:
            async with turns:
                return await self._fitted(request)

        ready = await asyncio.gather(*(fitted(request) for request in requests))
        async with aclosing(self._engine.generate(ready)) as events:
            async for event in events:
                yield event

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        """See ``Engine.score``."""
        return await self._engine.score(references)

    async def load_adapter(self, wire_name: str, adapter: Adapter) -> None:
        """See ``AdapterHost``."""
        body = wire.encode({"lora_name": wire_name, "lora_path": str(adapter.path)})
        try:
            await self._upstream.fetch("POST", "/v1/load_lora_adapter", body)
        except Problem as problem:
            raise self._why_not_loaded(problem, adapter) from problem

    async def unload_adapter(self, wire_name: str) -> None:
        """See ``AdapterHost``."""
        await self._upstream.fetch("POST", "/v1/unload_lora_adapter", wire.encode({"lora_name": wire_name}))

    def _name(self, model: Model) -> str:
        return model.adapter or self._base

    async def _fitted(self, request: Request) -> Request:
        """``request`` with no more tokens asked for than the context has room for.

        Raises:
            Invalid: the prompt leaves no room for one.
        """
        wanted = request.sampling.max_new_tokens
        if not request.prompt or (self._context and _most_tokens(request) + wanted <= self._context):
            return request
        wire.check_sampling(request.sampling)
        raw = isinstance(request.prompt, str)
        content = request.prompt if isinstance(request.prompt, str) else [m.as_dict() for m in request.prompt]
        asked: dict[str, Any] = {"model": self._name(request.model), "prompt" if raw else "messages": content}
        found = await self._engine.ask("POST", "/tokenize", asked, wire.Tokenized)
        room = found.max_model_len - len(found.tokens)
        if room < 1:
            raise Invalid(
                f"输入过长：提示共 {len(found.tokens)} 个 token，模型上下文为 {found.max_model_len} 个",
                f"the prompt has {len(found.tokens)} tokens; the model's context is {found.max_model_len}",
                prompt_tokens=len(found.tokens),
                context_length=found.max_model_len,
            )
        return replace(request, sampling=replace(request.sampling, max_new_tokens=min(wanted, room)))

    def _why_not_loaded(self, problem: Problem, adapter: Adapter) -> Problem:
        """What vLLM's refusal of an adapter means for whoever asked for it."""
        status, said = problem.details.get("upstream_status"), problem.en
        if not isinstance(status, int):
            return problem  # it did not answer
        if isinstance(problem, NotFound) and said.endswith("404 Not Found"):
            return Unsupported(
                "该 vLLM 未开启运行时加载适配器：请以 --enable-lora 与环境变量 VLLM_ALLOW_RUNTIME_LORA_UPDATING=True 启动它",
                "this vLLM does not take adapters while it runs: start it with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
            )
        if self._foreign and ("No adapter found" in said or "does not exist" in said):
            return Unsupported(
                f"vLLM 看不到适配器 {adapter.name} 的文件夹：它必须能以同样的路径读取主目录（同一台机器或共享文件系统）",
                f"vLLM cannot see the folder of the adapter {adapter.name}: it has to read the home folder under the "
                "same path, on the same machine or a shared file system",
                adapter=adapter.name,
            )
        if "max_lora_rank" in said:
            return Unsupported(
                f"适配器 {adapter.name} 的秩为 {adapter.rank}，超过 vLLM 启动时的上限："
                f"请设置 TUNESMITH_VLLM_ARGS='--max-lora-rank {_rank_for(adapter.rank)}' 并重新加载模型",
                f"the adapter {adapter.name} has rank {adapter.rank}, more than vLLM was started for: set "
                f"TUNESMITH_VLLM_ARGS='--max-lora-rank {_rank_for(adapter.rank)}' and load the model again",
                adapter=adapter.name,
                rank=adapter.rank,
            )
        if isinstance(problem, Unavailable) and (status != 500 or "EngineDead" in said):
            return problem
        return Invalid(
            f"vLLM 无法加载适配器 {adapter.name}（{said}）",
            f"vLLM cannot load the adapter {adapter.name} ({said})",
            adapter=adapter.name,
        )


def _most_tokens(request: Request) -> int:
    """Tokens the prompt cannot exceed: no token is shorter than a byte."""
    if isinstance(request.prompt, str):
        return len(request.prompt.encode("utf-8", "surrogatepass")) + 1
    texts = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.prompt)
    return texts + _A_MESSAGE * len(request.prompt) + _TEMPLATE


def _rank_for(rank: int) -> int:
    """The smallest limit vLLM knows that holds ``rank``."""
    return next((limit for limit in (8, 16, 32, 64, 128, 256, 320, 512) if limit >= rank), rank)
