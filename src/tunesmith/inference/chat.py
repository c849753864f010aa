"""Asking models: one conversation, one conversation asked of base and tuned, many prompts at once."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from tunesmith.datasets.example import Message
from tunesmith.inference.engine import Engine, Event, Request, Sampling
from tunesmith.kernel.problems import Invalid
from tunesmith.models.model import Model

BASE, TUNED = 0, 1
MAX_MESSAGES = 2000
MAX_PROMPTS = 4096  # rows of one call
MAX_TOP_LOGPROBS = 20
_MAX_SCHEMA = 128 << 10  # characters


class Chat:
    """Checks what is asked, then asks the engine once: rows of one call share its batch.

    Args:
        on_use: told of each model of a call, once, when the engine has accepted the call. It must not block.
    """

    def __init__(self, engine: Engine, on_use: Callable[[Model], None] | None = None) -> None:
        self._engine, self._on_use = engine, on_use or (lambda model: None)

    def answer(
        self, messages: Sequence[Message], model: Model, sampling: Sampling, owner: str = ""
    ) -> AsyncGenerator[Event, None]:
        """Row 0 answers the conversation.

        Args:
            owner: see ``Request.owner``.

        Raises:
            Invalid: no message, or the last is not the user's, or a sampling value is out of range.
        """
        return self._generate([Request(_conversation(messages), model, check_sampling(sampling), owner)])

    def compare(
        self, messages: Sequence[Message], model: Model, sampling: Sampling, owner: str = ""
    ) -> AsyncGenerator[Event, None]:
        """Row BASE answers from the bare base, row TUNED from the model as it is.

        Raises:
            Invalid: as ``answer``.
        """
        asked, sampling = _conversation(messages), check_sampling(sampling)
        return self._generate([Request(asked, each, sampling, owner) for each in (model.bare(), model)])

    def batch(
        self, prompts: Sequence[str], model: Model, sampling: Sampling, owner: str = ""
    ) -> AsyncGenerator[Event, None]:
        """Row i answers ``prompts[i]``, each a user's first message.

        Raises:
            Invalid: no prompt, too many, or an empty one.
        """
        return self.samples(prompts, model, sampling, 1, owner)

    def samples(
        self, prompts: Sequence[str], model: Model, sampling: Sampling, n: int, owner: str = ""
    ) -> AsyncGenerator[Event, None]:
        """Rows ``i * n`` to ``i * n + n - 1`` answer ``prompts[i]`` independently of each other.

        With a seed the k-th answer to a prompt is drawn with ``seed + k``, so the call repeats.

        Raises:
            Invalid: as ``batch``; or ``n`` is less than 1, or makes more than ``MAX_PROMPTS`` rows, or more than 1 where
                answers are greedy and would all be the same.
        """
        _require_prompts(prompts)
        draws = _draws(check_sampling(sampling), n, MAX_PROMPTS // len(prompts))
        asked = [_question(prompt, f"prompts[{i}]") for i, prompt in enumerate(prompts)]
        return self._generate([Request(question, model, draw, owner) for question in asked for draw in draws])

    def complete(self, prompt: str, model: Model, sampling: Sampling, owner: str = "") -> AsyncGenerator[Event, None]:
        """Row 0 answers ``prompt`` as a user's first message."""
        return self._generate([Request(_question(prompt, "prompt"), model, check_sampling(sampling), owner)])

    def ask(
        self,
        prompts: Sequence[Sequence[Message] | str],
        model: Model,
        sampling: Sampling,
        *,
        n: int = 1,
        owner: str = "",
    ) -> AsyncGenerator[Event, None]:
        """Rows ``i * n`` to ``i * n + n - 1`` answer ``prompts[i]``: a conversation, or raw text that is continued.

        A conversation may end with anybody's turn, and a turn may be empty: what the model's template renders is asked.
        Seeds differ as in ``samples``; greedy rows of one prompt are alike.

        Args:
            owner: see ``Request.owner``.

        Raises:
            Invalid: no prompt, an empty one, too many rows, or a sampling value is out of range.
        """
        _require_prompts(prompts)
        _require_count(n, MAX_PROMPTS // len(prompts))
        draws = _seeded(check_sampling(sampling), n)
        asked = [_raw(prompt) if isinstance(prompt, str) else _turns(prompt) for prompt in prompts]
        return self._generate([Request(prompt, model, draw, owner) for prompt in asked for draw in draws])

    async def _generate(self, rows: Sequence[Request]) -> AsyncGenerator[Event, None]:
        """The engine's events. The first says that it has admitted every row: what it refuses is no use."""
        async with aclosing(self._engine.generate(rows)) as events:
            told = False
            async for event in events:
                if not told:
                    told = True
                    for model in dict.fromkeys(row.model for row in rows):
                        self._on_use(model)
                yield event


def _require_prompts(prompts: Sequence[object]) -> None:
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise Invalid(
            f"prompts 应有 1 到 {MAX_PROMPTS} 条，得到 {len(prompts)} 条",
            f"prompts must hold 1 to {MAX_PROMPTS} entries, got {len(prompts)}",
            field="prompts",
        )


def _require_count(n: int, most: int) -> None:
    if not 1 <= n <= most:
        raise Invalid(
            f"num_return_sequences 应在 1 .. {most} 之间（提示数乘以它最多 {MAX_PROMPTS}），得到 {n}",
            f"num_return_sequences must be in 1 .. {most} (times the prompts at most {MAX_PROMPTS}), got {n}",
            field="num_return_sequences",
            limit=most,
        )


def _draws(sampling: Sampling, n: int, most: int) -> list[Sampling]:
    """``n`` settings that draw different answers; each is the given one but for its seed."""
    _require_count(n, most)
    if n > 1 and (sampling.temperature == 0 or sampling.top_k == 1):
        raise Invalid(
            "贪心解码的多个回答必然相同：请把 num_return_sequences 设为 1，或提高 temperature 与 top_k",
            "greedy answers are all the same: set num_return_sequences to 1, or raise temperature and top_k",
            field="num_return_sequences",
        )
    return _seeded(sampling, n)


def _seeded(sampling: Sampling, n: int) -> list[Sampling]:
    if sampling.seed is None:
        return [sampling] * n
    step = 1 if sampling.seed >= 0 else -1  # away from zero: a generator may take a seed by its magnitude
    # within 63 bits, which every engine takes; the first keeps the seed as it is
    return [sampling, *(replace(sampling, seed=(sampling.seed + k * step) % (step << 63)) for k in range(1, n))]


def _question(prompt: str, field: str) -> tuple[Message, ...]:
    if not prompt.strip():
        raise Invalid(f"{field} 不能为空", f"{field} must not be empty", field=field)
    return (Message("user", _text(prompt, field)),)


def _raw(prompt: str) -> str:
    if not prompt:
        raise Invalid("prompt 不能为空", "prompt must not be empty", field="prompt")
    return _text(prompt, "prompt")


def _turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    if not messages:
        raise Invalid("messages 不能为空", "messages must not be empty", field="messages")
    if len(messages) > MAX_MESSAGES:
        raise Invalid(f"messages 最多 {MAX_MESSAGES} 条", f"messages holds more than {MAX_MESSAGES}", field="messages")
    for i, message in enumerate(messages):
        _text(message.content, f"messages[{i}].content")
    return tuple(messages)


def _conversation(messages: Sequence[Message]) -> tuple[Message, ...]:
    asked = _turns(messages)
    if messages[-1].role != "user":
        raise Invalid(
            f"最后一条消息应来自 user，得到 {messages[-1].role}",
            f"the last message must be the user's, got {messages[-1].role}",
            field=f"messages[{len(messages) - 1}].role",
        )
    if not messages[-1].content.strip():
        raise Invalid(
            "最后一条消息的 content 不能为空", "the last message's content must not be empty", field="messages"
        )
    return asked


def _text(text: str, field: str) -> str:
    """JSON may smuggle in half a character, which no tokenizer can take."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"{field} 含有无效字符", f"{field} holds a lone surrogate", field=field) from error
    return text


def check_sampling(sampling: Sampling) -> Sampling:
    """``sampling`` itself. Every dialect fills in its own defaults; what a value may be is the same for all.

    Raises:
        Invalid: a value is no number or out of range; the field is named.
    """
    limits: tuple[tuple[str, float, float, float, str], ...] = (
        ("max_tokens", sampling.max_new_tokens, 1, 1_000_000, "1 .. 1000000"),
        ("temperature", sampling.temperature, 0, 10, "0 .. 10"),
        ("top_p", sampling.top_p, 1e-6, 1, "(0, 1]"),
        ("top_k", sampling.top_k, 0, 1_000_000, "0 .. 1000000"),
        ("repetition_penalty", sampling.repetition_penalty, 0.01, 10, "(0, 10]"),
        ("min_p", sampling.min_p, 0, 1, "0 .. 1"),
        ("presence_penalty", sampling.presence_penalty, -2, 2, "-2 .. 2"),
        ("frequency_penalty", sampling.frequency_penalty, -2, 2, "-2 .. 2"),
        ("top_logprobs", sampling.top_logprobs or 0, 0, MAX_TOP_LOGPROBS, f"0 .. {MAX_TOP_LOGPROBS}"),
    )
    for name, value, low, high, said in limits:
        if not low <= value <= high:  # not a number is in no range
            got = str(value)[:40]
            raise Invalid(f"{name} 应在 {said} 之间，得到 {got}", f"{name} must be in {said}, got {got}", field=name)
    if len(sampling.schema or "") > _MAX_SCHEMA:
        raise Invalid(
            f"schema 最多 {_MAX_SCHEMA} 个字符", f"schema takes up to {_MAX_SCHEMA} characters", field="schema"
        )
    if len(sampling.stop) > 16 or any(not 1 <= len(stop) <= 256 for stop in sampling.stop):
        raise Invalid(
            "stop 最多 16 条，每条 1 到 256 个字符", "stop takes up to 16 strings of 1 to 256 characters", field="stop"
        )
    return sampling
