"""Fine-tuning at Fireworks, over its REST API.

What is made there has ids that we choose from the tag: a dataset ``<tag>-<start of the file's digest>``, a job and a
deployment ``<tag>``. Made a second time, each is refused as there already, looked at, and taken for ours.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Problem, Unavailable
from tunesmith.training.executor import Parameter
from tunesmith.training.executors import fireworks_adapter as adapter
from tunesmith.training.executors.fireworks_wire import (
    DATASETS,
    DEPLOYMENTS,
    JOBS,
    MODELS,
    NOT_READY,
    Dataset,
    DeploymentAnswer,
    JobAnswer,
    ModelAnswer,
    base_model,
    deployment_body,
    display,
    has_tag,
    hosted_deployment,
    hosted_job,
    hosted_model,
    job_body,
    last,
    resource,
)
from tunesmith.training.hosted import parameters
from tunesmith.training.hosted.provider import (
    Deployment,
    Estimate,
    HostedJob,
    HostedModel,
    HostedOrder,
    JobEvent,
    TrainingFile,
)
from tunesmith.training.hosted.wire import Waits, Wire, segment

_PAGE, _MOST_PAGES = 200, 500
_DIRECT = 150_000_000  # bytes that may be sent with the request itself
_GONE = frozenset({"DELETED", "DELETING"})
_LONGEST_POLL_S = 5.0
_WAITS = Waits()


class Fireworks:
    """The hosted service. Belongs to one event loop.

    Args:
        url: of the service, or of whatever speaks as it does, without a path.
        key: the API key as it is now; None where there is none.
        account: that jobs belong to; None takes the one the key opens.
        ready_s: how long an uploaded file is waited for within one `upload`.
        poll_s: between the first two looks at it.
        direct_bytes: larger files are sent to an address that Fireworks names.
    """

    name = "fireworks_ai"
    label = "Fireworks AI"

    def __init__(
        self,
        url: str,
        key: Callable[[], str | None],
        *,
        account: str | None = None,
        waits: Waits = _WAITS,
        ready_s: float = 20.0,
        poll_s: float = 0.5,
        direct_bytes: int = _DIRECT,
    ) -> None:
        self._wire = Wire(self.label, url, key, variable="FIREWORKS_API_KEY", waits=waits)
        self._key, self._given = key, account
        self._found: tuple[str | None, str] | None = None  # a key and its only account
        self._ready_s, self._poll_s, self._direct_bytes = ready_s, poll_s, direct_bytes
        self._sent = set[str]()  # datasets whose file has arrived; sending again would begin their check anew

    def parameters(self) -> Sequence[Parameter]:
        """See `Provider`."""
        return parameters.FIREWORKS

    async def models(self) -> Sequence[HostedModel]:
        """See `Provider`."""
        path = f"/v1/accounts/fireworks/{MODELS}"
        found = [hosted_model(self._wire.shaped(raw, ModelAnswer)) async for raw in self._pages(path, MODELS)]
        return [model for model in found if model is not None]

    async def upload(self, tag: str, file: TrainingFile) -> str:
        """See `Provider`.

        Raises:
            Unavailable: Fireworks is still checking the file; asking again goes on waiting, and sends nothing twice.
            Invalid: it does not like the file.
        """
        account = await self._account()
        name = f"{tag}-{file.sha256[:16]}"
        path = f"/v1/accounts/{segment(account)}/{DATASETS}"
        own = f"{path}/{segment(name)}"
        dataset = await self._dataset(own)
        if dataset is None:
            await self._new_dataset(path, name, file)
            self._sent.discard(own)  # an earlier one was deleted, its file with it
        elif dataset.state == "READY":
            return dataset.name
        if own not in self._sent:
            await self._send(own, name, file)
            self._sent.add(own)
        ready = await self._ready(own, name, validate=file.size_bytes > self._direct_bytes)
        self._sent.discard(own)
        return ready.name

    async def find(self, tag: str) -> HostedJob | None:
        """See `Provider`. The id is ours and asked for first; the list is read in case it was not followed."""
        path = f"/v1/accounts/{segment(await self._account())}/{JOBS}"
        try:
            return self._job(await self._wire.json("GET", f"{path}/{segment(tag)}"))
        except NotFound:
            pass
        async for raw in self._pages(path, JOBS):
            if has_tag(self._wire.shaped(raw, JobAnswer), tag):
                return self._job(raw)
        return None

    async def create(self, order: HostedOrder, training: str, validation: str | None) -> HostedJob:
        """See `Provider`.

        Raises:
            Conflict: there is a job of this tag, and it is another one.
        """
        path = f"/v1/accounts/{segment(await self._account())}/{JOBS}"
        query = {"supervisedFineTuningJobId": order.tag}
        try:
            answer = await self._wire.json("POST", path, job_body(order, training, validation), query=query)
        except Conflict:
            there = await self.find(order.tag)
            if there is None:
                raise
            return self._same(there, order, training)
        return self._job(answer, uncertain=True)

    async def look(self, job_id: str) -> HostedJob:
        """See `Provider`."""
        job = self._job(await self._wire.json("GET", resource(job_id, JOBS)))
        if job.id != job_id:
            raise self._wire.unreadable()
        return job

    async def stop(self, job_id: str) -> None:
        """See `Provider`."""
        try:
            await self._wire.json("POST", f"{resource(job_id, JOBS)}:cancel", {})
        except (Invalid, Conflict):
            state = (await self.look(job_id)).state
            if state is None or not state.final:
                raise

    async def events(self, job_id: str) -> Sequence[JobEvent]:
        """See `Provider`: Fireworks tells none."""
        return ()

    async def estimate(self, order: HostedOrder, training: str | None) -> Estimate:
        """See `Provider`: Fireworks has no price for a job before it is made, and counts tokens once it has the file."""
        price = "Fireworks 没有价格查询接口，任务创建后才给出估价", "Fireworks estimates the price of created jobs only"
        count = None
        if training is not None:
            dataset = await self._dataset(resource(training, DATASETS))
            text = str(dataset.estimated_token_count or "") if dataset is not None else ""
            count = int(text) if text.isdecimal() and len(text) < 16 else None
        if count is None:
            zh, en = f"{price[0]}；文件上传前不知道词元数", f"{price[1]}, and counts tokens of uploaded files only"
            return Estimate(None, None, reason=(f"{zh}，样本数：{order.training.examples}",
                                                f"{en}; examples: {order.training.examples}"))  # fmt: skip
        return Estimate(None, count * int(order.parameters.get("epochs", 1)), reason=price)

    async def deploy(self, tag: str, output_model: str) -> Deployment:
        """See `Provider`. The deployment runs nothing while nobody asks."""
        resource(output_model, MODELS)
        path = f"/v1/accounts/{segment(await self._account())}/{DEPLOYMENTS}"
        ids = _ids(tag)
        async for raw in self._pages(path, DEPLOYMENTS):
            found = self._wire.shaped(raw, DeploymentAnswer)
            if last(found.name) in ids and found.base_model == output_model and found.state not in _GONE:
                return hosted_deployment(found, raw)
        for name in ids:
            try:
                answer = await self._wire.json(
                    "POST", path, deployment_body(tag, output_model), query={"deploymentId": name}
                )
            except Conflict:
                there = await self.deployment(f"{path.removeprefix('/v1/')}/{name}")
                if there is None or there.word in _GONE:
                    continue
                if there.raw.get("baseModel") == output_model:
                    return there
                raise
            return self._deployment(answer, uncertain=True)
        raise Conflict(
            f"Fireworks 上已有过多名为 {tag} 的部署，请在其控制台清理",
            f"there were too many deployments named {tag} at Fireworks: purge some in its console",
        )

    async def find_deployment(self, tag: str) -> Deployment | None:
        """See `Provider`. The list may lag behind, so that ids it lacks are asked for, in the order they are given."""
        path, ids = f"/v1/accounts/{segment(await self._account())}/{DEPLOYMENTS}", _ids(tag)
        async for raw in self._pages(path, DEPLOYMENTS):
            found = self._wire.shaped(raw, DeploymentAnswer)
            if last(found.name) in ids and found.state not in _GONE:
                return hosted_deployment(found, raw)
        for name in ids:
            try:
                there = self._deployment(await self._wire.json("GET", f"{path}/{segment(name)}"))
            except NotFound:
                return None
            if there.word not in _GONE:
                return there
        return None

    async def deployment(self, deployment_id: str) -> Deployment | None:
        """See `Provider`."""
        try:
            found = self._deployment(await self._wire.json("GET", resource(deployment_id, DEPLOYMENTS)))
        except NotFound:
            return None
        return None if found.word == "DELETED" else found

    async def undeploy(self, deployment_id: str) -> None:
        """See `Provider`. One that was asked a moment ago ends all the same."""
        try:
            await self._wire.json("DELETE", resource(deployment_id, DEPLOYMENTS), query={"ignoreChecks": "true"})
        except NotFound:
            pass
        except (Invalid, Conflict):
            there = await self.deployment(deployment_id)
            if there is not None and there.word not in _GONE:
                raise

    async def download(self, job_id: str, to: Path) -> None:
        """See `Provider`.

        Raises:
            Conflict: the job has not completed.
        """
        job = await self.look(job_id)
        if job.output_model is None:
            raise Conflict(
                f"任务尚未完成（{job.word}），没有可下载的适配器",
                f"the job has not completed ({job.word}): there is no adapter to download",
                word=job.word,
            )
        await adapter.save(self._wire, job.output_model, to)

    async def close(self) -> None:
        """See `Provider`."""
        await self._wire.close()

    async def _account(self) -> str:
        """The account that all is made in.

        Raises:
            Invalid: the key opens several, and the settings name none.
            Forbidden: it opens none.
        """
        if self._given is not None:
            return self._given
        key = await asyncio.to_thread(self._key)  # it may be read from a database
        if self._found is not None and self._found[0] == key:
            return self._found[1]
        names = [last(str(raw.get("name", ""))) async for raw in self._pages("/v1/accounts", "accounts")]
        if not names:
            raise Forbidden("该 Fireworks 密钥没有可用的账户", "this Fireworks key opens no account")
        if len(names) > 1:
            shown = ", ".join(names[:20])
            raise Invalid(
                f"该 Fireworks 密钥可用多个账户（{shown}），请用 FIREWORKS_ACCOUNT_ID 指定一个",
                f"this Fireworks key opens several accounts ({shown}): name one by FIREWORKS_ACCOUNT_ID",
                field="FIREWORKS_ACCOUNT_ID",
                accounts=names[:20],
            )
        self._found = key, names[0]
        return names[0]

    async def _pages(self, path: str, name: str) -> AsyncIterator[Mapping[str, Any]]:
        """Every entry of a list, page by page."""
        token = ""
        for _ in range(_MOST_PAGES):
            query: dict[str, str | int] = {"pageSize": _PAGE, **({"pageToken": token} if token else {})}
            answer = await self._wire.json("GET", path, query=query)
            entries = answer.get(name) or [] if isinstance(answer, dict) else None
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise self._wire.unreadable()
            for entry in entries:
                yield entry
            before, token = token, answer.get("nextPageToken") or ""
            if not token:
                return
            if not isinstance(token, str) or token == before:
                break
        raise self._wire.unreadable()  # a list without an end

    async def _dataset(self, path: str) -> Dataset | None:
        try:
            return self._wire.shaped(await self._wire.json("GET", path), Dataset)
        except NotFound:
            return None

    async def _new_dataset(self, path: str, name: str, file: TrainingFile) -> None:
        dataset = {"exampleCount": str(file.examples), "displayName": display("tunesmith", name), "userUploaded": {}}
        try:
            await self._wire.json("POST", path, {"datasetId": name, "dataset": dataset})
        except Conflict:
            # its id tells its bytes: whoever made it made ours
            if await self._dataset(f"{path}/{segment(name)}") is None:
                raise

    async def _send(self, path: str, name: str, file: TrainingFile) -> None:
        filename = f"{name}.jsonl"
        if file.size_bytes > self._direct_bytes:
            sizes = {"filenameToSize": {filename: str(file.size_bytes)}}
            answer = await self._wire.json("POST", f"{path}:getUploadEndpoint", sizes)
            exactly = f"{file.size_bytes},{file.size_bytes}"
            headers = {"Content-Type": "application/octet-stream", "x-goog-content-length-range": exactly}
            await self._wire.put(adapter.addresses(self._wire, answer).get(filename, ""), file, headers)
            return
        try:
            await self._wire.post_file(f"{path}:upload", file, field="file", filename=filename)
        except (Invalid, Conflict) as problem:
            if not _of_state(problem):  # one has arrived before
                raise

    async def _ready(self, path: str, name: str, *, validate: bool) -> Dataset:
        """The dataset once it is whole; a file in storage is looked for only when `validate` asks for it."""
        loop = asyncio.get_running_loop()
        end, wait_s = loop.time() + self._ready_s, self._poll_s
        while True:
            validate = validate and not await self._validated(path)
            dataset = await self._dataset(path)
            if dataset is not None and dataset.state == "READY":
                return dataset
            if dataset is not None and dataset.fault is not None:
                raise Invalid(
                    f"Fireworks 不接受数据集 {name}：{dataset.fault}",
                    f"Fireworks does not accept the dataset {name}: {dataset.fault}",
                    field="dataset",
                )
            if loop.time() + wait_s > end:
                raise Unavailable(
                    f"Fireworks 仍在检查数据集 {name}，稍后会再试",
                    f"Fireworks is still checking the dataset {name}; it is asked again later",
                    dataset=name,
                )
            await asyncio.sleep(wait_s)
            wait_s = min(_LONGEST_POLL_S, wait_s * 1.5)

    async def _validated(self, path: str) -> bool:
        """Whether the file is seen to have landed; a dataset that is checked already refuses as well."""
        try:
            await self._wire.json("POST", f"{path}:validateUpload", {})
        except (Invalid, Conflict) as problem:
            if not _of_state(problem):
                raise
            return False
        return True

    def _job(self, raw: Any, *, uncertain: bool = False) -> HostedJob:
        job = self._wire.shaped(raw, JobAnswer, uncertain=uncertain)
        return hosted_job(job, raw)

    def _deployment(self, raw: Any, *, uncertain: bool = False) -> Deployment:
        return hosted_deployment(self._wire.shaped(raw, DeploymentAnswer, uncertain=uncertain), raw)

    def _same(self, there: HostedJob, order: HostedOrder, training: str) -> HostedJob:
        """The job that is there already, if it is the one that was asked for."""
        if there.raw.get("dataset") == training and there.raw.get("baseModel") == base_model(order.model):
            return there
        raise Conflict(
            f"Fireworks 上已有名为 {order.tag} 的任务，但其数据集或模型不同",
            f"there is a job {order.tag} at Fireworks already, of another dataset or model",
            job=there.id,
            raw=dict(there.raw),
        )


def _ids(tag: str) -> list[str]:
    """Of the model's deployments: a deleted one keeps its id for a while, so that the next one needs another."""
    return [tag, *(f"{tag}-{nth}" for nth in range(2, 10))]


def _of_state(problem: Problem) -> bool:
    """Whether something is refused for the state it is in, and not for what was asked."""
    raw = problem.details.get("raw")
    return isinstance(problem, Conflict) or (isinstance(raw, dict) and raw.get("code") == NOT_READY)
