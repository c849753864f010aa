"""Tuned models kept ready at Together: a dedicated endpoint named after the tag, with one deployment of the same name.

Source: the official client ``together`` 3.1.1 (resources/endpoints, lib/cli/api/endpoints/deploy.py and rm.py).
"""

from collections.abc import Mapping
from typing import Any

from tunesmith.kernel.problems import Conflict, NotFound, Problem, Unavailable, Unsupported
from tunesmith.training.hosted.keeping import struck
from tunesmith.training.hosted.provider import Deployment
from tunesmith.training.hosted.wire import Wire, segment

_READY = "DEPLOYMENT_STATE_READY"
_IDLE_MINUTES = 30  # the least Together takes: a forgotten endpoint costs money by the minute
_MOST_PAGES = 1000


class Endpoints:
    """Endpoints of the project that the key opens."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def deploy(self, tag: str, output_model: str) -> Deployment:
        """Each step looks first for what an earlier try has left; where one is refused, nothing is left that is paid for.

        Raises:
            Unavailable: a step was not answered, or was refused and what is there could not be taken away.
        """
        project = await self._project()
        endpoint = await self._named(project, tag)
        ready = bool(_rows(endpoint, "deployments"))
        path, config = ("", "") if ready else await self._servable(project, output_model)
        try:
            if endpoint is None:
                endpoint = await self._wire.json("POST", self._path(project), {"name": tag})
        except Conflict as problem:  # it is there, and the list did not have it yet
            raise self._uncertain(problem) from problem
        endpoint_id = self._text(endpoint, "id")
        where = self._path(project, endpoint_id)
        try:
            await self._fill(where, endpoint, tag, path, config)
        except Unavailable:
            raise
        except Problem as problem:
            try:
                await self.remove(endpoint_id)
            except Problem as left:
                raise self._uncertain(problem) from left
            raise
        try:
            return self._told(await self._wire.json("GET", where))
        except Problem as problem:
            raise self._uncertain(problem) from problem

    async def find(self, tag: str) -> Deployment | None:
        """The endpoint of that tag, with or without what makes it answer; None where there is none."""
        endpoint = await self._named(await self._project(), tag)
        return None if endpoint is None else self._told(endpoint)

    async def _fill(self, where: str, endpoint: Mapping[str, Any], tag: str, path: str, config: str) -> None:
        """Give the endpoint a deployment and traffic, where it lacks them."""
        found = _rows(endpoint, "deployments")
        if not found:
            body = {
                "name": tag,
                "model": path,
                "config": config,
                "autoscaling": {"minReplicas": 1, "maxReplicas": 1},
                "inactiveTimeout": _IDLE_MINUTES,
            }
            found = [await self._wire.json("POST", f"{where}/deployments", body)]
        if not _rows(endpoint, "trafficSplit"):
            split = [{"deploymentId": self._text(found[0], "id"), "weight": 1.0}]
            await self._wire.json("PATCH", where, {"trafficSplit": split}, query={"updateMask": "trafficSplit"})

    async def look(self, endpoint_id: str) -> Deployment | None:
        """Where it stands; None where it is gone."""
        try:
            return self._told(await self._wire.json("GET", self._path(await self._project(), endpoint_id)))
        except NotFound:
            return None

    async def remove(self, endpoint_id: str) -> None:
        """Traffic, then replicas, then deployments, then the endpoint: it refuses to go before them."""
        project = await self._project()
        where = self._path(project, endpoint_id)
        try:
            endpoint = await self._wire.json("GET", where)
            if _rows(endpoint, "trafficSplit"):
                await self._wire.json("PATCH", where, {"trafficSplit": []}, query={"updateMask": "trafficSplit"})
            for each in _rows(endpoint, "deployments"):
                await self._end(f"{where}/deployments/{segment(self._text(each, 'id'))}")
            await self._wire.json("DELETE", where)
        except NotFound:
            return

    async def _end(self, where: str) -> None:
        try:
            none = {"autoscaling": {"minReplicas": 0, "maxReplicas": 0}}
            await self._wire.json("PATCH", where, none, query={"updateMask": "autoscaling"})
            await self._wire.json("DELETE", where)
        except NotFound:
            return

    async def _project(self) -> str:
        raw = await self._wire.json("GET", "/v3/whoami")
        project = raw.get("project") if isinstance(raw, dict) else None
        if not isinstance(project, dict):
            raise Unsupported(
                f"{self._wire.label} 的密钥不属于某个项目，无法部署模型",
                f"the key for {self._wire.label} belongs to no project: models cannot be deployed with it",
            )
        return self._text(project, "id")

    async def _named(self, project: str, tag: str) -> Mapping[str, Any] | None:
        rows = await pages(self._wire, self._path(project), {"limit": 100})
        return next((row for row in rows if str(row.get("name", "")).rpartition("/")[2] == tag), None)

    async def _servable(self, project: str, output_model: str) -> tuple[str, str]:
        """The model and a configuration that serves it, as resources.

        Raises:
            NotFound: the model is not in the project. Unsupported: no configuration serves it.
        """
        wanted = output_model.rpartition("/")[2]
        names = (wanted, f"{wanted}-adapter")
        rows = await pages(self._wire, f"/v2/projects/{segment(project)}/models", {"limit": 100})
        by_name = {str(row.get("name", "")).rpartition("/")[2]: row for row in rows}
        model = next((by_name[name] for name in names if name in by_name), None)
        if model is None:
            raise NotFound(
                f"{self._wire.label} 上没有模型 {output_model!r}",
                f"there is no model {output_model!r} at {self._wire.label}",
            )
        base = model.get("baseModelId") or model.get("id")
        configs = await pages(self._wire, f"/v2/projects/{segment(project)}/configs", {"referenceModelId": str(base)})
        if not configs:
            raise Unsupported(
                f"{self._wire.label} 不提供模型 {output_model!r} 的专用部署",
                f"{self._wire.label} does not host the model {output_model!r}",
            )
        owner, config = configs[0].get("projectId") or project, self._text(configs[0], "id")
        return f"projects/{project}/models/{self._text(model, 'id')}", f"projects/{owner}/configs/{config}"

    def _path(self, project: str, endpoint: str | None = None) -> str:
        path = f"/v2/projects/{segment(project)}/endpoints"
        return path if endpoint is None else f"{path}/{segment(endpoint)}"

    def _uncertain(self, problem: Problem) -> Unavailable:
        """For a refusal after which something may be there that costs money."""
        return Unavailable(
            f"{self._wire.label} 未能完成部署，且可能仍留有计费的部分：请再次部署，或取消部署（{problem.zh}）",
            f"{self._wire.label} did not end the deployment, and a part that costs money may be left: deploy again, or "
            f"undeploy ({problem.en})",
            **problem.details,
        )

    def _told(self, raw: Any) -> Deployment:
        states = [str(each.get("state", "")) for each in _rows(raw, "deployments")]
        routed = bool(_rows(raw, "trafficSplit"))
        return Deployment(
            id=self._text(raw, "id"),
            model=self._text(raw, "name"),
            ready=routed and _READY in states,
            word=states[0] if states else "",
            raw=struck(raw),
        )

    def _text(self, raw: Any, name: str) -> str:
        text = raw.get(name) if isinstance(raw, dict) else None
        if not isinstance(text, str) or not text:
            raise self._wire.unreadable()
        return text


async def pages(wire: Wire, path: str, query: Mapping[str, str | int] | None = None) -> list[dict[str, Any]]:
    """Every entry of a list at Together.

    Raises:
        Unavailable: the list cannot be read to its end: what is not in a part of it may be in the rest.
    """
    found: list[dict[str, Any]] = []
    asked, seen = dict(query or {}), set[str]()
    for _ in range(_MOST_PAGES):
        raw = await wire.json("GET", path, query=asked)
        data = raw.get("data") if isinstance(raw, dict) else raw
        if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
            break
        found += data
        cursor = raw.get("next_cursor") if isinstance(raw, dict) else None
        if not cursor:
            return found
        if not isinstance(cursor, str) or cursor in seen:
            break
        seen.add(cursor)
        asked["after"] = cursor
    raise wire.unreadable()


def _rows(raw: Any, name: str) -> list[Any]:
    rows = raw.get(name) if isinstance(raw, dict) else None
    return rows if isinstance(rows, list) else []
