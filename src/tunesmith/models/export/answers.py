"""Greedy answers of a transformers model: our base with the adapter applied by us, or what was exported (torch)."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.kernel.imports import importing
from tunesmith.kernel.problems import Invalid
from tunesmith.models.export.adapter import Change, Lora
from tunesmith.models.export.parity import END, Answer
from tunesmith.models.export.tensors import stored


class Tokens:
    """A model folder's tokenizer and chat template."""

    def __init__(self, folder: Path) -> None:
        with importing():
            from transformers import AutoTokenizer, GenerationConfig

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        ends = _ids(self._tokenizer.eos_token_id)
        if (folder / "generation_config.json").is_file():
            ends |= _ids(GenerationConfig.from_pretrained(folder).eos_token_id)
        self.ends = ends

    @property
    def has_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    def prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """A question's tokens; its last turn as it stands where the model has no chat template.

        Raises:
            Invalid: the template refuses it.
        """
        if not self.has_template:
            return list(self._tokenizer(messages[-1]["content"])["input_ids"])
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program, and may fail in any way
            raise Invalid(f"对话模板拒绝了问题：{error}", f"the chat template refuses a question: {error}") from error
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones shown."""
        return str(self._tokenizer.decode(list(tokens)))


class Speaker:
    """A model that answers greedily, one question at a time: no padding, nothing that depends on the others."""

    def __init__(self, model: Any, ends: frozenset[int]) -> None:
        self._model, self._ends = model.eval(), ends

    def answer(self, prompt: Sequence[int], most: int) -> Answer:
        """At most ``most`` tokens; END last if it ended by itself."""
        given, past, said, scores = list(prompt), None, list[int](), list[float]()
        while len(said) < most and END not in said[-1:]:
            found = self._model(input_ids=torch.tensor([given]), past_key_values=past, use_cache=True)
            logits: Tensor = found.logits[0, -1].float()
            token = int(logits.argmax())
            said.append(END if token in self._ends else token)
            scores.append(float(logits.log_softmax(0)[token]))
            past, given = found.past_key_values, [token]
        return Answer(list(prompt), said, scores)

    def scores(self, answer: Answer) -> list[float]:
        """Log-probability of each of the answer's tokens, as it would say them."""
        said = [next(iter(self._ends), 0) if token == END else token for token in answer.tokens]
        ids = torch.tensor([[*answer.prompt, *said]])
        logits = self._model(input_ids=ids, use_cache=False).logits[0, len(answer.prompt) - 1 : -1].float()
        rows = zip(logits.log_softmax(1), answer.tokens, strict=True)
        return [self._score(row, [token], 0) for row, token in rows]

    def margin(self, prompt: Sequence[int], said: Sequence[int], other: Sequence[int], place: int) -> float:
        """Nats by which it prefers what it said at ``place`` to what another said there."""
        logits = self._model(input_ids=torch.tensor([[*prompt, *said[:place]]]), use_cache=False).logits[0, -1].float()
        mine, theirs = (self._score(logits, tokens, place) for tokens in (said, other))
        return mine - theirs

    def _score(self, logits: Tensor, tokens: Sequence[int], place: int) -> float:
        # an answer that is cut off where the other goes on stopped for no reason the model knows
        token = tokens[place] if place < len(tokens) else END
        return max(float(logits[end]) for end in (self._ends if token == END else (token,)))


def loaded(folder: Path) -> Any:
    """The model in ``folder``, frozen, on the CPU: in float32 where that fits into half of the free memory."""
    import psutil

    with importing():
        import transformers.modeling_utils  # noqa: F401  (what every architecture's own module imports)
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

    logging.disable_progress_bar()
    gc.collect()  # the one before must be gone when room is counted
    weights = sum(tensor.size // (4 if tensor.dtype == "F32" else 2) for tensor in stored(folder).values())
    fits = 4 * weights < psutil.virtual_memory().available / 2
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32 if fits else "auto",
    )
    return model.requires_grad_(False)


def with_peft(model: Any, folder: Path) -> Any:
    """``model`` wearing the adapter in ``folder`` as PEFT puts it on."""
    import warnings

    with importing():
        from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name on its way out
        return PeftModel.from_pretrained(model, str(folder))


def with_ours(model: Any, lora: Lora) -> Any:
    """``model`` wearing ``lora`` as we put it on: beside the weights, in float32, nothing merged.

    Raises:
        Invalid: the model has no such layer.
    """
    for name, change in lora.changes.items():
        try:
            layer = model.get_submodule(name)
        except AttributeError as error:
            raise Invalid(f"基座中没有模块 {name}", f"the base has no module {name}") from error
        layer.forward = _Worn(layer, change)
    return model


@contextmanager
def bare(model: Any) -> Iterator[None]:
    """Without what ``with_ours`` put on."""
    worn = [module.forward for module in model.modules() if isinstance(module.forward, _Worn)]
    for forward in worn:
        forward.on = False
    try:
        yield
    finally:
        for forward in worn:
            forward.on = True


class _Worn:
    """Stands in for one linear layer's ``forward``."""

    on = True

    def __init__(self, layer: Any, change: Change) -> None:
        self._plain, self._bias = layer.forward, layer.bias
        self._a, self._b = torch.from_numpy(change.a), torch.from_numpy(change.b) * change.scaling
        self._factor: Tensor | None = None
        if change.magnitude is not None:
            weight = layer.weight.float()
            whole = (weight.T if change.transposed else weight) + self._b @ self._a
            self._factor = torch.from_numpy(change.magnitude) / torch.linalg.vector_norm(whole, dim=1)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self._plain(x)
        if not self.on:
            return y
        added = nn.functional.linear(nn.functional.linear(x.float(), self._a), self._b)
        if self._factor is None:
            return y + added.to(y.dtype)
        bias = 0.0 if self._bias is None else self._bias.float()
        return ((y.float() - bias + added) * self._factor + bias).to(y.dtype)


def computes_in_float32(model: Any) -> bool:
    """Whether the model's own numbers are float32."""
    return bool(next(model.parameters()).dtype == torch.float32)


def _ids(value: int | list[int] | None) -> frozenset[int]:
    return frozenset(() if value is None else (value,) if isinstance(value, int) else map(int, value))
