"""Completions that have to satisfy a JSON schema: which tokens may come next, as llguidance says.

A schema becomes a grammar that is read lazily, token by token, so nothing is compiled for all of the vocabulary. What a
hostile schema may cost is limited in size, in the library's own fuel, and in how long a request waits for it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.kernel.problems import Invalid, Problem, Unavailable

_KEPT = 32  # grammars that were asked for last
_PATIENCE_S = 20.0
_SPACE = r"\x20|\x0A\x20{0,16}"  # as JSON is written, on a line or indented; small models would not stop at any
_LONGEST_REASON = 300
# Less than the library's own, so that no schema holds up the step of all rows for long; real ones need a hundredth.
_MOST_SYMBOLS = 20_000
_MOST_ITEMS_A_STEP = 20_000
_FUEL_A_STEP = 100_000
_BEGINNINGS = ("", "{", "[")  # tried when a schema comes: one that is too complex is told now, not in the answer


class Constraint:
    """What one row may say next. It follows what the row says, so each row has its own.

    Args:
        matcher: llguidance's, at the beginning of the grammar.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def complete(self) -> bool:
        """The completion satisfies the schema, and nothing can follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def problem(self) -> Problem | None:
        """Why it cannot go on; None while it can."""
        return _unusable(self._matcher.get_error()) if self._matcher.is_error() else None

    def mask(self, logits_V: Tensor) -> None:
        """Set the logits of tokens that may not come next to -inf; of all of them once it has failed."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed_V = torch.zeros(max(len(bits) * 8, len(logits_V)), dtype=torch.bool)
        if not self._matcher.is_error():
            allowed_V[: len(bits) * 8] = torch.from_numpy(np.unpackbits(bits, bitorder="little"))
        logits_V.masked_fill_(~allowed_V[: len(logits_V)].to(logits_V.device), -torch.inf)

    def take(self, token: int) -> None:
        """The row goes on with ``token``."""
        self._matcher.consume_token(token)


class Grammars:
    """Reads schemas for one tokenizer, one at a time and on a thread of its own, and keeps those asked for last.

    Args:
        tokenizer: its ``tokenizer.json`` as text; asked for once, when the first schema comes.
        ends: token ids that end a completion.
    """

    def __init__(self, tokenizer: Callable[[], str], ends: Collection[int]) -> None:
        self._describe, self._ends = tokenizer, sorted(ends)
        self._tokenizer: Any = None
        self._known: OrderedDict[str, Any] = OrderedDict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammars")

    async def constraint(self, schema: str) -> Constraint:
        """The constraint of a new row; the loop goes on meanwhile.

        Args:
            schema: JSON text of a JSON schema.

        Raises:
            Invalid: it is no schema, cannot be satisfied, uses what is not supported, or is too complex.
            Unavailable: it was not ready in time.
        """
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await asyncio.wrap_future(self._thread.submit(self._constraint, schema))
        except TimeoutError as error:
            raise Unavailable(
                f"JSON schema 在 {_PATIENCE_S:.0f} 秒内没有编译完，请简化它或稍后重试",
                f"the JSON schema was not compiled within {_PATIENCE_S:.0f} s; make it simpler, or ask again later",
                field="response_format",
            ) from error

    def _constraint(self, schema: str) -> Constraint:
        if schema not in self._known:
            self._known[schema] = self._compile(schema)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(schema)
        return Constraint(self._known[schema].deep_copy())

    def _compile(self, schema: str) -> Any:
        import llguidance

        if self._tokenizer is None:
            self._tokenizer = self._wrapped()
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                schema, overrides={"whitespace_pattern": _SPACE, "lenient": False}
            )
        except (ValueError, RecursionError) as error:
            raise _unusable(str(error)) from error
        limits = llguidance.LLParserLimits(
            max_grammar_size=_MOST_SYMBOLS,
            step_max_items=_MOST_ITEMS_A_STEP,
            step_lexer_fuel=_FUEL_A_STEP,
            verbose_errors=False,
        )
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        for beginning in _BEGINNINGS:
            tried = matcher.deep_copy()
            tried.try_consume_tokens(self._tokenizer.tokenize_str(beginning))
            tried.compute_bitmask()
            if tried.is_error():
                raise _unusable(tried.get_error())
        return matcher

    def _wrapped(self) -> Any:
        import llguidance

        try:
            return llguidance.LLTokenizer(self._describe(), eos_token=self._ends)
        except ValueError as error:
            said = _short(str(error))
            raise Invalid(
                f"该模型的分词器不支持 JSON schema：{said}",
                f"this model's tokenizer cannot be used with a JSON schema: {said}",
                field="response_format",
            ) from error


def _unusable(reason: str) -> Invalid:
    said = "no completion satisfies it" if reason.startswith("NoExtension") else _short(reason)
    return Invalid(f"JSON schema 无法使用：{said}", f"the JSON schema cannot be used: {said}", field="response_format")


def _short(reason: str) -> str:
    return (" ".join(reason.replace("<non-verbose/>", "").split()) or "unknown")[:_LONGEST_REASON]
