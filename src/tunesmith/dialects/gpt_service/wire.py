"""Shapes of the gpt-service document, and the defaults that belong to it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.datasets.example import Message
from tunesmith.datasets.formats import SHAPES
from tunesmith.dialects.gpt_service import model_answers as answers
from tunesmith.dialects.gpt_service.ollama_answers import (
    OllamaModel,
    OllamaModels,
    OllamaPull,
    OllamaRunning,
    OllamaStatistics,
    PullStatus,
)
from tunesmith.evaluation.service import EvaluationRequest, Question
from tunesmith.http.errors import renamed
from tunesmith.http.sse import DONE, frame
from tunesmith.inference.chat import MAX_MESSAGES, MAX_PROMPTS
from tunesmith.inference.collect import Answer
from tunesmith.inference.engine import Delta, Event, Sampling
from tunesmith.inference.model_ids import Listed
from tunesmith.inference.ollama import OllamaStats
from tunesmith.inference.pull_store import Pull, PullState
from tunesmith.inference.served import Served
from tunesmith.kernel.problems import Problem
from tunesmith.training.run import Recipe

Number = Annotated[float, Field(allow_inf_nan=False)]


class Body(BaseModel):
    """Strict: "5" is no number. ``model_`` names are the document's own."""

    model_config = ConfigDict(strict=True, protected_namespaces=())


class Generation(Body):
    """What every generating body may carry."""

    model_name: str | None = None
    max_tokens: int = 512
    temperature: Number = 0.8
    top_p: Number = 0.9
    repetition_penalty: Number = 1.05
    use_ollama: bool = False
    top_k: int = 0
    seed: int | None = None
    stop: Annotated[list[str], Field(max_length=16, fail_fast=True)] = []

    def sampling(self) -> Sampling:
        return Sampling(
            max_new_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop=tuple(self.stop),
        )


class GenerateRequest(Generation):
    prompt: str


class Turn(Body):
    role: Literal["user", "assistant", "system"]
    content: str


class ChatRequest(Generation):
    messages: Annotated[list[Turn], Field(max_length=MAX_MESSAGES, fail_fast=True)]
    stream: bool = False

    def conversation(self) -> list[Message]:
        return [Message(turn.role, turn.content) for turn in self.messages]


class BatchRequest(Generation):
    prompts: Annotated[list[str], Field(max_length=MAX_PROMPTS, fail_fast=True)]


class LoadRequest(Body):
    model_name: str
    model_path: str | None = None
    lora_adapter: str | None = None


class TrainRequest(Body):
    """A recipe; the second block is what the document leaves out and users of LoRA set next.

    Unknown fields are refused: a mistyped one would cost hours of training with a default.
    """

    model_config = ConfigDict(strict=True, protected_namespaces=(), extra="forbid")

    base_model: str
    dataset_path: str
    output_dir: str | None = None
    num_epochs: int = 3
    batch_size: int = 4
    learning_rate: Number = 2e-4
    dataset_format: str | None = "json"

    validation_path: str | None = None
    replay_path: str | None = None
    replay_share: Number = 0.0
    lora_r: int = 8
    lora_alpha: Number = 16.0
    lora_dropout: Number = 0.05
    max_length: int | None = None
    quantization: Literal["int8", "int4"] | None = None
    seed: int = 42
    control_path: str | None = None
    objective: Literal["sft", "dpo"] = "sft"
    dpo_beta: Number = 0.1
    use_rslora: bool = False
    use_dora: bool = False
    target_modules: Annotated[list[str], Field(max_length=64)] = []
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Number = 0.03
    weight_decay: Number = 0.0
    gradient_accumulation_steps: int = 1
    eval_steps: int = 0
    load_best_model_at_end: bool = False
    early_stopping_patience: int = 0

    def recipe(self, context_length: int) -> Recipe:
        """The recipe; ``context_length`` is the base model's, for a length nobody named."""
        return Recipe(
            base_model=self.base_model,
            dataset=self.dataset_path,
            # "json" is the document's default and says little: the file's own ending is believed instead; the shape
            # of rows is told from the rows
            dataset_format=None if self.dataset_format in ("json", *SHAPES) else self.dataset_format,
            validation=self.validation_path,
            replay=self.replay_path,
            replay_share=self.replay_share,
            epochs=self.num_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            rank=self.lora_r,
            alpha=self.lora_alpha,
            dropout=self.lora_dropout,
            quantization=self.quantization,
            seed=self.seed,
            control=self.control_path,
            objective=self.objective,
            dpo_beta=self.dpo_beta,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            target_modules=tuple(self.target_modules),
            scheduler=self.lr_scheduler_type,
            warmup_ratio=self.warmup_ratio,
            weight_decay=self.weight_decay,
            gradient_accumulation=self.gradient_accumulation_steps,
            evaluate_every=self.eval_steps,
            keep_best=self.load_best_model_at_end,
            early_stopping=self.early_stopping_patience,
            max_length=min(1024, context_length) if self.max_length is None else self.max_length,
        )


class TestRow(Body):
    input: str
    expected: str = ""


