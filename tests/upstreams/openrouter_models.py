"""The list of models as OpenRouter gives it at ``GET /api/v1/models``."""

from collections.abc import Sequence
from typing import Any

# what the document of the chat gateway names
DOCUMENTED = (
    "mistralai/mistral-7b-instruct",
    "meta-llama/llama-2-7b-chat",
    "google/gemma-7b-it",
    "microsoft/phi-2",
    "nousresearch/nous-hermes-llama2-7b",
    "openchat/openchat-3.5",
    "anthropic/claude-3-haiku",
    "meta-llama/llama-2-13b-chat",
    "microsoft/phi-3-mini-4k-instruct",
    "microsoft/phi-3-mini-128k-instruct",
)
# one short name for two, with a variant and without, with a variant only, in capitals, and one that reasons
AWKWARD = (
    "a/same-name",
    "b/same-name",
    "x/model",
    "x/model:free",
    "y/only-free:free",
    "Cased/Mixed-Name",
    "z/think",
)
PROMPT_PRICE, COMPLETION_PRICE = "0.00000025", "0.00000125"


def described(ids: Sequence[str]) -> dict[str, Any]:
    """The body of the answer: prices are strings, in dollars a token."""
    return {"data": [_model(name) for name in ids], "total_count": len(ids), "links": {"next": None}}


def _model(name: str) -> dict[str, Any]:
    free = name.endswith(":free")
    return {
        "id": name,
        "canonical_slug": name.removesuffix(":free").lower() + "-2024-01-01",
        "hugging_face_id": None,
        "name": name.split("/")[-1],
        "created": 1_700_000_000,
        "description": "Nobody trained it. 没有人训练过。",
        "context_length": 32768,
        "architecture": {
            "modality": "text->text",
            "input_modalities": ["text"],
            "output_modalities": ["text"],
            "tokenizer": "Other",
            "instruct_type": None,
        },
        "pricing": {
            "prompt": "0" if free else PROMPT_PRICE,
            "completion": "0" if free else COMPLETION_PRICE,
            "request": "0",
            "image": "0",
        },
        "top_provider": {"context_length": 32768, "max_completion_tokens": None, "is_moderated": False},
        "per_request_limits": None,
        "supported_parameters": ["max_tokens", "temperature", "top_p", "stop", "seed"],
    }
