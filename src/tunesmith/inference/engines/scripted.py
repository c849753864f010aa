"""A fake engine: no model, no process, the same answers every time. For tests and for trying the page without a model.

It keeps the promises of the ``Engine`` port and passes the same contract suite as the real one. One word counts as one
token.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace

from tunesmith.inference.engine import Delta, Done, Event, FinishReason, Reference, Request, Score, TokenLogprob
from tunesmith.inference.engines.openai_wire import check_sampling
from tunesmith.inference.merge import merged
from tunesmith.kernel.problems import Invalid, NotFound, Unavailable
from tunesmith.models.model import Model

_WORDS = (*"甲乙丙丁戊己庚辛壬癸", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_LENGTH = 40

Reply = Callable[[Request], str | None]


def no_reply(request: Request) -> str | None:
    """Leaves every answer to the fake's own words."""
    return None


class ScriptedEngine:
    """A fake ``Engine``.

    Args:
        reply: the answer to a request, or None for words that depend on prompt, model and sampling only.
        models: the models it knows; None for any.
        delay_s: pause before each word.
        fail_after: raise Unavailable after so many events of a call; None never.
        context: most words of prompt and completion together.
    """

    def __init__(
        self,
        reply: Reply = no_reply,
        *,
        models: Collection[Model] | None = None,
        delay_s: float = 0.0,
        fail_after: int | None = None,
        context: int = 512,
    ) -> None:
        self._reply, self._models, self._context = reply, models, context
        self._delay_s, self._fail_after = delay_s, fail_after
        self.rows = 0  # asked for and not yet ended
        self.asked: list[Request] = []  # every request so far, for tests to look at

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        """See ``Engine.generate``."""
        for request in requests:
            self._check(request)
        self.asked += requests
        self.rows += len(requests)
        left = len(requests)
        events = merged([self._row(row, request) for row, request in enumerate(requests)])
        try:
            async with aclosing(events):
                count = 0
                async for event in events:
                    if count == self._fail_after:
                        raise Unavailable("演示引擎按设定失败", "the scripted engine fails here, as it was told to")
                    count += 1
                    ended = isinstance(event, Done)
                    left, self.rows = left - ended, self.rows - ended
                    yield event
        finally:
            self.rows -= left

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        """Every word costs between 0.1 and 2, the end one; always the same for the same reference."""
        scores = []
        for reference in references:
            self._known(reference.model)
            words = reference.completion.split()
            _require_room(sum(len(m.content.split()) for m in reference.prompt) + len(words), self._context)
            draws = random.Random(repr(reference))
            scores.append(Score(-1.0 - sum(draws.uniform(0.1, 2.0) for _ in words), len(words) + 1))
        return scores

    def _check(self, request: Request) -> None:
        check_sampling(request.sampling)
        self._known(request.model)
        if not request.prompt:
            raise Invalid("消息不能为空", "the conversation is empty", field="messages")
        _require_room(_prompt_tokens(request) + 1, self._context)

    def _known(self, model: Model) -> None:
        if self._models is not None and model not in self._models:
            name = model.adapter or model.base
            raise NotFound(f"模型不存在：{name}", f"no model {name}", model=name)

    async def _row(self, row: int, request: Request) -> AsyncGenerator[Event, None]:
        started = time.monotonic()
        pieces, finish = self._script(request)
        first = 0.0
        report = request.sampling.top_logprobs
        for place, piece in enumerate(pieces):
            await asyncio.sleep(self._delay_s)
            first = first or time.monotonic() - started
            if report is not None:
                yield Delta(row, piece, (_logprob(piece, place, report),))
            elif piece:
                yield Delta(row, piece)
        seconds = time.monotonic() - started
        yield Done(row, finish, _prompt_tokens(request), len(pieces), first, seconds)

    def _script(self, request: Request) -> tuple[list[str], FinishReason]:
        sampling = request.sampling
        answer = self._reply(request)
        if answer is None:
            # Greedy answers depend on what was asked alone; sampled ones also on the seed.
            greedy = replace(sampling, seed=None, max_new_tokens=1, stop=(), top_logprobs=None)
            chance = sampling.seed if sampling.temperature and sampling.seed is not None else None
            lucky = sampling.temperature and sampling.seed is None
            draws = random.Random(None if lucky else repr((request.prompt, request.model, greedy, chance)))
            answer = " ".join(draws.choices(_WORDS, k=_LENGTH))
        pieces = [word + " " for word in answer.split(" ")]
        pieces[-1] = pieces[-1][:-1]
        room = min(sampling.max_new_tokens, self._context - _prompt_tokens(request))
        finish: FinishReason = "length" if len(pieces) > room else "stop"
        pieces = pieces[:room]
        text = "".join(pieces)
        ends = [at for at in (text.find(stop) for stop in sampling.stop) if at >= 0]
        if not ends:
            return pieces, finish
        return _cut(pieces, min(ends)), "stop"


def _logprob(piece: str, place: int, top: int) -> TokenLogprob:
    """A made-up share, the same for the same word in the same place; it is always the likeliest."""
    share = -random.Random(f"{place} {piece}").uniform(0.01, 1.0)
    others = (word for word in _WORDS if word != piece.strip())
    likeliest = [
        TokenLogprob(piece, share, piece.encode()),
        *(TokenLogprob(word, share - 1.0 - rank, word.encode()) for rank, word in enumerate(others)),
    ]
    return TokenLogprob(piece, share, piece.encode(), tuple(likeliest[:top]))


def _cut(pieces: list[str], length: int) -> list[str]:
    """The pieces up to ``length`` characters; the one the stop string lies in counts, with what precedes it."""
    kept = []
    for piece in pieces:
        kept.append(piece[: max(0, length)])
        length -= len(piece)
        if length < 0:
            break
    return kept


def _prompt_tokens(request: Request) -> int:
    texts = [request.prompt] if isinstance(request.prompt, str) else [message.content for message in request.prompt]
    return sum(len(text.split()) for text in texts)


def _require_room(tokens: int, context: int) -> None:
    if tokens > context:
        raise Invalid(
            f"输入过长：共 {tokens} 个 token，模型上下文为 {context} 个",
            f"too long: {tokens} tokens, and the model's context is {context}",
            context_length=context,
        )
