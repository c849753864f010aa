"""What the framework cannot know of this dialect's failures, for its OpenAPI description at ``/openapi.json``."""

from typing import Any

from fastapi import FastAPI
from pydantic import ConfigDict

from tunesmith.dialects.finetune.wire import ErrorAnswer, InvalidAnswer

_SCHEMAS = "#/components/schemas/"
_ALWAYS = (400, 401, 413, 422, 429, 500)
_SAID = {
    400: "无法解析，或未知的格式、策略、提供商 / cannot be parsed, or a format, strategy or provider nobody knows",
    401: "没有令牌，或令牌无效 / no token, or none that is valid",
    403: "禁止访问 / may not be reached",
    404: "不存在，或属于他人 / not there, or somebody else's",
    409: "冲突 / in the way of something else",
    413: "请求体过大 / the body is too large",
    422: "取值或数据无效 / a value or a row of the data will not do",
    429: "请求过于频繁 / asked too often",
    500: "服务器内部错误 / a bug",
    503: "暂不可用 / not now",
    504: "提供商没有及时应答 / the provider did not answer in time",
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The failures of a path: those any has, and ``statuses``.

    Their bodies are filled in when somebody asks for the description: the framework would make a validator for each of
    some hundred, every time the server starts.
    """
    return {status: {"description": _SAID[status]} for status in sorted({*_ALWAYS, *statuses})}


def example(value: dict[str, Any]) -> ConfigDict:
    """The document's example of a body."""
    return ConfigDict(json_schema_extra={"examples": [value]})


def form(fields: dict[str, Any], shown: dict[str, Any]) -> dict[str, Any]:
    """A multipart body with a file, described by hand: ``http/uploads.py`` reads it and not the framework."""
    schema = {
        "type": "object",
        "required": ["file"],
        "additionalProperties": False,
        "properties": {"file": {"type": "string", "format": "binary"}, **fields},
    }
    content = {"multipart/form-data": {"schema": schema, "example": shown}}
    return {"requestBody": {"required": True, "content": content}}


def install(app: FastAPI) -> None:
    """Let ``app`` describe itself with this dialect's own bodies of failures."""

    def description() -> dict[str, Any]:
        document = FastAPI.openapi(app)
        schemas = document["components"]["schemas"]
        for model in (ErrorAnswer, InvalidAnswer):
            schema = model.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}", mode="serialization")
            schemas |= {**schema.pop("$defs", {}), model.__name__: schema}
        for operation in [each for methods in document["paths"].values() for each in methods.values()]:
            for status, response in operation["responses"].items():
                if status != "200":
                    body = {"$ref": f"{_SCHEMAS}{(InvalidAnswer if status == '422' else ErrorAnswer).__name__}"}
                    response["content"] = {"application/json": {"schema": body}}
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        return document

    app.openapi = description  # type: ignore[method-assign]
