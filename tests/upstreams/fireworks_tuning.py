"""The Fireworks stand-in's datasets and supervised fine-tuning jobs."""

import uuid
from typing import Any

from aiohttp import BodyPartReader, web

from tests.upstreams.fireworks_api import JOBS, FireworksApi
from tests.upstreams.fireworks_words import FINAL, Refused, body_of, checked_id, now, page, precondition, status_of

_OF_CREATE_DATASET = frozenset({"dataset", "datasetId", "sourceDatasetId"})
_OF_DATASET = frozenset({"exampleCount", "displayName", "userUploaded", "format", "externalUrl", "evalProtocol"})
_OF_JOB = frozenset(
    {
        *("dataset", "baseModel", "warmStartFrom", "displayName", "outputModel", "evaluationDataset", "epochs"),
        *("evalAutoCarveout", "learningRate", "learningRateWarmupSteps", "batchSize", "batchSizeSamples", "loraRank"),
        *("gradientAccumulationSteps", "maxContextLength", "earlyStop", "optimizerWeightDecay", "jinjaTemplate"),
        *("isTurbo", "nodes", "region", "samplerCheckpointSaveIntervalSteps", "wandbConfig", "usePurpose"),
    }
)


def tuning(api: FireworksApi) -> list[web.RouteDef]:
    """Routes of datasets and jobs."""
    datasets, jobs = _Datasets(api), _Jobs(api)
    one, all_of = "/v1/accounts/{account}/datasets/{id:[^/:]+}", "/v1/accounts/{account}/datasets"
    job, all_jobs = f"/v1/accounts/{{account}}/{JOBS}/{{id:[^/:]+}}", f"/v1/accounts/{{account}}/{JOBS}"
    return [
        web.post(all_of, datasets.create),
        web.get(all_of, datasets.list),
        web.get(one, datasets.get),
        web.delete(one, datasets.delete),
        web.post(one + ":upload", datasets.upload),
        web.post(one + ":getUploadEndpoint", datasets.upload_endpoint),
        web.post(one + ":validateUpload", datasets.validate),
        web.put("/signed/{id}/{file}", datasets.put),
        web.post(all_jobs, jobs.create),
        web.get(all_jobs, jobs.list),
        web.get(job, jobs.get),
        web.delete(job, jobs.delete),
        web.post(job + ":cancel", jobs.cancel),
        web.post(job + ":resume", jobs.resume),
    ]


def account_of(api: FireworksApi, request: web.Request) -> str:
    """The account in the path.

    Raises:
        Refused: the key does not open it.
    """
    account = request.match_info["account"]
    if account not in api.accounts:
        raise Refused(403)
    return account


