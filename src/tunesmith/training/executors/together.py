"""Together AI: fine-tuning over its REST API.

The wire is `together_wire.py`; kept models are `together_endpoints.py`.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Problem, Unavailable, Unsupported
from tunesmith.training.executor import Parameter
from tunesmith.training.executors import together_wire as words
from tunesmith.training.executors.together_endpoints import Endpoints, pages
from tunesmith.training.hosted import parameters
from tunesmith.training.hosted.archives import unpack_adapter
from tunesmith.training.hosted.provider import (
    Cost,
    Deployment,
    Estimate,
    HostedJob,
    HostedModel,
    HostedOrder,
    JobEvent,
    TrainingFile,
)
from tunesmith.training.hosted.wire import REDIRECTS, Waits, Wire, segment

_AT_ONCE = 8  # questions about models
_LARGEST_ADAPTER = 16 << 30
_LARGEST_FILE = 5 << 30  # larger ones go in parts (lib/constants.py)
_UPLOAD_HEADERS = "Location", "X-Together-File-Id"
_LOST, _BAD = "FAILED", "INVALID_FORMAT"
_ABANDONED_S = 6 * 3600.0  # an upload that is not finished after so long never will be


class Together:
    """The hosted service, or whatever speaks as it does at TOGETHER_BASE_URL.

    Args:
        url: up to and with ``/v1``.
        key: the bearer token as it is now; None where there is none.
        again_s: after which a list is read a second time before a job is said not to exist: lists may lag behind.
    """

    name = "together_ai"
    label = "Together AI"

    def __init__(
        self,
        url: str,
        key: Callable[[], str | None],
        *,
        waits: Waits = Waits(),  # noqa: B008 - frozen
        again_s: float = 2.0,
    ) -> None:
        root = url.rstrip("/")
        self._v1 = "/v1" if root.endswith("/v1") else ""
        self._wire = Wire(self.label, root.removesuffix("/v1"), key, variable="TOGETHER_API_KEY", waits=waits)
        self._endpoints = Endpoints(self._wire)
        self._again_s = again_s

    def parameters(self) -> Sequence[Parameter]:
        """See ``Provider``."""
        return parameters.TOGETHER

    async def models(self) -> Sequence[HostedModel]:
        """See ``Provider``; a model without limits for fine-tuning is not tuned."""
        rows = await pages(self._wire, "/v2/supported-models", {"product": "PRODUCT_FINE_TUNING", "limit": 100})
        room = asyncio.Semaphore(_AT_ONCE)
        named = {row["name"]: row for row in rows if isinstance(row.get("name"), str) and row["name"]}

        async def one(name: str, shown: Any) -> HostedModel | None:
            async with room:
                try:
                    limits = await self._limits(name)
                except (NotFound, Invalid):
                    return None
            return words.model_of(name, shown if isinstance(shown, str) else "", limits)

        found = await asyncio.gather(*(one(name, row.get("displayName")) for name, row in named.items()))
        return [model for model in found if model is not None]

    async def upload(self, tag: str, file: TrainingFile) -> str:
        """See ``Provider``."""
        if file.size_bytes > _LARGEST_FILE:
            raise Unsupported(
                f"训练文件超过 {self.label} 单次上传的上限 {_LARGEST_FILE >> 30} GiB",
                f"the training file is larger than {_LARGEST_FILE >> 30} GiB, the most {self.label} takes in one piece",
            )
        name = words.file_name(tag, file.sha256)
        if (known := await self._uploaded(name, file)) is not None:
            if known.processing_status is None:  # whole, and perhaps nobody has said so
                with suppress(Conflict, Invalid):
                    await self._finish(known.id)
            return known.id
        form = {"purpose": "fine-tune", "file_name": name, "file_type": "jsonl", "checksum": file.sha256}
        try:
            answer = await self._wire.send("POST", f"{self._v1}/files", form=form, also=REDIRECTS)
        except Conflict as problem:
            return await self._same_bytes(problem, name, file)
        where, file_id = (answer.headers.get(each, "") for each in _UPLOAD_HEADERS)
        if answer.status not in REDIRECTS or not where or not file_id:
            raise self._wire.unreadable()
        await self._wire.put(where, file)
        kept = await self._finish(file_id)
        if kept.id != file_id or kept.bytes not in (0, file.size_bytes):
            raise self._wire.unreadable()
        return kept.id

    async def find(self, tag: str) -> HostedJob | None:
        """See ``Provider``."""
        for last in (False, True):
            jobs, files = await pages(self._wire, f"{self._v1}/fine-tunes"), await self._files()
            ours = {file.id for file in files if words.is_file_of(file.filename, tag)}
            for raw in jobs:
                if words.has_tag(raw, tag, ours) and (job := words.job_of(raw)) is not None:
                    return job
            if not last:
                await asyncio.sleep(self._again_s)
        return None

    async def create(self, order: HostedOrder, training: str, validation: str | None) -> HostedJob:
        """See ``Provider``. Nothing is created where Together says that the credit does not suffice.

        Raises:
            Forbidden: the credit does not suffice.
        """
        limits = await self._limits(order.model)
        try:
            price = await self._price(words.price_body(order, training, validation, limits))
        except Problem as problem:
            if isinstance(problem, Forbidden):
                raise
            price = None  # it is not needed to begin; what is wrong with the order is told below
        if price is not None and price.allowed_to_proceed is False:
            raise self._too_dear(price)
        body = words.body_of(order, training, validation, limits)
        raw = await self._wire.json("POST", f"{self._v1}/fine-tunes", body)
        job = words.job_of(raw)
        if job is None:
            raise self._wire.unreadable(uncertain=True)
        return job

    async def look(self, job_id: str) -> HostedJob:
        """See ``Provider``."""
        job = words.job_of(await self._wire.json("GET", self._job(job_id)))
        if job is None or job.id != job_id:
            raise self._wire.unreadable()
        return job

    async def stop(self, job_id: str) -> None:
        """See ``Provider``."""
        try:
            await self._wire.json("POST", f"{self._job(job_id)}/cancel")
        except (Conflict, Invalid):
            job = await self.look(job_id)
            if job.state is None or not job.state.final:
                raise

    async def events(self, job_id: str) -> Sequence[JobEvent]:
        """See ``Provider``."""
        raw = await self._wire.json("GET", f"{self._job(job_id)}/events")
        return words.events_of(raw.get("data") if isinstance(raw, dict) else None)

    async def estimate(self, order: HostedOrder, training: str | None) -> Estimate:
        """See ``Provider``; Together prices uploaded files alone."""
        if training is None:
            zh = f"{self.label} 只对已上传的文件估价"
            return Estimate(None, None, reason=(zh, f"{self.label} tells the price of uploaded files alone"))
        limits = await self._limits(order.model)
        price = await self._price(words.price_body(order, training, None, limits))
        if not price.estimation_available:
            said = price.unavailable_reason
            zh, en = words.NO_ESTIMATE.get(
                said, (f"暂时无法估价（{said[:80]}）", f"there is no price now ({said[:80]})")
            )
            return Estimate(None, None, reason=(zh, en))
        total, tokens = price.estimated_total_price, price.estimated_train_token_count
        reason = None
        if price.allowed_to_proceed is False:
            problem = self._too_dear(price)
            reason = problem.zh, problem.en
        return Estimate(None if total is None else Cost(total), None if tokens is None else int(tokens), reason=reason)

    async def deploy(self, tag: str, output_model: str) -> Deployment:
        """See ``Provider``."""
        return await self._endpoints.deploy(tag, output_model)

    async def find_deployment(self, tag: str) -> Deployment | None:
        """See ``Provider``; lists may lag behind, so what is not in the first is looked for in a second."""
        found = await self._endpoints.find(tag)
        if found is None:
            await asyncio.sleep(self._again_s)
            found = await self._endpoints.find(tag)
        return found

    async def deployment(self, deployment_id: str) -> Deployment | None:
        """See ``Provider``."""
        return await self._endpoints.look(deployment_id)

    async def undeploy(self, deployment_id: str) -> None:
        """See ``Provider``."""
        await self._endpoints.remove(deployment_id)

    async def download(self, job_id: str, to: Path) -> None:
        """See ``Provider``.

        Raises:
            Invalid: the archive is not one of an adapter.
        """
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=".download-") as folder:
            archive = Path(folder) / "adapter.tar"
            query = {"ft_id": job_id, "checkpoint": "adapter"}
            await self._wire.save(f"{self._v1}/finetune/download", archive, _LARGEST_ADAPTER, query=query)
            await asyncio.to_thread(unpack_adapter, archive, to, _LARGEST_ADAPTER)

    async def close(self) -> None:
        """See ``Provider``."""
        await self._wire.close()

    def _job(self, job_id: str) -> str:
        return f"{self._v1}/fine-tunes/{segment(job_id)}"

    async def _limits(self, model: str) -> words.Limits:
        raw = await self._wire.json("GET", f"{self._v1}/fine-tunes/models/limits", query={"model_name": model})
        return self._wire.shaped(raw, words.Limits)

    async def _price(self, body: dict[str, Any]) -> words.Estimated:
        raw = await self._wire.json("POST", f"{self._v1}/fine-tunes/estimate-price", body)
        return self._wire.shaped(raw, words.Estimated)

    def _too_dear(self, price: words.Estimated) -> Forbidden:
        cost = "" if price.estimated_total_price is None else f"（{price.estimated_total_price:.2f} USD）"
        cost_en = "" if price.estimated_total_price is None else f" ({price.estimated_total_price:.2f} USD)"
        return Forbidden(
            f"{self.label} 的余额不足以完成此任务{cost}",
            f"the credit at {self.label} does not suffice for this job{cost_en}",
        )

    async def _files(self) -> list[words.File]:
        return [self._wire.shaped(raw, words.File) for raw in await pages(self._wire, f"{self._v1}/files")]

    async def _finish(self, file_id: str) -> words.File:
        """Say that the bytes are there: Together checks them."""
        raw = await self._wire.json("POST", f"{self._v1}/files/{segment(file_id)}/preprocess")
        return self._wire.shaped(raw, words.File)

    async def _uploaded(self, name: str, file: TrainingFile) -> words.File | None:
        """The file where it is there already and whole."""
        for each in await self._files():
            if each.filename != name:
                continue
            if each.processing_status == _BAD:
                said = (each.validation_report or {}).get("error")
                raise Invalid(
                    f"{self.label} 认为训练文件格式不正确：{said or ''}",
                    f"{self.label} finds the training file malformed: {said or 'it does not say why'}",
                    raw=each.validation_report,
                )
            if each.bytes == file.size_bytes and each.processing_status != _LOST:
                return each
        return None

    async def _same_bytes(self, problem: Conflict, name: str, file: TrainingFile) -> str:
        """The file that Together has of the same bytes, which it names instead of taking them again."""
        raw = problem.details.get("raw")
        known = raw.get("file_id") if isinstance(raw, dict) else None
        if not isinstance(known, str):
            raise problem
        path = f"{self._v1}/files/{segment(known)}"
        kept = self._wire.shaped(await self._wire.json("GET", path), words.File)
        if kept.id == known and kept.bytes == file.size_bytes:
            return known
        # begun and never finished, by us; one of somebody else may be on its way
        if kept.filename == name or kept.created_at < time.time() - _ABANDONED_S:
            await self._wire.json("DELETE", path)
        raise Unavailable(
            f"{self.label} 上有同一文件未完成的上传，请稍后重试",
            f"{self.label} has an unfinished upload of the same file; ask again later",
        )
