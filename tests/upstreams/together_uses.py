"""Models, endpoints and chat of the stand-in `together_api.py`."""

import json
import uuid
from typing import Any

from aiohttp import web

from tests.upstreams.together_api import TogetherApi
from tests.upstreams.together_tuning import listed
from tests.upstreams.together_words import PROJECT, Refused, now

BASE = "/v2/projects/{project}"


def uses(api: TogetherApi) -> list[web.RouteDef]:
    """Routes of what is done with tuned models."""
    part = _Uses(api)
    return [
        web.get("/v3/whoami", part.whoami),
        web.get("/v1/models", part.every),
        web.get("/v2/supported-models", part.supported),
        web.get(BASE + "/models", part.registry),
        web.get(BASE + "/configs", part.configs),
        web.get(BASE + "/endpoints", part.endpoints),
        web.post(BASE + "/endpoints", part.create),
        web.get(BASE + "/endpoints/{id}", part.get),
        web.patch(BASE + "/endpoints/{id}", part.change),
        web.delete(BASE + "/endpoints/{id}", part.delete),
        web.post(BASE + "/endpoints/{id}/deployments", part.deploy),
        web.patch(BASE + "/endpoints/{id}/deployments/{deployment}", part.scale),
        web.delete(BASE + "/endpoints/{id}/deployments/{deployment}", part.undeploy),
        web.post("/v1/chat/completions", part.chat),
    ]


class _Uses:
    def __init__(self, api: TogetherApi) -> None:
        self._api = api

    async def whoami(self, request: web.Request) -> web.Response:
        organization = {"id": "org_1", "name": "Acme"}
        body = {"type": "project_api_key", "api_key": {"id": "key_1"}, "organization": organization, "project": PROJECT}
        return web.json_response(body)

    async def every(self, request: web.Request) -> web.Response:
        rows = [{"id": name, "object": "model", "created": 0, "type": "chat"} for name in self._api.limits]
        return web.json_response(rows)

    async def supported(self, request: web.Request) -> web.Response:
        return listed(self._api, request, self._api.models())

    async def registry(self, request: web.Request) -> web.Response:
        return listed(self._api, request, list(self._api.registry.values()))

    async def configs(self, request: web.Request) -> web.Response:
        base = request.query.get("referenceModelId", "")
        row = {
            "id": "cr_1", "certifications": [], "projectId": "proj_public", "referenceModelId": base,
            "referenceModel": f"projects/proj_public/models/{base}",
            "selectors": [{"key": "gpu_type", "value": "h100"}],
        }  # fmt: skip
        return listed(self._api, request, [row] if base == "ml_base" else [])

    async def endpoints(self, request: web.Request) -> web.Response:
        return listed(self._api, request, list(self._api.endpoints.values()))

    async def create(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = f"{PROJECT['slug']}/{body['name']}"
        if any(each["name"] == name for each in self._api.endpoints.values()):
            raise Refused(409, f"endpoint {name} exists")
        endpoint_id = f"ep_{uuid.uuid4().hex[:8]}"
        self._api.created["endpoint"] += 1
        self._api.asked[endpoint_id] = body
        self._api.endpoints[endpoint_id] = {
            "id": endpoint_id, "name": name, "projectId": PROJECT["id"], "etag": "1", "createdAt": now(),
            "updatedAt": now(), "endpointType": "ENDPOINT_TYPE_DEDICATED", "visibility": "VISIBILITY_PRIVATE",
            "deployments": [], "trafficSplit": [],
        }  # fmt: skip
        return web.json_response(self._api.endpoints[endpoint_id])

    async def get(self, request: web.Request) -> web.Response:
        return web.json_response(self._endpoint(request))

    async def change(self, request: web.Request) -> web.Response:
        endpoint, body = self._endpoint(request), await request.json()
        endpoint["trafficSplit"] = body.get("trafficSplit", endpoint["trafficSplit"])
        return web.json_response(endpoint)

    async def delete(self, request: web.Request) -> web.Response:
        endpoint = self._endpoint(request)
        if endpoint["deployments"]:
            raise Refused(409, "the endpoint has deployments")
        del self._api.endpoints[endpoint["id"]]
        return web.json_response({})

    async def deploy(self, request: web.Request) -> web.Response:
        endpoint, body = self._endpoint(request), await request.json()
        model = body["model"].rpartition("/")[2]
        if model not in self._api.registry:
            raise Refused(404, f"model {body['model']} not found")
        deployment_id = f"dep_{uuid.uuid4().hex[:8]}"
        self._api.created["deployment"] += 1
        self._api.asked[deployment_id] = body
        state = "DEPLOYMENT_STATE_PROVISIONING"
        made = {
            "id": deployment_id, "name": f"{endpoint['name']}/{body['name']}", "model": body["model"], "modelId": model,
            "modelRevisionId": "rv_1", "config": body["config"], "configId": "cr_1", "endpointId": endpoint["id"],
            "etag": "1", "hardware": "1x h100", "projectId": PROJECT["id"], "createdAt": now(), "updatedAt": now(),
            "autoscaling": body["autoscaling"], "trafficMode": "TRAFFIC_MODE_LIVE", "state": state,
            "status": {"state": state, "message": ""}, "estimatedEffectiveTrafficShare": 0.0,
        }  # fmt: skip
        endpoint["deployments"].append(made)
        return web.json_response(made)

    async def scale(self, request: web.Request) -> web.Response:
        deployment = self._deployment(request)
        deployment["autoscaling"] = (await request.json())["autoscaling"]
        return web.json_response(deployment)

    async def undeploy(self, request: web.Request) -> web.Response:
        endpoint, deployment = self._endpoint(request), self._deployment(request)
        if endpoint["trafficSplit"] or deployment["autoscaling"].get("maxReplicas"):
            raise Refused(409, "the deployment is in use")
        endpoint["deployments"].remove(deployment)
        return web.json_response({})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        ready = {
            each["name"] for each in self._api.endpoints.values()
            if any(d["state"] == "DEPLOYMENT_STATE_READY" for d in each["deployments"]) and each["trafficSplit"]
        }  # fmt: skip
        if body["model"] not in ready | set(self._api.limits):
            raise Refused(404, f"Unable to access model {body['model']}", "model_not_available")
        said = f"{body['model']}: {body['messages'][-1]['content']}"
        self._api.chats.append(body)
        if body.get("stream"):
            return await _streamed(request, body["model"], said)
        message = {"role": "assistant", "content": said, "tool_calls": []}
        return web.json_response(
            {
                "id": "chat-1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "prompt": [],
                "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        )

    def _endpoint(self, request: web.Request) -> dict[str, Any]:
        found = self._api.endpoints.get(request.match_info["id"])
        if found is None or request.match_info["project"] != PROJECT["id"]:
            raise Refused(404, f"endpoint {request.match_info['id']} not found")
        return found

    def _deployment(self, request: web.Request) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self._endpoint(request)["deployments"]
        found = next((each for each in rows if each["id"] == request.match_info["deployment"]), None)
        if found is None:
            raise Refused(404, "deployment not found")
        return found


async def _streamed(request: web.Request, model: str, said: str) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    halves = ({"role": "assistant", "content": said[:9]}, None), ({"content": said[9:]}, "stop")
    for delta, ends in halves:
        choice = {"index": 0, "delta": delta, "finish_reason": ends, "logprobs": None}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5} if ends else None
        frame = {"id": "chat-1", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": [choice]}
        await answer.write(f"data: {json.dumps({**frame, 'usage': usage})}\n\n".encode())
    await answer.write(b"data: [DONE]\n\n")
    return answer
