"""Files and fine-tuning of the stand-in `together_api.py`."""

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from tests.upstreams.together_api import TogetherApi
from tests.upstreams.together_words import PRICE_A_TOKEN, TOKENS_A_BYTE, Refused, event, now

SHORT = frozenset({"id", "status", "created_at", "updated_at", "user_id", "model", "suffix", "training_file",
                   "validation_file", "model_output_name", "n_epochs", "batch_size", "learning_rate", "token_count",
                   "total_price", "progress", "training_type", "training_method", "started_at"})  # fmt: skip


def listed(api: TogetherApi, request: web.Request, rows: Sequence[dict[str, Any]]) -> web.Response:
    """A list, in pages where the stand-in is told so."""
    shown = [row for row in rows if row["id"] not in api.fresh]
    api.fresh -= {row["id"] for row in rows}
    start = int(request.query.get("after", "0"))
    end = len(shown) if api.page is None else start + api.page
    more = {"next_cursor": str(end)} if end < len(shown) else {}
    return web.json_response({"data": shown[start:end], **more})


def tuning(api: TogetherApi) -> list[web.RouteDef]:
    """Routes of files and jobs."""
    parts = _Files(api), _Jobs(api)
    return [route for part in parts for route in part.routes()]


class _Files:
    def __init__(self, api: TogetherApi) -> None:
        self._api = api

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/files", self._list),
            web.post("/v1/files", self._begin),
            web.put("/signed/{id}", self._store),
            web.post("/v1/files/{id}/preprocess", self._finish),
            web.get("/v1/files/{id}", self._get),
            web.delete("/v1/files/{id}", self._delete),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        return listed(self._api, request, list(self._api.files.values()))

    async def _begin(self, request: web.Request) -> web.Response:
        if not request.content_type == "multipart/form-data":
            raise Refused(400, "multipart/form-data is expected")
        form = {name: str(value) for name, value in (await request.post()).items()}
        missing = {"purpose", "file_name", "file_type", "checksum"} - set(form)
        if missing:
            raise Refused(400, f"missing {', '.join(sorted(missing))}")
        for known, checksum in self._api.checksums.items():
            if checksum == form["checksum"]:
                raise Refused(409, "this file exists already", "file_exists", {"file_id": known})
        file_id = f"file-{uuid.uuid4()}"
        self._api.checksums[file_id] = form["checksum"]
        self._api.created["file"] += 1
        self._api.files[file_id] = {
            "id": file_id, "object": "file", "bytes": 0, "created_at": int(time.time()), "filename": form["file_name"],
            "FileType": form["file_type"], "purpose": form["purpose"], "processing_status": None,
        }  # fmt: skip
        if self._api.lagging:
            self._api.fresh.add(file_id)
        where = self._api.location or f"{self._api.url}/signed/{file_id}?signature=a%2Fb"
        return web.Response(status=302, headers={"Location": where, "X-Together-File-Id": file_id})

    async def _store(self, request: web.Request) -> web.Response:
        if request.query.get("signature") != "a/b":
            raise Refused(403, "the signature does not match")
        self._api.contents[request.match_info["id"]] = await request.read()
        return web.Response()

    async def _finish(self, request: web.Request) -> web.Response:
        file = self._file(request)
        data = self._api.contents.get(file["id"])
        if data is None or hashlib.sha256(data).hexdigest() != self._api.checksums[file["id"]]:
            raise Refused(400, "the file did not arrive whole")
        rows = data.split(b"\n")[:-1]
        good = not self._api.bad_files and all("messages" in json.loads(row) for row in rows)
        file["bytes"] = len(data)
        file["processing_status"] = "PENDING" if self._api.validating else ("COMPLETED" if good else "INVALID_FORMAT")
        file["validation_report"] = {"valid": good, "nlines": len(rows), "dataset_format": "CONVERSATION"}
        if not good:
            file["validation_report"] |= {"error_type": "INVALID_FORMAT", "error": "line 1 has no messages"}
        return web.json_response(file)

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self._file(request))

    async def _delete(self, request: web.Request) -> web.Response:
        file_id = self._file(request)["id"]
        del self._api.files[file_id], self._api.checksums[file_id]
        return web.json_response({"id": file_id, "deleted": True})

    def _file(self, request: web.Request) -> dict[str, Any]:
        found = self._api.files.get(request.match_info["id"])
        if found is None:
            raise Refused(404, f"file {request.match_info['id']} not found")
        return found


