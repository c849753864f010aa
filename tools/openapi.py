"""What each dialect says of itself, in ``build/openapi/``; ``make types`` makes TypeScript of it, in ``web/src/api/schema/``.

    python -m tools.openapi

No server is started: the applications are built on an empty home folder and asked for their descriptions.
"""

import hashlib
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from tunesmith.app import compose
from tunesmith.asgi import create_app
from tunesmith.settings import Settings

FOLDER = Path(__file__).parents[1] / "build/openapi"
_PREFIXES = {
    "gpt_service": "",
    "platform_v1": "/api/v1",
    "chat_gateway": "/api/chat",
    "finetune": "/api/finetune",
    "openai": "/v1",
}


def descriptions() -> Mapping[str, dict[str, Any]]:
    """The OpenAPI document of every dialect by its name, its paths as they are on the port."""
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one function refuses many paths, under one name
        services = compose(Settings(Path(home)))
        try:
            dialects = create_app(services, wants_token=False)._app  # type: ignore[attr-defined]
            apps: Mapping[str, FastAPI] = {"": dialects._rest, **dialects._by_prefix}
            return {name: _placed(apps[prefix].openapi(), prefix) for name, prefix in _PREFIXES.items()}
        finally:
            services.database.close()


def _placed(document: dict[str, Any], prefix: str) -> dict[str, Any]:
    paths = {prefix + path: each for path, each in document["paths"].items()}
    if prefix == _PREFIXES["openai"]:  # a function of many methods is named after any one of them, each time another
        paths = {path: {verb: _unnamed(each) for verb, each in verbs.items()} for path, verbs in paths.items()}
    return {**document, "paths": paths}


def _unnamed(operation: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in operation.items() if name != "operationId"}


def texts() -> Mapping[str, str]:
    """The files by their names: one a dialect, and ``digests.json``, by which it is seen whether what was made is stale."""
    found = {
        f"{name}.json": json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
        for name, document in descriptions().items()
    }
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in found.items()}
    return {**found, "digests.json": json.dumps(digests, indent=1) + "\n"}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
