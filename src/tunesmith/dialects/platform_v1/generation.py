"""``/generate`` and ``/generate/batch``: text from the newest or the named model."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tunesmith.dialects.platform_v1.catalog import Catalog
from tunesmith.dialects.platform_v1.openapi import example, failures
from tunesmith.dialects.platform_v1.wire import WHOLE, Answer, Body, Filled, Number, Time, now
from tunesmith.http.door import caller_of
from tunesmith.http.sse import unless_left
from tunesmith.inference.chat import MAX_PROMPTS, Chat
from tunesmith.inference.collect import Answer as Collected
from tunesmith.inference.collect import collect
from tunesmith.inference.engine import Sampling

MAX_SEQUENCES = 64


class Generation(Body):
    """What both bodies carry.

    ``max_length`` is most tokens to generate, ``seed`` and ``repetition_penalty`` are additions to the document.
    """

    model_path: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    max_length: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] = 100
    temperature: Annotated[Number, Field(ge=0, le=10)] = 0.7
    top_p: Annotated[Number, Field(ge=1e-6, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=0, le=1_000_000), WHOLE] = 50
    num_return_sequences: Annotated[int, Field(ge=1, le=MAX_SEQUENCES), WHOLE] = 1
    repetition_penalty: Annotated[Number, Field(ge=0.01, le=10)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=1 << 63), WHOLE] | None = None

    def sampling(self) -> Sampling:
        return Sampling(
            max_new_tokens=self.max_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
        )


class GenerateRequest(Generation):
    model_config = example(
        {
            "prompt": "请解释量子计算的基本原理",
            "max_length": 200,
            "temperature": 0.8,
            "top_p": 0.95,
            "num_return_sequences": 1,
        }
    )

    prompt: Filled


class BatchRequest(Generation):
    model_config = example(
        {
            "prompts": ["请解释量子计算的基本原理", "简述人工智能在医疗领域的应用"],
            "max_length": 200,
            "temperature": 0.8,
        }
    )

    prompts: Annotated[list[Filled], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]


class GenerateAnswer(Answer):
    """``generation_time`` in seconds."""

    prompt: str
    generated_texts: list[str]
    model_path: str
    generation_time: float
    timestamp: Time


class BatchResult(Answer):
    prompt: str
    generated_texts: list[str]


class BatchAnswer(Answer):
    """Results in the order of the prompts; ``total_generation_time`` in seconds."""

    results: list[BatchResult]
    model_path: str
    total_generation_time: float
    timestamp: Time


def routes(chat: Chat, catalog: Catalog) -> APIRouter:
    """The two paths."""
    router = APIRouter(prefix="/generate", tags=["generation"], responses=failures(403, 404, 409, 503))

    async def answers(request: Request, body: Generation, prompts: list[str]) -> tuple[str, list[Collected]] | Response:
        caller = caller_of(request)
        model = await run_in_threadpool(catalog.model_for, body.model_path, caller)
        many = body.num_return_sequences
        events = chat.samples(prompts, model, body.sampling(), many, caller.name)
        found = await unless_left(request, collect(events, rows=len(prompts) * many))
        return found if isinstance(found, Response) else (model.adapter or model.base, found)

    @router.post("", response_model=GenerateAnswer)
    async def generate(request: Request, body: GenerateRequest) -> GenerateAnswer | Response:
        """Answer one prompt, ``num_return_sequences`` times."""
        found = await answers(request, body, [body.prompt])
        if isinstance(found, Response):
            return found
        path, texts = found
        return GenerateAnswer(
            prompt=body.prompt,
            generated_texts=[each.text for each in texts],
            model_path=path,
            generation_time=_seconds(texts),
            timestamp=now(),
        )

    @router.post("/batch", response_model=BatchAnswer)
    async def generate_batch(request: Request, body: BatchRequest) -> BatchAnswer | Response:
        """Answer many prompts, decoded together."""
        found = await answers(request, body, body.prompts)
        if isinstance(found, Response):
            return found
        path, texts = found
        many = body.num_return_sequences
        results = [
            BatchResult(prompt=prompt, generated_texts=[each.text for each in texts[i * many : (i + 1) * many]])
            for i, prompt in enumerate(body.prompts)
        ]
        return BatchAnswer(results=results, model_path=path, total_generation_time=_seconds(texts), timestamp=now())

    return router


def _seconds(texts: list[Collected]) -> float:
    """All rows start together: the slowest took as long as all of them."""
    return round(max(each.done.seconds for each in texts), 3)
