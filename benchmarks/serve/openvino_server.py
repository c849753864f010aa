"""OpenVINO GenAI's ``ContinuousBatchingPipeline`` behind the least HTTP there can be, in an environment of its own.

It comes without a server for Python. This one steps on the event loop's own thread, because a step holds the
interpreter anyway: after each step every stream gets its tokens, then the next step begins. Text is looked up token by
token, which is less than a real server does. No Tunesmith here.
"""

import asyncio
import contextlib
import json
import sys
from typing import Any


class Server:
    """The pipeline and its streams."""

    def __init__(self, model: str) -> None:
        import openvino_genai
        from tokenizers import Tokenizer

        self._genai = openvino_genai
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(model, openvino_genai.SchedulerConfig(), "CPU")
        self._template = self._pipeline.get_tokenizer()
        self._decode = Tokenizer.from_file(f"{model}/tokenizer.json").decode
        self._streams: dict[int, tuple[Any, asyncio.Queue[list[int] | None]]] = {}
        self._wake = asyncio.Event()
        self._asked = 0

    async def health(self, request: Any) -> Any:
        from aiohttp import web

        return web.Response(text="ok")

    async def chat(self, request: Any) -> Any:
        """OpenAI's streamed chat, as far as the benchmark asks it."""
        from aiohttp import web

        body = await request.json()
        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = body["max_tokens"], True, False
        text = self._template.apply_chat_template(body["messages"], add_generation_prompt=True)
        tokens = self._template.encode(text, add_special_tokens=False).input_ids
        self._asked += 1
        queue: asyncio.Queue[list[int] | None] = asyncio.Queue()
        self._streams[self._asked] = self._pipeline.add_request(self._asked, tokens, config), queue
        self._wake.set()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        count = 0
        while (ids := await queue.get()) is not None:
            count += len(ids)
            said = "".join(self._decode([token], skip_special_tokens=False) for token in ids)
            await response.write(_frame({"choices": [{"delta": {"content": said}}]}))
        end = {"choices": [{"delta": {}, "finish_reason": "length"}], "usage": {"completion_tokens": count}}
        await response.write(_frame(end) + b"data: [DONE]\n\n")
        return response

    async def run(self) -> None:
        """Step while there is something to do."""
        running = self._genai.GenerationStatus.RUNNING
        while True:
            if not self._streams:
                self._wake.clear()
                await self._wake.wait()
            self._pipeline.step()
            for number, (handle, queue) in list(self._streams.items()):
                if handle.can_read():
                    for output in handle.read().values():
                        queue.put_nowait(list(output.generated_ids))
                if handle.get_status() != running:
                    queue.put_nowait(None)
                    del self._streams[number]
            for _ in range(3):  # those who wait for tokens write them, and new callers are let in
                await asyncio.sleep(0)


def _frame(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


async def _serve(model: str, port: int) -> None:
    from aiohttp import web

    server = Server(model)
    app = web.Application()
    app.add_routes([web.get("/health", server.health), web.post("/v1/chat/completions", server.chat)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=256).start()
    await server.run()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
