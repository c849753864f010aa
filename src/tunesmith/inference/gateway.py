"""One chat call over several services: what "local" and "openrouter" mean, who answers, and what it cost.

    openrouter   OpenRouter, by a key of the environment or one an admin has stored
    local        the built-in engine for a model of this machine; any other name is asked of Ollama where one is
                 configured, and where none is, the current model answers

A name nobody knows is answered by the service's default model, and the first event says who speaks.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Literal

from tunesmith.datasets.example import Message
from tunesmith.inference.chat import Chat
from tunesmith.inference.conversations import Begun, Conversations, Ending
from tunesmith.inference.engine import Delta, Done, Event, Sampling
from tunesmith.inference.model_ids import How, Listed, Resolved, hosted, local, needs_list
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.live_list import LiveList
from tunesmith.kernel.problems import NotFound, Problem, Unavailable
from tunesmith.models.model import Model
from tunesmith.models.spending import Spent

_RECENT_S = 5.0  # a list so old is shown as it is: a page may ask for it again and again
_JUST_S = 2.0  # a list so old may lack what was fetched meanwhile
Service = Literal["local", "openrouter"]
Answerer = Literal["builtin", "ollama", "openrouter"]


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who answers; known before the first word.

    Attributes:
        asked: the name the client wrote.
        how: how that name led to ``model``; see ``model_ids``.
        candidates: what an unclear name could have meant.
    """

    service: Service
    answerer: Answerer
    model: str
    asked: str | None = None
    how: How = "asked"
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What a client asks.

    Attributes:
        context: what the conversation is about; the model's system message, as it stands.
        service: None leaves it to us: OpenRouter where there is a key, else this machine.
        model: None or blank asks the service's default.
        conversation: goes on with the conversation of that id and keeps this turn; None keeps nothing.
    """

    message: str
    sampling: Sampling
    context: str | None = None
    service: Service | None = None
    model: str | None = None
    conversation: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """What one answerer can be asked for.

    Attributes:
        problem: why nothing can be asked of it now.
    """

    service: Service
    answerer: Answerer
    models: Sequence[Listed] = ()
    default: str | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Builtin:
    """The models of this machine.

    Attributes:
        find: the model of that name, or NotFound; the current one for None. With it the name of who answers: another
            where an alias was asked for. May read the database.
        names: every name that can be asked.
    """

    chat: Chat
    find: Callable[[str | None], Awaitable[tuple[str, Model]]]
    names: Callable[[], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Remote:
    """A service beside us.

    Attributes:
        models: what it offers, as far as is known.
        default: the model for names nobody knows; None leaves it to the list.
    """

    chat: Chat
    models: LiveList[Listed]
    default: str | None


class Gateway:
    """Chooses who answers, and keeps account of what it cost.

    Args:
        ollama: None where none is configured.
        key: OpenRouter's; None where there is none.
        spent: told of every complete answer of a remote service. It must not block.
    """

    def __init__(
        self,
        builtin: Builtin,
        ollama: Remote | None,
        openrouter: Remote,
        conversations: Conversations,
        key: Callable[[], Awaitable[str | None]],
        spent: Callable[[Spent], None],
    ) -> None:
        self._builtin, self._ollama, self._openrouter = builtin, ollama, openrouter
        self._conversations, self._key, self._spent = conversations, key, spent

    def answer(self, caller: Caller, question: Question) -> AsyncGenerator[Speaker | Event, None]:
        """Who speaks, then the answer as row 0.

        Raises:
            Invalid: the conversation, a sampling value or the model's name cannot be used.
            NotFound: Ollama has no model at all, or does not have the one with that full name.
            Unavailable: the service is not configured, not answering, or refuses our key.
            TooMany, TimedOut: as the service says.
        """
        if question.conversation is None:
            return self._answer(caller, question, ())
        return self._kept(caller, question, question.conversation)

    async def ollama_model(self, asked: str | None) -> str:
        """The Ollama model a client names; one that is loaded, or the newest, for None.

        Raises:
            Unavailable: no Ollama is configured, or it does not answer. NotFound: it has no such model, or none at all.
        """
        if self._ollama is None:
            raise no_ollama()
        asked = (asked or "").strip() or None
        found = await self._of_ollama(self._ollama, asked)
        if found.candidates:
            several = ", ".join(found.candidates[:10])
            raise NotFound(
                f"Ollama 中有多个 {asked}，请写明标签：{several}",
                f"Ollama has several models {asked}; name one with its tag: {several}",
                field="model_name",
            )
        if asked is not None and found.how == "default":
            raise NotFound(
                f"Ollama 中没有模型 {asked}：GET /ollama/models 列出已有的，POST /ollama/pull 拉取新的",
                f"Ollama has no model {asked}: GET /ollama/models lists what it has, POST /ollama/pull fetches more",
                field="model_name",
            )
        return found.model

    def ollama_chat(self) -> Chat:
        """For the conversations of dialects that ask Ollama by name.

        Raises:
            Unavailable: no Ollama is configured.
        """
        if self._ollama is None:
            raise no_ollama()
        return self._ollama.chat

    async def offers(self) -> list[Offer]:
        """What can be asked of each answerer now; what does not answer is listed with its problem.

        Without a key OpenRouter is not asked even for its list: nothing leaves this machine.
        """
        remotes = [self._hosted_offer()]
        if self._ollama is not None:
            remotes.insert(0, self._offer("local", "ollama", self._ollama))
        *others, hosted = await asyncio.gather(*remotes)
        current, _ = await self._builtin.find(None)
        names = await self._builtin.names()
        return [Offer("local", "builtin", [Listed(name) for name in names], current), *others, hosted]

    async def close(self) -> None:
        """Stop asking for lists."""
        await self._openrouter.models.close()
        if self._ollama is not None:
            await self._ollama.models.close()

    async def _answer(
        self, caller: Caller, question: Question, history: Sequence[Message]
    ) -> AsyncGenerator[Speaker | Event, None]:
        service = question.service or ("openrouter" if await self._key() else "local")
        choose = self._hosted if service == "openrouter" else self._local
        speaker, chat, model = await choose((question.model or "").strip() or None)
        yield speaker
        about = [Message("system", question.context)] if question.context and question.context.strip() else []
        messages = [*about, *history, Message("user", question.message)]
        async with aclosing(chat.answer(messages, model, question.sampling, caller.name)) as events:
            async for event in events:
                if isinstance(event, Done):
                    self._account(caller, speaker, event)
                yield event

    async def _kept(self, caller: Caller, question: Question, id: str) -> AsyncGenerator[Speaker | Event, None]:
        """As ``_answer``, after what was said before; the question is recorded before anybody is asked."""
        kept = self._conversations
        begun = await self._begun(caller, question, id)
        texts: list[str] = []
        speaker: Speaker | None = None
        state: Ending = "canceled"
        try:
            async with aclosing(self._answer(caller, question, begun.history)) as events:
                async for event in events:
                    if isinstance(event, Speaker):
                        speaker = event
                    elif isinstance(event, Delta):
                        texts.append(event.text)
                    elif event.finish != "canceled":
                        state = "completed"
                    yield event
        except Exception:  # a bug too has ended it
            state = "failed"
            raise
        finally:
            who = (speaker.service, speaker.model) if speaker else (None, None)
            await asyncio.to_thread(kept.end, begun, "".join(texts), state, *who)

    async def _begun(self, caller: Caller, question: Question, id: str) -> Begun:
        """Record the question; where the client leaves meanwhile, that its turn has ended too."""
        record = partial(self._conversations.begin, caller.name, id, question.message, question.context)
        recording = asyncio.ensure_future(asyncio.to_thread(record))
        try:
            return await asyncio.shield(recording)
        except asyncio.CancelledError:  # the thread goes on all the same
            await asyncio.wait({recording})
            if recording.exception() is None:
                await asyncio.to_thread(self._conversations.end, recording.result(), "", "canceled")
            raise

    async def _hosted(self, asked: str | None) -> tuple[Speaker, Chat, Model]:
        if not await self._key():
            raise no_key()
        remote = self._openrouter
        assert remote.default is not None
        listed = await remote.models.get(wait=needs_list(asked))
        found = hosted(asked, listed, remote.default)
        return _speaks("openrouter", "openrouter", found, asked), remote.chat, Model(found.model)

    async def _local(self, asked: str | None) -> tuple[Speaker, Chat, Model]:
        if asked is not None or self._ollama is None:
            try:
                name, model = await self._builtin.find(asked)
                how: How = "asked" if asked in (None, name) else "alias"
                return Speaker("local", "builtin", name, asked, how), self._builtin.chat, model
            except NotFound:
                if self._ollama is None:
                    name, model = await self._builtin.find(None)
                    return Speaker("local", "builtin", name, asked, "default"), self._builtin.chat, model
        found = await self._of_ollama(self._ollama, asked)
        return _speaks("local", "ollama", found, asked), self._ollama.chat, Model(found.model)

    async def _of_ollama(self, remote: Remote, asked: str | None) -> Resolved:
        found = local(asked, await remote.models.get(), remote.default)
        unknown = found is None or (asked is not None and found.how == "default")
        if unknown and (remote.models.problem is not None or (remote.models.age_s or 0.0) > _JUST_S):
            # it may have been fetched a moment ago
            found = local(asked, await remote.models.fresh(), remote.default)
        if found is None:
            raise NotFound(
                "Ollama 中没有模型：请先拉取一个（POST /ollama/pull?model_name=…）",
                "Ollama has no model: pull one first (POST /ollama/pull?model_name=…)",
            )
        return found

    async def _hosted_offer(self) -> Offer:
        try:
            if not await self._key():
                raise no_key()
        except Problem as problem:  # or the one that is stored cannot be opened
            return Offer("openrouter", "openrouter", (), self._openrouter.default, problem)
        return await self._offer("openrouter", "openrouter", self._openrouter)

    async def _offer(self, service: Service, answerer: Answerer, remote: Remote) -> Offer:
        try:
            known_s = remote.models.age_s
            recent = known_s is not None and known_s < _RECENT_S
            listed = await (remote.models.get() if recent else remote.models.fresh())
        except Problem as problem:
            return Offer(service, answerer, (), remote.default, problem)
        default = local(None, listed, remote.default) if answerer == "ollama" else None
        return Offer(service, answerer, listed, default.model if default else remote.default)

    def _account(self, caller: Caller, speaker: Speaker, done: Done) -> None:
        if speaker.answerer != "builtin":
            tokens, cost = (done.prompt_tokens, done.completion_tokens), done.cost_usd or 0.0
            self._spent(Spent(caller.name, speaker.answerer, done.spoke or speaker.model, *tokens, cost))


def _speaks(service: Service, answerer: Answerer, found: Resolved, asked: str | None) -> Speaker:
    return Speaker(service, answerer, found.model, asked, found.how, found.candidates)


def no_key() -> Unavailable:
    """OpenRouter cannot be asked without a key of ours."""
    return Unavailable(
        "未设置 OpenRouter 密钥：请设置环境变量 OPENROUTER_API_KEY，或由管理员保存密钥（tunesmith providers set-key openrouter）",
        "there is no OpenRouter key: set OPENROUTER_API_KEY, or have an admin store one "
        "(tunesmith providers set-key openrouter)",
        setting="OPENROUTER_API_KEY",
    )


def no_ollama() -> Unavailable:
    """Ollama is asked only where one is configured."""
    return Unavailable(
        "未配置 Ollama：请用环境变量 OLLAMA_HOST 指定地址（例如 http://127.0.0.1:11434）并重启服务；去掉 use_ollama 则由内置引擎回答",
        "no Ollama is configured: set OLLAMA_HOST (e.g. http://127.0.0.1:11434) and start the service again; without "
        "use_ollama the built-in engine answers",
        setting="OLLAMA_HOST",
    )