class _Datasets:
    def __init__(self, api: FireworksApi) -> None:
        self._api = api
        self._looks: dict[str, int] = {}  # how often UPLOADING is still said
        self._landing: dict[str, int] = {}  # how often a file in storage is not seen yet

    async def create(self, request: web.Request) -> web.Response:
        account = account_of(self._api, request)
        body = await body_of(request, _OF_CREATE_DATASET, ("datasetId", "dataset"))
        given, name = body["dataset"], checked_id(body["datasetId"], "dataset")
        if unknown := given.keys() - _OF_DATASET:
            raise Refused(400, f"unknown field {min(unknown)!r}")
        if not str(given.get("exampleCount", "")).isdigit():
            raise Refused(400, "dataset.example_count is required")
        if name in self._api.datasets:
            raise Refused(409, f"dataset {name!r} already exists")
        self._api.created[f"dataset:{name}"] += 1
        self._api.datasets[name] = {
            **given,
            "name": f"accounts/{account}/datasets/{name}",
            "exampleCount": str(given["exampleCount"]),
            "createTime": now(),
            "state": "UPLOADING",
            "status": status_of(),
            "format": "CHAT",
            "createdBy": "ada@acme.example",
        }
        return web.json_response(self._api.datasets[name])

    async def list(self, request: web.Request) -> web.Response:
        account_of(self._api, request)
        return page(request, "datasets", list(self._api.datasets.values()), self._api.page)

    async def get(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        name = request.match_info["id"]
        if self._looks.get(name, 0) > 0:
            self._looks[name] -= 1
            return web.json_response({**entry, "state": "UPLOADING"})
        return web.json_response(entry)

    async def delete(self, request: web.Request) -> web.Response:
        self._entry(request)
        del self._api.datasets[request.match_info["id"]]
        return web.json_response({})

    async def upload(self, request: web.Request) -> web.Response:
        self._entry(request)
        name = request.match_info["id"]
        field = await (await request.multipart()).next()
        if not isinstance(field, BodyPartReader) or field.name != "file":
            raise Refused(400, "multipart field 'file' is required")
        data = bytes(await field.read())
        self._api.files.setdefault(name, []).append(data)
        self._settle(name)
        return web.json_response(
            {"id": name, "object": "file", "bytes": len(data), "filename": field.filename, "purpose": "fine-tune"}
        )

    async def upload_endpoint(self, request: web.Request) -> web.Response:
        self._entry(request)
        sizes = (await body_of(request, frozenset({"filenameToSize", "readMask"}), ("filenameToSize",)))[
            "filenameToSize"
        ]
        at = f"{self._api.url}/signed/{request.match_info['id']}"
        return web.json_response(
            {"filenameToSignedUrls": {file: f"{at}/{file}?X-Goog-Signature={uuid.uuid4().hex}" for file in sizes}}
        )

    async def put(self, request: web.Request) -> web.Response:
        data = await request.read()
        wanted = f"{len(data)},{len(data)}"
        signed = {"x-goog-content-length-range": wanted, "Content-Type": "application/octet-stream"}
        if any(request.headers.get(name) != value for name, value in signed.items()) or not request.query_string:
            return web.Response(status=403, text="<Error><Code>SignatureDoesNotMatch</Code></Error>")
        self._api.files.setdefault(request.match_info["id"], []).append(data)
        self._landing[request.match_info["id"]] = self._api.uploading_looks
        return web.Response()

    async def validate(self, request: web.Request) -> web.Response:
        self._entry(request)
        name = request.match_info["id"]
        if name not in self._api.files:
            raise precondition(f"dataset {name!r} has no file")
        if self._landing.get(name, 0) > 0:
            self._landing[name] -= 1
            raise precondition("files are still landing")
        self._settle(name)
        return web.json_response({})

    def _entry(self, request: web.Request) -> dict[str, Any]:
        account_of(self._api, request)
        name = request.match_info["id"]
        if name not in self._api.datasets:
            raise Refused(404, f"dataset {name!r} not found")
        return self._api.datasets[name]

    def _settle(self, name: str) -> None:
        """What the service finds in the file that was sent last."""
        data, entry = self._api.files[name][-1], self._api.datasets[name]
        lines = data.count(b"\n")
        if lines != int(entry["exampleCount"]):
            entry["status"] = status_of(
                "INVALID_ARGUMENT", f"dataset has {lines} examples, not {entry['exampleCount']}"
            )
            return
        entry.update({"state": "READY", "status": status_of(), "estimatedTokenCount": str(len(data) // 4)})
        self._looks[name] = self._api.uploading_looks


class _Jobs:
    def __init__(self, api: FireworksApi) -> None:
        self._api = api

    async def create(self, request: web.Request) -> web.Response:
        account = account_of(self._api, request)
        body = await body_of(request, _OF_JOB, ("dataset",))
        named = "" if self._api.names_jobs_itself else request.query.get("supervisedFineTuningJobId", "")
        job = checked_id(named or f"j{uuid.uuid4().hex[:12]}", "supervised fine-tuning job")
        if job in self._api.jobs:
            raise Refused(409, f"supervised fine-tuning job {job!r} already exists")
        self._check(body)
        self._api.created[f"job:{job}"] += 1
        self._api.asked[job] = {**body, **request.query}
        self._api.jobs[job] = {
            "epochs": 1,
            "loraRank": 8,
            "outputModel": f"accounts/{account}/models/{job}",
            **body,
            "name": f"accounts/{account}/{JOBS}/{job}",
            "createTime": now(),
            "updateTime": now(),
            "createdBy": "ada@acme.example",
            "state": "JOB_STATE_CREATING",
            "status": status_of(),
            "jobProgress": {"percent": 0, "epoch": 0, "inputTokens": 0},
            "estimatedCost": {"currencyCode": "USD", "units": "1", "nanos": 250_000_000},
        }
        return web.json_response(self._api.jobs[job])

    async def list(self, request: web.Request) -> web.Response:
        account_of(self._api, request)
        return page(request, JOBS, list(self._api.jobs.values()), self._api.page)

    async def get(self, request: web.Request) -> web.Response:
        return web.json_response(self._entry(request))

    async def delete(self, request: web.Request) -> web.Response:
        self._entry(request)
        del self._api.jobs[request.match_info["id"]]
        return web.json_response({})

    async def cancel(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        if entry["state"] in FINAL:
            raise precondition(f"job is in terminal state {entry['state']}")
        self._api.advance(entry["name"], "CANCELLED")
        return web.json_response({})

    async def resume(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        if entry["state"] not in ("JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_PAUSED"):
            raise precondition(f"job in state {entry['state']} cannot be resumed")
        self._api.advance(entry["name"], "PENDING")
        return web.json_response(entry)

    def _entry(self, request: web.Request) -> dict[str, Any]:
        account_of(self._api, request)
        job = request.match_info["id"]
        if job not in self._api.jobs:
            raise Refused(404, f"supervised fine-tuning job {job!r} not found")
        return self._api.jobs[job]

    def _check(self, body: dict[str, Any]) -> None:
        for field in ("dataset", "evaluationDataset"):
            if (name := body.get(field)) is not None:
                dataset = self._api.datasets.get(name.rsplit("/", 1)[-1])
                if dataset is None or dataset["name"] != name:
                    raise Refused(404, f"dataset {name!r} not found")
                if dataset["state"] != "READY":
                    raise precondition(f"dataset {name!r} is not ready")
        if ("baseModel" in body) == ("warmStartFrom" in body):
            raise Refused(400, "exactly one of base_model and warm_start_from must be specified")
        model = self._api.models.get(str(body.get("baseModel", body.get("warmStartFrom"))))
        if model is None:
            raise Refused(404, f"model {body.get('baseModel')!r} not found")
        if "baseModel" in body and not model["supervisedLoraTunable"]:
            raise Refused(400, f"model {body['baseModel']!r} is not tunable")
        if len(body.get("displayName", "")) > 60:
            raise Refused(400, "display_name must be at most 60 characters")
