"""The Fireworks stand-in's accounts, models and their files, deployments, deployed models and chat."""

import json
import uuid
from typing import Any

from aiohttp import web

from tests.upstreams.fireworks_api import FireworksApi
from tests.upstreams.fireworks_tuning import account_of
from tests.upstreams.fireworks_words import Refused, body_of, checked_id, now, page, precondition, status_of

_OF_DEPLOYMENT = frozenset(
    {
        *("baseModel", "displayName", "description", "minReplicaCount", "maxReplicaCount", "autoscalingPolicy"),
        *("acceleratorType", "acceleratorCount", "deploymentShape", "enableAddons", "precision", "placement"),
    }
)
_OF_DEPLOYED = frozenset({"model", "deployment", "displayName", "description", "default", "public", "serverless"})
_WINDOWS = frozenset({"scaleUpWindow", "scaleDownWindow", "scaleToZeroWindow", "loadTargets"})


def uses(api: FireworksApi) -> list[web.RouteDef]:
    """Routes of what there is beside datasets and jobs."""
    of, models, deployments, loras = "/v1/accounts/{account}", _Models(api), _Deployments(api), _Loras(api)
    return [
        web.get("/v1/accounts", models.accounts),
        web.get(of, models.account),
        web.get(of + "/models", models.list),
        web.get(of + "/models/{id:[^/:]+}", models.get),
        web.get(of + "/models/{id:[^/:]+}:getDownloadEndpoint", models.download),
        web.get("/signed-model/{model}/{file:.+}", models.file),
        web.post(of + "/deployments", deployments.create),
        web.get(of + "/deployments", deployments.list),
        web.get(of + "/deployments/{id:[^/:]+}", deployments.get),
        web.delete(of + "/deployments/{id:[^/:]+}", deployments.delete),
        web.post(of + "/deployedModels", loras.load),
        web.get(of + "/deployedModels", loras.list),
        web.get(of + "/deployedModels/{id:[^/:]+}", loras.get),
        web.delete(of + "/deployedModels/{id:[^/:]+}", loras.unload),
        web.post("/inference/v1/chat/completions", loras.chat),
    ]


class _Models:
    def __init__(self, api: FireworksApi) -> None:
        self._api = api

    async def accounts(self, request: web.Request) -> web.Response:
        return page(request, "accounts", [_account(name) for name in self._api.accounts], self._api.page)

    async def account(self, request: web.Request) -> web.Response:
        return web.json_response(_account(account_of(self._api, request)))

    async def list(self, request: web.Request) -> web.Response:
        whose = f"accounts/{request.match_info['account']}/"  # models of others may be public, so any account is asked
        entries = [model for name, model in self._api.models.items() if name.startswith(whose)]
        return page(request, "models", entries, self._api.page)

    async def get(self, request: web.Request) -> web.Response:
        return web.json_response(self._api.models[self._name(request)])

    async def download(self, request: web.Request) -> web.Response:
        name = self._name(request)
        if name not in self._api.adapters:
            raise Refused(403, "model is not downloadable")
        at = f"{self._api.url}/signed-model/{name.rsplit('/', 1)[-1]}"
        urls = {
            file: where if isinstance(where, str) else f"{at}/{file}?X-Goog-Signature={uuid.uuid4().hex}"
            for file, where in self._api.adapters[name].items()
        }
        return web.json_response({"filenameToSignedUrls": urls})

    async def file(self, request: web.Request) -> web.Response:
        for name, files in self._api.adapters.items():
            if name.rsplit("/", 1)[-1] == request.match_info["model"]:
                data = files.get(request.match_info["file"])
                if isinstance(data, bytes) and "X-Goog-Signature" in request.query:
                    return web.Response(body=data)
        return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")

    def _name(self, request: web.Request) -> str:
        name = f"accounts/{request.match_info['account']}/models/{request.match_info['id']}"
        if name not in self._api.models:
            raise Refused(404, f"model {name!r} not found")
        return name


