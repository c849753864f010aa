"""How Together's API writes things, as its official client reads them: for the stand-in `together_api.py`."""

import io
import json
import struct
import tarfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import zstandard
from aiohttp import web

FINAL = ("completed", "error", "user_error", "cancelled")
PRICE_A_TOKEN = 4.8e-7  # dollars
TOKENS_A_BYTE = 0.25
PROJECT = {"id": "proj_1", "name": "Acme", "slug": "acme"}
KINDS = {400: "invalid_request_error", 401: "invalid_request_error", 404: "not_found", 429: "rate_limit"}


@dataclass
class Refused(Exception):
    """An answer that is no success."""

    status: int
    message: str = "refused"
    code: str | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def answer(self, headers: dict[str, str] | None = None) -> web.Response:
        """As Together writes errors."""
        kind = KINDS.get(self.status, "server_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return web.json_response({"id": "req-1", "error": error, **self.more}, status=self.status, headers=headers)


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def event(kind: str, message: str, level: str = "info", **fields: Any) -> dict[str, Any]:
    """One thing that happened to a job."""
    return {
        "object": "fine-tune-event", "created_at": now(), "type": kind, "message": message, "level": level, **fields
    }  # fmt: skip


def limits(model: str, **fields: Any) -> dict[str, Any]:
    """What may be asked for a model."""
    return {
        "model_name": model,
        "default_gradient_accumulation_steps": 1,
        "lora_training": {
            "default_rank": 16, "max_rank": 64, "min_batch_size": 1, "max_batch_size": 64, "max_batch_size_dpo": 32,
            "target_modules": ["q", "k", "v", "o"],
        },
        "full_training": None,
        "min_learning_rate": 1e-8,
        "max_learning_rate": 0.1,
        "max_num_epochs": 20,
        "max_num_evals": 10,
        "max_num_checkpoints": 10,
        "max_seq_length_sft": 8192,
        "max_seq_length_dpo": 4096,
        "min_max_seq_length": 64,
        "merge_output_lora": True,
        "supports_full_training": False,
        "supports_reasoning": False,
        "supports_tools": False,
        "supports_vision": False,
        **fields,
    }  # fmt: skip


def supported(model: str, shown: str) -> dict[str, Any]:
    """An entry of the list of supported models."""
    return {
        "id": "ml_" + model.rpartition("/")[2].lower(),
        "name": model,
        "displayName": shown,
        "baseModel": "",
        "baseModelId": "ml_base",
        "capabilities": ["CAPABILITY_CHAT"],
        "createdAt": now(),
        "updatedAt": now(),
        "deploymentProfiles": [],
        "displayType": "chat",
        "inputModalities": ["MODALITY_TEXT"],
        "outputModalities": ["MODALITY_TEXT"],
        "products": ["PRODUCT_FINE_TUNING"],
        "publisher": model.partition("/")[0],
        "status": "SUPPORTED_MODEL_STATUS_SUPPORTED",
    }


def adapter_files(rank: int = 16) -> dict[str, bytes]:
    """A tiny adapter as PEFT keeps it."""
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj"]}
    tensors = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(tensors).encode()
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": struct.pack("<Q", len(header)) + header + struct.pack("<f", 1.0),
    }


def tarred(files: dict[str, bytes], *, mode: str = "w:gz", folder: str = "") -> bytes:
    """An archive of files; "zst" packs with Zstandard."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w" if mode == "zst" else mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if mode != "zst":
        return made.getvalue()
    return zstandard.ZstdCompressor().compress(made.getvalue())
