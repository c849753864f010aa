"""A stand-in of Together's REST API on a real socket, for tests. It is not Together and trains nothing.

with together_api() as api:
    ...  # api.v1 and api.key are what a client of Together gets
    api.advance("ft-1", "running")

The official client ``together`` takes it for the real one (`tests/unit/upstreams/test_together_api.py`): files,
fine-tuning, models, endpoints and chat. It keeps books, misbehaves when told to, and moves a job forward only when told
to.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from aiohttp import web

from tests.upstreams.together_words import (
    FINAL,
    PROJECT,
    Refused,
    adapter_files,
    event,
    limits,
    now,
    supported,
    tarred,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference"
QWEN = "Qwen/Qwen2.5-14B-Instruct"
PATIENCE_S = 30.0


@dataclass(slots=True)
class _Refusal:
    status: int
    body: Any
    at: str
    times: int | None
    retry_after: int | None


@dataclass(slots=True)
class _Silence:
    at: str
    how: Literal["hang", "close"]
    times: int


class TogetherApi:
    """The books, and what the stand-in is told to do. Its verbs may be called from any thread.

    Attributes:
        url: without a path; ``v1`` is what clients get.
        files, jobs, endpoints, registry: by id, as the API tells them.
        contents: bytes of the files, by id.
        checksums: of the files, by id, as they were announced.
        events: of each job, oldest first.
        limits: of each model that can be tuned, by its name.
        shown: names of models as people read them.
        asked: the bodies that jobs, endpoints and deployments were created with, by id.
        created: how often ``file``, ``job``, ``endpoint`` and ``deployment`` were created, and ``tag:<suffix>``.
        spent: dollars for jobs.
        requests: ``METHOD path`` of each request, in order.
        chats: the bodies of questions that were answered.
        leaked: requests for storage that carried the key.
        location: where uploads are sent instead, or None.
        bad_files: every file that comes is found malformed.
        credit: False: prices say that the credit does not suffice.
        validating: files are still being checked, so that there is no price.
        page: entries of a page of any list; None for all at once.
        lagging: what was created is not in the next list, but in the one after it.
        hidden: fields of jobs that the API does not tell.
        archive: what a download gives instead of an adapter; a str is an address that it leads to.
    """

    def __init__(self, *, key: str = "tgp_stand-in-key") -> None:
        self.key, self.url = key, ""
        self.files: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.registry: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.checksums: dict[str, str] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.limits = {name: limits(name, supports_tools=name == QWEN) for name in (LLAMA, QWEN)}
        self.shown = {LLAMA: "Llama 3.1 8B", QWEN: "Qwen 2.5 14B"}
        self.asked: dict[str, dict[str, Any]] = {}
        self.created: Counter[str] = Counter()
        self.spent = 0.0
        self.requests: list[str] = []
        self.chats: list[dict[str, Any]] = []
        self.leaked: list[str] = []
        self.location: str | None = None
        self.bad_files = self.validating = self.lagging = False
        self.credit = True
        self.page: int | None = None
        self.hidden: frozenset[str] = frozenset()
        self.archive: bytes | str = tarred(adapter_files(), folder="adapter/")
        self.fresh: set[str] = set()  # not listed yet
        self._refusals: list[_Refusal] = []
        self._silences: list[_Silence] = []

    @property
    def v1(self) -> str:
        """The base address, up to and with ``/v1``."""
        return self.url + "/v1"

    def models(self) -> list[dict[str, Any]]:
        """The list of models that can be tuned."""
        return [supported(name, self.shown.get(name, name)) for name in self.limits]

    def retire(self, model: str) -> None:
        """A model that cannot be tuned any more."""
        del self.limits[model]

    def refuse(
        self, status: int, body: Any = None, *, at: str = "", times: int | None = None, retry_after: int | None = None
    ) -> None:
        """Answer with that status, until `forgive`, or so many times, each request whose ``METHOD path`` is ``at``.

        Args:
            body: a string is sent as it is, all else as JSON; None is what Together says of the status.
            at: may hold ``*``; empty for every request.
        """
        self._refusals.append(_Refusal(status, body, at, times, retry_after))

    def forgive(self) -> None:
        """Take every `refuse` back."""
        self._refusals.clear()

    def accept_then_hang(self, at: str = "POST /v1/fine-tunes", times: int = 1) -> None:
        """Do what the next such request asks, and never answer it."""
        self._silences.append(_Silence(at, "hang", times))

    def accept_then_close(self, at: str = "POST /v1/fine-tunes", times: int = 1) -> None:
        """Do what the next such request asks, and close the connection instead of answering."""
        self._silences.append(_Silence(at, "close", times))

    def advance(self, job: str, word: str, message: str = "", **fields: Any) -> None:
        """Move a job to any state, known or not, forwards or backwards; ``fields`` as on the wire."""
        entry = self.jobs[job]
        entry.update({"status": word, "updated_at": now(), **fields})
        if entry["status"] == "completed":
            self._publish(entry)
        level = "error" if "error" in word else "info"
        kind = {"completed": "job_complete", "running": "training_start"}.get(word, f"job_{word}")
        steps = {name: fields[name] for name in ("step", "total_steps", "token_count") if name in fields}
        self.events[job].append(event(kind, message or f"the job is {word}", level, **steps))

    def make_ready(self, endpoint: str, word: str = "DEPLOYMENT_STATE_READY") -> None:
        """Move the deployments of an endpoint to a state."""
        for deployment in self.endpoints[endpoint]["deployments"]:
            deployment["state"] = deployment["status"]["state"] = word

    def count(self, what: str) -> int:
        """How many requests there were whose ``METHOD path`` is ``what``, which may hold ``*``."""
        return sum(fnmatchcase(each, what) for each in self.requests)

    def _publish(self, job: dict[str, Any]) -> None:
        name = job["model_output_name"].rpartition("/")[2]
        job["token_count"] = job.get("token_count") or 1000
        job["model_object_name"] = f"{PROJECT['slug']}/{name}"
        job["model_object_id"] = f"ml_{job['id']}"
        self.registry[f"ml_{job['id']}"] = {
            "id": f"ml_{job['id']}",
            "name": f"{PROJECT['slug']}/{name}",
            "organizationId": "org_1",
            "projectId": PROJECT["id"],
            "visibility": "VISIBILITY_PRIVATE",
            "weights": {"type": "WEIGHTS_TYPE_DEFAULT"},
            "baseModelId": "ml_base",
        }

    @web.middleware
    async def through(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What every request goes through: the books, refusals, the key, and what never answers."""
        what = f"{request.method} {request.path}"
        self.requests.append(what)
        if (refusal := self._refusal(what)) is not None:
            return _answer(refusal)
        try:
            bearer = request.headers.get("Authorization")
            if request.path.startswith("/signed/"):
                self.leaked += [what] if bearer else []
            elif bearer != f"Bearer {self.key}":
                raise Refused(401, "Invalid API key provided", "invalid_api_key")
            answer = await handler(request)
        except Refused as refused:
            return refused.answer()
        except web.HTTPException as error:
            return Refused(error.status, error.reason).answer()
        for silence in self._silences:
            if silence.times and fnmatchcase(what, silence.at):
                silence.times -= 1
                if silence.how == "hang":
                    await asyncio.Event().wait()
                assert request.transport is not None
                request.transport.abort()
        return answer

    def _refusal(self, what: str) -> _Refusal | None:
        for refusal in self._refusals:
            if refusal.times != 0 and (not refusal.at or fnmatchcase(what, refusal.at)):
                refusal.times = None if refusal.times is None else refusal.times - 1
                return refusal
        return None

    def stopped(self, job: dict[str, Any]) -> None:
        """Ask a job to stop, as a client does."""
        if job["status"] in FINAL and job["status"] != "cancelled":
            raise Refused(409, f"job {job['id']} has ended: {job['status']}", "job_ended")
        if job["status"] != "cancelled":
            self.advance(job["id"], "cancel_requested")


