"""``python -m tunesmith.models.export.llama``: greedy answers of a GGUF file from a real llama.cpp (``xllamacpp``)."""

import json
import time
from itertools import takewhile
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import msgspec

from tunesmith.kernel.problems import Invalid, Unavailable
from tunesmith.models.export import children
from tunesmith.models.export.parity import END, Answer

_START_S = 600.0  # a large model is read from the disk first
_ANSWER_S = 3600.0
_LOOK_EVERY_S = 0.02


class Order(msgspec.Struct, frozen=True):
    """What llama.cpp is asked.

    Attributes:
        model, lora: GGUF files.
        context: positions of question and answer together.
        as_chat: the questions go through the file's own chat template; else their last turn as it stands.
    """

    model: str
    lora: str | None
    context: int
    threads: int
    max_tokens: int
    questions: list[list[dict[str, str]]]
    as_chat: bool = True


def answer(order: Order) -> list[Answer]:
    """What the model in the file says, through the file's own template and tokenizer.

    Raises:
        Invalid: llama.cpp refuses the file or a question. Unavailable: it does not come up.
    """
    server = _serving(order)
    url = str(server.listening_address)
    _wait_until_loaded(url)
    return [_answered(url, order, question) for question in order.questions]


def _serving(order: Order) -> Any:
    import xllamacpp  # type: ignore[import-untyped]

    wanted = xllamacpp.CommonParams()
    wanted.model.path = order.model
    if order.lora is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = order.lora, 1.0
        wanted.lora_adapters = [lora]
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = 0
    wanted.n_parallel = 1
    wanted.n_ctx = order.context
    wanted.warmup = False
    wanted.verbosity = 0
    wanted.use_jinja = True
    # what is compared is the file: neither the cache nor flash attention, which halves precision inside, may round too
    wanted.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    wanted.cache_type_k = wanted.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = order.threads
    try:
        return xllamacpp.Server(wanted)
    except RuntimeError as error:
        raise Invalid(f"llama.cpp 拒绝了该文件：{error}", f"llama.cpp refuses the file: {error}") from error


def _answered(url: str, order: Order, question: list[dict[str, str]]) -> Answer:
    text = question[-1]["content"]
    if order.as_chat:
        text = _posted(url, "/apply-template", {"messages": question})["prompt"]
    prompt = _posted(url, "/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
    greedy = {
        "temperature": 0,
        "top_k": 1,
        "repeat_penalty": 1,
        "cache_prompt": False,
        "return_tokens": True,
        "n_probs": 1,
    }
    said = _posted(url, "/completion", {"prompt": prompt, "n_predict": order.max_tokens, **greedy})
    tokens = list(said["tokens"])
    scores = [
        one["logprob"]
        for _, one in takewhile(
            lambda pair: pair[0] == pair[1]["id"], zip(tokens, said.get("completion_probabilities", ()), strict=False)
        )
    ]  # it leaves those out that end within a character; after the first of them nobody knows which is whose
    if said["stop_type"] == "eos":
        tokens.append(END)
    return Answer(prompt, tokens, scores)


def _posted(url: str, path: str, body: dict[str, Any]) -> Any:
    request = Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=_ANSWER_S) as reply:
            return json.load(reply)
    except HTTPError as error:
        with error:
            said = error.read().decode(errors="replace")[:300]
        raise Invalid(f"llama.cpp 拒绝了问题：{said}", f"llama.cpp refuses a question: {said}") from error


def _wait_until_loaded(url: str) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        try:
            with urlopen(url + "/health", timeout=5):
                return
        except HTTPError as still_loading:
            still_loading.close()
        except (URLError, OSError):
            pass
        time.sleep(_LOOK_EVERY_S)
    raise Unavailable("llama.cpp 未能启动", "llama.cpp did not come up")


if __name__ == "__main__":
    children.answer(Order, answer)