class _Deployments:
    def __init__(self, api: FireworksApi) -> None:
        self._api = api

    async def create(self, request: web.Request) -> web.Response:
        account = account_of(self._api, request)
        body = await body_of(request, _OF_DEPLOYMENT, ("baseModel",))
        name = checked_id(request.query.get("deploymentId") or f"d{uuid.uuid4().hex[:10]}", "deployment")
        if name in self._api.deployments:  # a deleted one keeps its id until it is purged
            raise Refused(409, f"deployment {name!r} already exists")
        if body["baseModel"] not in self._api.models:
            raise Refused(404, f"model {body['baseModel']!r} not found")
        if body.get("autoscalingPolicy", {}).keys() - _WINDOWS:
            raise Refused(400, "unknown field in autoscaling_policy")
        self._api.created[f"deployment:{name}"] += 1
        self._api.asked[name] = {**body, **request.query}
        self._api.deployments[name] = {
            **body,
            "name": f"accounts/{account}/deployments/{name}",
            "createTime": now(),
            "state": "CREATING" if self._api.deploys_late else "READY",
            "status": status_of(),
        }
        return web.json_response(self._api.deployments[name])

    async def list(self, request: web.Request) -> web.Response:
        account_of(self._api, request)
        deleted = request.query.get("showDeleted") == "true"
        entries = [each for each in self._api.deployments.values() if deleted or each["state"] != "DELETED"]
        return page(request, "deployments", entries, self._api.page)

    async def get(self, request: web.Request) -> web.Response:
        return web.json_response(self._entry(request))

    async def delete(self, request: web.Request) -> web.Response:
        entry = self._entry(request)
        if entry["state"] == "DELETED":
            raise precondition("deployment is already deleted")
        if request.query.get("ignoreChecks") != "true":
            raise precondition("deployment is in use; set ignore_checks to delete it all the same")
        entry["state"] = "DELETED"
        if request.query.get("hard") == "true":
            del self._api.deployments[request.match_info["id"]]
        return web.json_response({})

    def _entry(self, request: web.Request) -> dict[str, Any]:
        account_of(self._api, request)
        name = request.match_info["id"]
        if name not in self._api.deployments:
            raise Refused(404, f"deployment {name!r} not found")
        return self._api.deployments[name]


class _Loras:
    def __init__(self, api: FireworksApi) -> None:
        self._api = api

    async def load(self, request: web.Request) -> web.Response:
        account = account_of(self._api, request)
        body = await body_of(request, _OF_DEPLOYED, ("model",))
        deployment = str(body.get("deployment", "")).rsplit("/", 1)[-1]
        if body["model"] not in self._api.models or deployment not in self._api.deployments:
            raise Refused(404, "model or deployment not found")
        name = f"{body['model'].rsplit('/', 1)[-1]}-{uuid.uuid4().hex[:6]}"
        self._api.deployed[name] = {
            **body,
            "name": f"accounts/{account}/deployedModels/{name}",
            "createTime": now(),
            "state": "DEPLOYED",
            "status": status_of(),
        }
        return web.json_response(self._api.deployed[name])

    async def list(self, request: web.Request) -> web.Response:
        account_of(self._api, request)
        return page(request, "deployedModels", list(self._api.deployed.values()), self._api.page)

    async def get(self, request: web.Request) -> web.Response:
        return web.json_response(self._api.deployed[self._name(request)])

    async def unload(self, request: web.Request) -> web.Response:
        del self._api.deployed[self._name(request)]
        return web.json_response({})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await request.text())
        model, _, deployment = str(asked.get("model", "")).partition("#")
        if not self._answers(model, deployment.rsplit("/", 1)[-1]):
            message = f"Model not found, inaccessible, and/or not deployed: {model}"
            return web.json_response(
                {"error": {"object": "error", "code": "NOT_FOUND", "message": message}}, status=404
            )
        self._api.chats.append(asked)
        said = f"{model.rsplit('/', 1)[-1]}: {asked['messages'][-1]['content']}"
        frame = {"id": uuid.uuid4().hex, "created": 1_790_000_000, "model": asked["model"]}
        if not asked.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            return web.json_response({**frame, "object": "chat.completion", "choices": [choice], "usage": usage})
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for delta, ends in (({"role": "assistant", "content": said}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": ends}
            data = {**frame, "object": "chat.completion.chunk", "choices": [choice]}
            await answer.write(f"data: {json.dumps(data)}\n\n".encode())
        await answer.write(b"data: [DONE]\n\n")
        return answer

    def _answers(self, model: str, deployment: str) -> bool:
        """Whether a model, or a model at a deployment, or a deployment alone, answers now."""
        ready = {name for name, each in self._api.deployments.items() if each["state"] == "READY"}
        if deployment:
            loaded = any(each["model"] == model for each in self._api.deployed.values())
            return deployment in ready and (loaded or self._api.deployments[deployment]["baseModel"] == model)
        return model in {self._api.deployments[name]["baseModel"] for name in ready} or model.split("/")[-1] in ready

    def _name(self, request: web.Request) -> str:
        account_of(self._api, request)
        name = request.match_info["id"]
        if name not in self._api.deployed:
            raise Refused(404, f"deployed model {name!r} not found")
        return name


def _account(name: str) -> dict[str, Any]:
    return {
        "name": f"accounts/{name}",
        "email": f"owner@{name}.example",
        "displayName": name.title(),
        "createTime": now(),
        "state": "READY",
        "status": status_of(),
        "suspendState": "UNSUSPENDED",
    }
