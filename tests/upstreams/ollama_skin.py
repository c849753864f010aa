"""An Ollama-compatible fake (not Ollama), in front of a real llama.cpp server or of canned text.

What a name contains decides: ``think`` thinks first (other models refuse ``think``), ``busy`` is 503, ``mid`` breaks in
the middle of an answer. Pulling: ``missing`` is unknown, ``broken`` breaks at half, ``nosuccess`` ends without success,
``slow`` takes a minute, ``stall`` stops after the first part; parts stay when the caller hangs up, and the next pull
goes on from there. Here from the start: tiny, think, busy, mid. ``recording`` says what it can be told and asked.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.upstreams.ollama_store import DETAILS, Models, now, stamp, valid
from tests.upstreams.recording import Recorder, serve
from tests.upstreams.sources import End, Refused, Source, add_arguments, source

HERE = ("tiny", "think", "busy", "mid")
BUSY = "server busy, please try again.  maximum pending requests exceeded"
KILLED = "llama runner process has terminated: signal: killed"
THOUGHTS = ("Let me ", "想一想", " ...")
# Go writes these as escapes; the official client takes a bare U+2028 for the end of a line
ESCAPED = "<>&\u2028\u2029"
TOKENS_BEFORE_THE_BREAK = 3
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "stop")
PENALTIES = ("repeat_penalty", "presence_penalty", "frequency_penalty")
PASSED_ON = {"num_predict": "max_tokens"} | {name: name for name in (*SAMPLING, *PENALTIES)}


class Wrong(Exception):
    """An answer that is an error, before any line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Call:
    """One chat or generation; ``chat`` says which of the two wires."""

    body: Mapping[str, Any]
    chat: bool

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def thinks(self) -> bool:
        # a model that can think does so unless told not to
        return "think" in self.model and self.body.get("think") is not False

    def messages(self) -> list[Mapping[str, Any]]:
        if self.chat:
            return list(self.body.get("messages") or [])
        prompt = self.body.get("prompt")
        system = [{"role": "system", "content": self.body["system"]}] if self.body.get("system") else []
        return [*system, {"role": "user", "content": prompt}] if prompt else []

    def options(self) -> dict[str, Any]:
        given = {
            PASSED_ON[name]: value for name, value in (self.body.get("options") or {}).items() if name in PASSED_ON
        }
        return given if given.get("max_tokens", 0) >= 0 else {**given, "max_tokens": 256}

    def line(self, text: str, thinking: str | None = None) -> dict[str, Any]:
        thought = {} if thinking is None else {"thinking": thinking}
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text, **thought}}
        if not self.chat:
            said = {"response": text, **thought}
        return {"model": self.model, "created_at": stamp(now()), **said, "done": False}

    def last(self, why: str, **more: Any) -> dict[str, Any]:
        context = {} if self.chat or why in ("load", "unload") else {"context": [1, 2, 3]}
        return {**self.line(""), "done": True, "done_reason": why, **context, **more}