def _answer(refusal: _Refusal) -> web.Response:
    headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after is not None else {}
    if refusal.body is None:
        return Refused(refusal.status, "told to refuse").answer(headers)
    if isinstance(refusal.body, str):
        return web.Response(status=refusal.status, text=refusal.body, headers=headers)
    return web.json_response(refusal.body, status=refusal.status, headers=headers)


@contextmanager
def together_api(*, key: str = "tgp_stand-in-key") -> Iterator[TogetherApi]:
    """Run the stand-in in a thread of this process until the end of the block."""
    api = TogetherApi(key=key)
    loop = asyncio.new_event_loop()
    ready, ends = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(_serve(api, ready, ends)), daemon=True)
    thread.start()
    try:
        assert ready.wait(PATIENCE_S), "the stand-in of Together did not start"
        yield api
    finally:
        loop.call_soon_threadsafe(ends.set)
        thread.join(PATIENCE_S)
        loop.close()


async def _serve(api: TogetherApi, ready: threading.Event, ends: asyncio.Event) -> None:
    from tests.upstreams.together_tuning import tuning
    from tests.upstreams.together_uses import uses

    app = web.Application(middlewares=[api.through], client_max_size=1 << 28)
    app.add_routes([*tuning(api), *uses(api)])
    # one that hangs on purpose must not hold the end up
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    api.url = f"http://{host}:{port}"
    ready.set()
    await ends.wait()
    await runner.cleanup()
