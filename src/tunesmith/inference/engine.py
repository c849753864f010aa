"""The engine port. One verb for chat, compare, batch and evaluation; one more to score references."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tunesmith.datasets.example import Message
from tunesmith.models.model import Model

FinishReason = Literal["stop", "length", "canceled"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. Every value comes from the dialect; what few dialects know is off by default.

    Attributes:
        max_new_tokens: most tokens to generate, at least 1.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: nucleus mass in (0, 1]; 1 keeps all.
        top_k: most candidates kept; 0 keeps all.
        repetition_penalty: 1 is none (CTRL, arXiv:1909.05858, over prompt and completion).
        seed: draws repeat with the same seed; None draws anew.
        stop: strings that end the completion and are not part of it.
        min_p: least probability kept, as a share of the most likely token's (arXiv:2407.01082); 0 keeps all.
        presence_penalty: taken once from the logit of every token the completion holds already (OpenAI's).
        frequency_penalty: taken for each time it holds it.
        schema: JSON text of a JSON schema the completion has to satisfy; None asks for none.
        top_logprobs: report the log-probability of every token, and of so many most likely ones; None reports none.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int | None = None
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    schema: str | None = None
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One row: a conversation (or a raw prompt), the model that answers it, and how to sample.

    Attributes:
        prompt: a conversation to be rendered with the base model's chat template, or raw text continued as it stands.
        owner: whose it is. What an engine keeps of a prompt is used again for the same owner alone.
    """

    prompt: tuple[Message, ...] | str
    model: Model
    sampling: Sampling
    owner: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of a completion, as likely as the model held it: natural logarithm, before temperature and limits.

    Attributes:
        text: it alone, decoded; where it ends inside a character, with U+FFFD.
        raw: its bytes, which are whole when ``text`` is not; empty where the engine does not know them.
        top: the most likely tokens in its place, most likely first, each without ``top`` of its own.
    """

    text: str
    logprob: float
    raw: bytes = b""
    top: "tuple[TokenLogprob, ...]" = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of row ``row``; never half a character, and empty only where it carries log-probabilities.

    Attributes:
        logprobs: of the tokens that came since the last delta, where they were asked for.
    """

    row: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """Row ``row`` has ended; nothing follows for it.

    Attributes:
        first_token_s: seconds from the request to its first token; 0 where nothing was generated.
        seconds: seconds from the request to its end.
        cost_usd: what the upstream charges for it, where it says so.
        spoke: the model that answered, as the upstream names it, where it says so.
    """

    row: int
    finish: FinishReason
    prompt_tokens: int
    completion_tokens: int
    first_token_s: float
    seconds: float
    cost_usd: float | None = None
    spoke: str | None = None


Event = Delta | Done


@dataclass(frozen=True, slots=True)
class Reference:
    """A conversation and the completion its author wants; the unit of perplexity."""

    prompt: tuple[Message, ...]
    completion: str
    model: Model


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a reference is.

    Attributes:
        logprob: sum of the natural log-probabilities of the completion's tokens, its end token included.
        tokens: how many tokens that is.
    """

    logprob: float
    tokens: int


class Engine(Protocol):
    """Generates text. One verb for chat, compare, batch and evaluation."""

    def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        """Complete every request, interleaving their events as they come.

        Each row yields zero or more Delta, then exactly one Done. Closing the generator stops decoding within one
        step and frees the rows. All rows are admitted before the first event is yielded, or none is.

        Raises:
            Invalid: a prompt does not fit the context, or the conversation cannot be rendered.
            NotFound: a base model or adapter is not there.
            Unavailable: the engine cannot be reached, has crashed or is out of memory.
        """
        ...

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        """Log-probabilities of each reference's completion given its prompt, in order.

        Raises:
            Invalid: prompt and completion together do not fit the context.
            NotFound: a base model or adapter is not there.
            Unsupported: this engine does not report log-probabilities.
            Unavailable: the engine cannot be reached or has crashed.
        """
        ...
