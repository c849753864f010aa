"""A stand-in of Fireworks' REST API on a real socket, for tests. It is not Fireworks and trains nothing.

with fireworks_api() as api:
    ...  # api.url and api.key are what a client of Fireworks gets
    api.advance("some-job", "RUNNING")

The official client ``fireworks-ai`` takes it for the real one (`tests/unit/upstreams/test_fireworks_api.py`): accounts,
models, datasets, supervised fine-tuning jobs, deployments, deployed models and chat. Errors look as gRPC's gateway
writes them. It keeps books, misbehaves when told to, and moves a job forward only when told to.
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

from tests.upstreams.fireworks_words import FINAL, Refused, job_word, now, safetensors, status_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JOBS = "supervisedFineTuningJobs"
PATIENCE_S = 30.0
_CREATING = f"POST /v1/accounts/*/{JOBS}"


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


class FireworksApi:
    """The books, and what the stand-in is told to do. Its verbs may be called from any thread.

    Attributes:
        url: without a path.
        accounts: ids of the accounts the key opens; jobs belong to the first.
        datasets, jobs, deployments, deployed: by id, as the API tells them.
        models: by resource name.
        files: what was uploaded, by the dataset's id; every upload counts.
        asked: the bodies that jobs and deployments were created with, by id, the query in it as well.
        created: how often each ``kind:id`` was created.
        requests: ``METHOD path`` of each request, in order.
        chats: the bodies of questions that were answered.
        adapters: files of each tuned model, or where they are said to be, by the model's resource name.
        page: entries of a page of any list at most; None for as many as Fireworks gives.
        names_jobs_itself: the id that a job is created with is not followed.
        deploys_late: deployments are ready only when told to be.
        uploading_looks: for how many looks a dataset that is uploaded next is not ready.
    """

    def __init__(self, *, key: str = "fw_stand-in-key", accounts: tuple[str, ...] = ("acme",)) -> None:
        self.key, self.accounts = key, accounts
        self.url = ""
        self.datasets: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.deployments: dict[str, dict[str, Any]] = {}
        self.deployed: dict[str, dict[str, Any]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.files: dict[str, list[bytes]] = {}
        self.asked: dict[str, dict[str, Any]] = {}
        self.created: Counter[str] = Counter()
        self.requests: list[str] = []
        self.chats: list[dict[str, Any]] = []
        self.adapters: dict[str, dict[str, bytes | str]] = {}
        self.page: int | None = None
        self.names_jobs_itself = False
        self.deploys_late = False
        self.uploading_looks = 0
        self._refusals: list[_Refusal] = []
        self._silences: list[_Silence] = []
        for tail, tunable in (("qwen3-8b", True), ("llama-v3p3-70b-instruct", True), ("whisper-v3", False)):
            self.add_model(f"accounts/fireworks/models/{tail}", tunable=tunable)

    @property
    def account(self) -> str:
        """The account that jobs belong to."""
        return self.accounts[0]

    def add_model(self, name: str, *, tunable: bool = True, **fields: Any) -> None:
        """Offer another model, by its resource name."""
        self.models[name] = {
            "name": name,
            "displayName": name.rsplit("/", 1)[-1].replace("-", " ").title(),
            "createTime": now(),
            "state": "READY",
            "status": status_of(),
            "kind": "HF_BASE_MODEL",
            "contextLength": 40960,
            "supportsLora": tunable,
            "supportsTools": tunable,
            "tunable": tunable,
            "supervisedLoraTunable": tunable,
            "supervisedFullParameterTunable": False,
            **fields,
        }

    def refuse(
        self, status: int, body: Any = None, *, at: str = "", times: int | None = None, retry_after: int | None = None
    ) -> None:
        """Answer with that status, until `forgive`, or so many times, each request whose ``METHOD path`` is ``at``.

        Args:
            body: a string is sent as it is, all else as JSON; None is what Fireworks says of the status.
            at: may hold ``*``; empty for every request.
        """
        self._refusals.append(_Refusal(status, body, at, times, retry_after))

    def forgive(self) -> None:
        """Take every `refuse` back."""
        self._refusals.clear()

    def accept_then_hang(self, at: str = _CREATING, times: int = 1) -> None:
        """Do what the next such request asks, and never answer it."""
        self._silences.append(_Silence(at, "hang", times))

    def accept_then_close(self, at: str = _CREATING, times: int = 1) -> None:
        """Do what the next such request asks, and close the connection instead of answering."""
        self._silences.append(_Silence(at, "close", times))

    def keep_uploading(self, looks: int) -> None:
        """Say UPLOADING of each dataset that is uploaded from now on, for so many looks."""
        self.uploading_looks = looks

    def advance(self, job: str, word: str, **fields: Any) -> None:
        """Move a job to any state, known or not, forwards or backwards; ``fields`` as on the wire.

        Args:
            job: its id or resource name.
            word: with or without ``JOB_STATE_``; what begins otherwise with ``JOB_`` is taken as it is.
        """
        entry = self.jobs[job.rsplit("/", 1)[-1]]
        entry.update({"state": job_word(word), "updateTime": now(), **fields})
        if entry["state"] in FINAL:
            entry["completedTime"] = now()
        if entry["state"] in ("JOB_STATE_COMPLETED", "JOB_STATE_EARLY_STOPPED"):
            self._publish(entry)

    def advance_deployment(self, deployment: str, word: str) -> None:
        """Move a deployment to any state."""
        self.deployments[deployment.rsplit("/", 1)[-1]]["state"] = word

    def count(self, what: str) -> int:
        """How many requests there were whose ``METHOD path`` is ``what``, which may hold ``*``."""
        return sum(fnmatchcase(each, what) for each in self.requests)

    def _publish(self, job: dict[str, Any]) -> None:
        name = job["outputModel"]
        rank = job.get("loraRank") or 8
        self.add_model(
            name,
            tunable=False,
            kind="HF_PEFT_ADDON",
            fineTuningJob=job["name"],
            peftDetails={"baseModel": job["baseModel"], "r": rank, "targetModules": ["q_proj", "v_proj"]},
        )
        config = f'{{"peft_type": "LORA", "r": {rank}, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}}'
        self.adapters.setdefault(
            name, {"adapter_config.json": config.encode(), "adapter_model.safetensors": safetensors()}
        )

    @web.middleware
    async def through(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What every request goes through: the books, refusals, the key, and what never answers."""
        what = f"{request.method} {request.path}"
        self.requests.append(what)
        if (refusal := self._refusal(what)) is not None:
            return _answer(refusal)
        try:
            if not request.path.startswith("/signed") and request.headers.get("Authorization") != f"Bearer {self.key}":
                raise Refused(401, "The API key you provided is invalid.")
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


def _answer(refusal: _Refusal) -> web.Response:
    headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after is not None else {}
    if refusal.body is None:
        return Refused(refusal.status).answer(headers)
    if isinstance(refusal.body, str):
        return web.Response(status=refusal.status, text=refusal.body, headers=headers)
    return web.json_response(refusal.body, status=refusal.status, headers=headers)


@contextmanager
def fireworks_api(*, key: str = "fw_stand-in-key", accounts: tuple[str, ...] = ("acme",)) -> Iterator[FireworksApi]:
    """Run the stand-in in a thread of this process until the end of the block."""
    api = FireworksApi(key=key, accounts=accounts)
    loop = asyncio.new_event_loop()
    ready, ends = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(_serve(api, ready, ends)), daemon=True)
    thread.start()
    try:
        assert ready.wait(PATIENCE_S), "the stand-in of Fireworks did not start"
        yield api
    finally:
        loop.call_soon_threadsafe(ends.set)
        thread.join(PATIENCE_S)
        loop.close()


async def _serve(api: FireworksApi, ready: threading.Event, ends: asyncio.Event) -> None:
    from tests.upstreams.fireworks_tuning import tuning
    from tests.upstreams.fireworks_uses import uses

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