class OllamaSkin:
    """Handlers of the paths a client of Ollama uses."""

    def __init__(self, text: Source, models: Models) -> None:
        self._text = text
        self._models = models

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        Recorder().attach(app)
        app.middlewares.append(_errors)
        app.router.add_get("/", self._root)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/ps", self._ps)
        app.router.add_post("/api/show", self._show)
        app.router.add_post("/api/chat", lambda request: self._say(request, chat=True))
        app.router.add_post("/api/generate", lambda request: self._say(request, chat=False))
        app.router.add_post("/api/pull", self._pull)
        app.router.add_delete("/api/delete", self._delete)
        return app

    async def _root(self, request: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.0.0-fake"})

    async def _tags(self, request: web.Request) -> web.Response:
        return web.json_response({"models": self._models.listed()})

    async def _ps(self, request: web.Request) -> web.Response:
        return web.json_response({"models": self._models.in_memory()})

    async def _show(self, request: web.Request) -> web.Response:
        name = self._known(await _body(request))
        capabilities = ["completion", *(["thinking"] if "think" in name else [])]
        facts = {"general.architecture": "llama", "general.parameter_count": 129216, "llama.context_length": 2048}
        shown = {"modelfile": "FROM tiny.gguf", "parameters": "", "template": "{{ .Prompt }}", "details": DETAILS}
        changed = {"modified_at": stamp(now())}
        return web.json_response({**shown, "model_info": facts, "capabilities": capabilities, **changed})

    async def _delete(self, request: web.Request) -> web.Response:
        self._models.remove(self._known(await _body(request)))
        return web.Response()

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        name = _name(body)
        if not valid(name):
            raise Wrong(400, "invalid model name")
        async with aclosing(self._models.pull(name)) as lines:
            if body.get("stream") is not False:
                return await _streamed(request, lines)
            last = [line async for line in lines][-1]
        return web.json_response(last, status=500 if "error" in last else 200)

    async def _say(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        body = await _body(request)
        name = self._known(body)
        if body.get("think") and "think" not in name:
            raise Wrong(400, f'"{name}" does not support thinking')
        if "busy" in name:
            raise Wrong(503, BUSY)
        call = Call(body, chat)
        if not call.messages():
            loaded = self._models.load(name, body.get("keep_alive"))
            return web.json_response(call.last("load" if loaded else "unload"))
        async with aclosing(self._lines(call)) as lines:
            if body.get("stream") is not False:
                return await _streamed(request, lines)
            return web.json_response(_joined(call, [line async for line in lines]))

    async def _lines(self, call: Call) -> AsyncGenerator[dict[str, Any], None]:
        began = time.perf_counter_ns()
        self._models.load(call.model, call.body.get("keep_alive") or 300)
        if call.thinks:
            for thought in THOUGHTS:
                yield call.line("", thought)
        said = 0
        async with aclosing(self._text.answer(call.messages(), call.options())) as answer:
            async for piece in answer:
                if isinstance(piece, End):
                    self._models.load(call.model, call.body.get("keep_alive"))
                    yield call.last(piece.finish, **_durations(piece, time.perf_counter_ns() - began))
                    return
                yield call.line(piece)
                said += 1
                if "mid" in call.model and said == TOKENS_BEFORE_THE_BREAK:
                    yield {"error": KILLED}
                    return

    def _known(self, body: Mapping[str, Any]) -> str:
        name = _name(body)
        if not self._models.has(name):
            raise Wrong(404, f"model '{name}' not found")
        return name


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
        return answer
    except (Wrong, Refused) as wrong:
        return web.json_response({"error": wrong.message}, status=wrong.status)


async def _body(request: web.Request) -> dict[str, Any]:
    raw = await request.read()
    if not raw:
        raise Wrong(400, "missing request body")
    try:
        body: dict[str, Any] = json.loads(raw)
    except ValueError as wrong:
        raise Wrong(400, f"invalid character in JSON: {wrong}") from wrong
    return body


def _name(body: Mapping[str, Any]) -> str:
    name = str(body.get("model") or body.get("name") or "")
    if not name:
        raise Wrong(400, "model is required")
    return name


async def _streamed(request: web.Request, lines: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    first = await anext(lines)
    await answer.prepare(request)
    await answer.write(_line(first))
    async for line in lines:
        await answer.write(_line(line))
    await answer.write_eof()
    return answer


def _joined(call: Call, lines: list[dict[str, Any]]) -> dict[str, Any]:
    *spoken, last = lines
    if "error" in last:
        raise Wrong(500, str(last["error"]))
    parts = [line["message"] if call.chat else line for line in spoken]
    key = "content" if call.chat else "response"
    whole = last["message"] if call.chat else last
    whole[key] = "".join(part[key] for part in parts)
    if call.thinks:
        whole["thinking"] = "".join(part.get("thinking", "") for part in parts)
    return last


def _durations(end: End, total: int) -> dict[str, int]:
    read = {"prompt_eval_count": end.prompt_tokens, "prompt_eval_duration": total // 3}
    said = {"eval_count": end.completion_tokens, "eval_duration": total - total // 3}
    return {"total_duration": total, "load_duration": 1, **read, **said}


def _line(body: Mapping[str, Any]) -> bytes:
    written = json.dumps(body, ensure_ascii=False)
    for letter in ESCAPED:
        written = written.replace(letter, f"\\u{ord(letter):04x}")
    return written.encode() + b"\n"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    add_arguments(parser)
    parser.add_argument("--model", action="append", default=[], help="one more model that is here")
    given = parser.parse_args()
    models = Models()
    for name in [*HERE, *given.model]:
        models.add(name)
    async with source(given) as text:
        await serve(OllamaSkin(text, models).application(), given.port)


if __name__ == "__main__":
    asyncio.run(main())