class EvaluateRequest(Body):
    test_data: Annotated[list[TestRow], Field(max_length=10_000, fail_fast=True)]
    model_name: str | None = None
    metrics: Annotated[list[str], Field(max_length=16, fail_fast=True)] = ["perplexity", "exact_match", "bleu", "rouge"]
    compare: bool = False
    max_tokens: int = 256

    def request(self, served: Served) -> EvaluationRequest:
        """Greedy, so that the same evaluation gives the same figures."""
        greedy = Sampling(max_new_tokens=self.max_tokens, temperature=0, top_p=1, top_k=0, repetition_penalty=1)
        questions = tuple(Question((Message("user", row.input),), row.expected) for row in self.test_data)
        return EvaluationRequest(
            model=served.model,
            questions=questions,
            metrics=tuple(self.metrics),
            sampling=greedy,
            compare=self.compare,
            label=served.answers,
        )


def error(status: int, message: str, problem: Problem | None) -> dict[str, Any]:
    return {"detail": renamed(message, problem, _NAMES)}


_NAMES = {
    "dataset": "dataset_path",
    "validation": "validation_path",
    "replay": "replay_path",
    "output": "output_dir",
    "epochs": "num_epochs",
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "control": "control_path",
    "scheduler": "lr_scheduler_type",
    "gradient_accumulation": "gradient_accumulation_steps",
    "evaluate_every": "eval_steps",
    "keep_best": "load_best_model_at_end",
    "early_stopping": "early_stopping_patience",
}


def model(served: Served, device: str) -> answers.ServedModel:
    told: answers.ServedModel = {
        "name": served.name,
        "type": "local",
        "device": device,
        "lora_adapter": served.model.adapter,
        "is_current": served.is_current,
    }
    if served.version:
        told["version"] = served.version
    return told


def spoke(name: str, version: str | None) -> answers.Speaker:
    """Which model speaks: the name asked for, and where that led to a version (an addition), which one."""
    return {"model_name": name, "model_version": version} if version else {"model_name": name}


def generated(answer: Answer, served: Served) -> answers.Generated:
    return {
        "text": answer.text,
        **spoke(served.name, served.version),
        "tokens_generated": answer.done.completion_tokens,
    }


def chatted(answer: Answer, served: Served) -> answers.Chatted:
    """As ``generated``, with the turn to append to ``messages``."""
    message: answers.AssistantTurn = {"role": "assistant", "content": answer.text}
    return {"message": message, "response": answer.text, **generated(answer, served)}


class StreamEncoder:
    """``text`` frames, then one with ``done: true`` and the totals, then ``[DONE]``."""

    def __init__(self, name: str, language: str, version: str | None = None) -> None:
        self._name, self._version, self._language = name, version, language
        self._tokens, self._finish = 0, "stop"

    def event(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            return frame({"text": event.text, "done": False})
        self._tokens, self._finish = event.completion_tokens, event.finish
        return b""

    def end(self) -> bytes:
        totals = {"tokens_generated": self._tokens, "finish_reason": self._finish}
        return frame({"text": "", "done": True, **spoke(self._name, self._version), **totals}) + DONE

    def error(self, problem: Problem) -> bytes:
        return frame({"error": problem.message(self._language), "done": True}) + DONE


def ollama_models(found: Sequence[Listed]) -> OllamaModels:
    models: list[OllamaModel] = [
        {"name": each.id, "size": each.size_bytes, "modified_at": each.modified, "loaded": each.loaded}
        for each in found
    ]
    return {"models": models, "total_count": len(models)}


def ollama_stats(found: OllamaStats) -> OllamaStatistics:
    totals = found.totals
    running: list[OllamaRunning] = [
        {
            "name": each.name,
            "size": each.size_bytes,
            "size_vram": each.vram_bytes,
            "expires_at": each.expires_at,
            "context_length": each.context_length,
        }
        for each in found.running
    ]
    return {
        "status": "running",
        "version": found.version,
        "model_count": len(found.models),
        "total_size": sum(each.size_bytes or 0 for each in found.models),
        "running_models": running,
        "requests": {
            "total": totals.requests,
            "failed": totals.failures,
            "canceled": totals.canceled,
            "in_flight": totals.in_flight,
        },
        "tokens": {"prompt": totals.prompt_tokens, "generated": totals.completion_tokens},
        "tokens_per_second": totals.tokens_per_second and round(totals.tokens_per_second, 2),
    }


def pull(found: Pull, language: str) -> OllamaPull:
    """A pull; ``status`` is "success" only when Ollama said so, ``progress`` in percent, 100 no sooner."""
    return {
        "pull_id": found.id,
        "model_name": found.model,
        "status": _PULL[found.state],
        "detail": found.failure.message(language) if found.failure else found.status,
        "completed": found.completed_bytes,
        "total": found.total_bytes,
        "progress": 100.0 if found.state == "completed" else min(99.9, round(100 * found.fraction, 1)),
        "created_at": time_of(found.created_at),
        "completed_at": time_of(found.ended_at) if found.ended_at else None,
    }


_PULL: Mapping[PullState, PullStatus] = {
    PullState.RUNNING: "pulling",
    PullState.COMPLETED: "success",
    PullState.FAILED: "failed",
    PullState.CANCELED: "canceled",
}


class PullEncoder:
    """A frame at each change of a pull, then ``[DONE]``."""

    def __init__(self, language: str) -> None:
        self._language = language

    def event(self, event: Pull) -> bytes:
        return frame({**pull(event, self._language), "done": event.state.final})

    def end(self) -> bytes:
        return DONE

    def error(self, problem: Problem) -> bytes:
        return frame({"error": problem.message(self._language), "status": "failed", "done": True}) + DONE


def time_of(moment: datetime) -> str:
    """UTC without zone and fraction, as the document writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