class _Jobs:
    def __init__(self, api: TogetherApi) -> None:
        self._api = api

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/fine-tunes/models/limits", self._limits),
            web.post("/v1/fine-tunes/estimate-price", self._estimate),
            web.get("/v1/fine-tunes", self._list),
            web.post("/v1/fine-tunes", self._create),
            web.get("/v1/fine-tunes/{id}", self._get),
            web.post("/v1/fine-tunes/{id}/cancel", self._cancel),
            web.get("/v1/fine-tunes/{id}/events", self._events),
            web.get("/v1/fine-tunes/{id}/checkpoints", self._checkpoints),
            web.get("/v1/finetune/download", self._download),
        ]

    async def _limits(self, request: web.Request) -> web.Response:
        return web.json_response(self._limit(request.query.get("model_name", "")))

    async def _estimate(self, request: web.Request) -> web.Response:
        body = await request.json()
        file = self._file(body.get("training_file"))
        if file["processing_status"] != "COMPLETED":
            reason = "train_file_not_validated" if self._api.validating else "train_file_invalid"
            return web.json_response({"estimation_available": False, "unavailable_reason": reason})
        tokens = self._tokens(file, int(body.get("n_epochs") or 1))
        return web.json_response(
            {
                "estimation_available": True,
                "estimated_total_price": tokens * PRICE_A_TOKEN,
                "estimated_train_token_count": tokens,
                "estimated_eval_token_count": 0,
                "allowed_to_proceed": self._api.credit,
                "user_limit": 100.0,
            }
        )

    async def _list(self, request: web.Request) -> web.Response:
        return listed(self._api, request, [self._told(job, short=True) for job in self._api.jobs.values()])

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        allowed = self._limit(body.get("model", ""))
        file = self._file(body.get("training_file"))
        if body.get("validation_file"):
            self._file(body["validation_file"])
        epochs, batch = body.get("n_epochs", 1), body.get("batch_size", "max")
        most = allowed["lora_training"]["max_batch_size"]
        if not isinstance(epochs, int) or not 1 <= epochs <= allowed["max_num_epochs"]:
            raise Refused(400, f"n_epochs must be between 1 and {allowed['max_num_epochs']}")
        if batch != "max" and not 1 <= batch <= most:
            raise Refused(400, f"batch_size must be at most {most}")
        if len(body.get("suffix") or "") > 40:
            raise Refused(400, "suffix must have at most 40 characters")
        if not self._api.credit:
            raise Refused(402, "credit limit exceeded", "credit_limit")
        job_id = f"ft-{uuid.uuid4().hex[:12]}"
        tokens = self._tokens(file, epochs)
        name = f"{body['model'].rpartition('/')[2]}-{body['suffix']}-{job_id[-8:]}" if body.get("suffix") else job_id
        self._api.jobs[job_id] = {
            **body,
            "id": job_id, "status": "pending", "user_id": "user-1", "created_at": now(), "updated_at": now(),
            "started_at": None, "model_output_name": f"acme/{name}", "batch_size": most if batch == "max" else batch,
            "n_epochs": epochs, "total_price": round(tokens * PRICE_A_TOKEN * 1e9), "token_count": 0,
        }  # fmt: skip
        self._api.events[job_id] = [event("job_pending", "Fine-tune request created")]
        self._api.asked[job_id] = body
        self._api.created["job"] += 1
        self._api.created[f"tag:{body.get('suffix')}"] += 1
        self._api.spent += tokens * PRICE_A_TOKEN
        if self._api.lagging:
            self._api.fresh.add(job_id)
        return web.json_response(self._told(self._api.jobs[job_id], short=True))

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(self._told(self._job(request)))

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        self._api.stopped(job)
        return web.json_response(self._told(job, short=True))

    async def _events(self, request: web.Request) -> web.Response:
        return web.json_response({"data": self._api.events[self._job(request)["id"]]})

    async def _checkpoints(self, request: web.Request) -> web.Response:
        job = self._job(request)
        entry = {
            "checkpoint_type": "Final",
            "created_at": now(),
            "path": "s3://kept",
            "step": 1,
            "checkpoint": "adapter",
        }
        return web.json_response({"data": [entry] if job["status"] == "completed" else []})

    async def _download(self, request: web.Request) -> web.Response:
        job = self._api.jobs.get(request.query.get("ft_id", ""))
        if job is None or request.query.get("checkpoint") not in ("adapter", "merged"):
            raise Refused(404, "there is no such checkpoint")
        if job["status"] != "completed":
            raise Refused(400, "the job is not completed")
        if isinstance(self._api.archive, str):
            return web.Response(status=302, headers={"Location": self._api.archive})
        return web.Response(body=self._api.archive, content_type="application/x-tar")

    def _told(self, job: dict[str, Any], *, short: bool = False) -> dict[str, Any]:
        whole = {**job, "events": self._api.events[job["id"]]}
        return {name: value for name, value in whole.items()
                if name not in self._api.hidden and (name in SHORT or not short)}  # fmt: skip

    def _job(self, request: web.Request) -> dict[str, Any]:
        found = self._api.jobs.get(request.match_info["id"])
        if found is None:
            raise Refused(404, f"job {request.match_info['id']} not found")
        return found

    def _limit(self, model: str) -> dict[str, Any]:
        if model not in self._api.limits:
            raise Refused(404, f"Model {model} is not available for fine-tuning", "model_not_available")
        return self._api.limits[model]

    def _file(self, file_id: Any) -> dict[str, Any]:
        if file_id not in self._api.files:
            raise Refused(400, f"file {file_id} does not exist", "file_not_found")
        return self._api.files[file_id]

    def _tokens(self, file: dict[str, Any], epochs: int) -> int:
        return max(1, round(int(file["bytes"]) * TOKENS_A_BYTE)) * epochs
