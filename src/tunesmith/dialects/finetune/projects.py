"""``/projects`` and ``/projects/{project_id}/tasks``: what examples, splits and jobs belong to; an addition to the document."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from tunesmith.dialects.finetune.openapi import example, failures
from tunesmith.dialects.finetune.wire import Answer, Body, Deleted, Time, below_home, one_of, time
from tunesmith.http.door import caller_of
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Problem
from tunesmith.projects.project import Project, Task
from tunesmith.projects.service import ProjectService

MayRead = Callable[[str, Caller], None]
Text = Annotated[str, Field(max_length=2 << 20)]
Schema = Annotated[str, Field(max_length=2 << 20)] | dict[str, Any]


class ProjectRequest(Body):
    model_config = example({"name": "客服", "description": "客服场景的微调"})

    name: Text
    description: Text | None = None


class ProjectChanges(Body):
    """What is left out stays."""

    name: Text | None = None
    description: Text | None = None


class ImportRequest(Body):
    """``path``: the folder of a Kiln project, a name under the server's home."""

    path: Annotated[str, Field(min_length=1, max_length=1025)]


class Requirement(Body):
    """As Kiln writes a requirement; ``instruction`` is what counts."""

    instruction: Text
    name: Text | None = None
    description: Text | None = None
    priority: int | None = None


class TaskFields(Body):
    name: Text | None = None
    description: Text | None = None
    instruction: Text | None = None
    requirements: Annotated[list[Text | Requirement], Field(max_length=1000)] | None = None
    thinking_instruction: Text | None = None
    input_json_schema: Schema | None = None
    output_json_schema: Schema | None = None
    input_schema: Schema | None = None
    output_schema: Schema | None = None

    def fields(self) -> dict[str, Any]:
        """What was given, by the service's names; of requirements their instructions."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        for side in ("input", "output"):
            long, short = f"{side}_json_schema", f"{side}_schema"
            if long in given or short in given:
                given[short] = one_of(long, given.pop(long, None), short, given.pop(short, None))
        if given.get("requirements") is not None:
            given["requirements"] = [
                each.instruction if isinstance(each, Requirement) else each for each in given["requirements"]
            ]
        return given


class TaskRequest(TaskFields):
    """``instruction`` begins every system message that is made of the task."""

    model_config = example(
        {"name": "答复", "instruction": "你是客服。", "requirements": ["保持礼貌"], "thinking_instruction": "想一想"}
    )

    name: Text
    instruction: Text


class ProjectShown(Answer):
    v: int = 1
    model_type: Literal["project"] = "project"
    id: str
    name: str
    description: str | None
    created_at: Time
    created_by: str


class ProjectAnswer(Answer):
    project: ProjectShown


class ProjectList(Answer):
    projects: list[ProjectShown]


class TaskShown(Answer):
    v: int = 1
    model_type: Literal["task"] = "task"
    id: str
    project_id: str
    name: str
    description: str | None
    instruction: str
    requirements: list[str]
    thinking_instruction: str | None
    input_json_schema: str | None
    output_json_schema: str | None
    created_at: Time


class TaskAnswer(Answer):
    task: TaskShown


class TaskList(Answer):
    tasks: list[TaskShown]


def routes(service: ProjectService, home: Home, may_read: MayRead) -> APIRouter:
    """The paths."""
    router = APIRouter(tags=["projects"])
    _projects(router, service, home, may_read)
    _tasks(router, service)
    return router


def _projects(router: APIRouter, service: ProjectService, home: Home, may_read: MayRead) -> None:
    @router.get("/projects", response_model=ProjectList, responses=failures())
    def list_projects(request: Request) -> ProjectList:
        """One's own; an admin's are everybody's."""
        return ProjectList(projects=[_project(each) for each in service.projects(caller_of(request))])

    @router.post("/projects", response_model=ProjectAnswer, responses=failures())
    def create_project(request: Request, body: ProjectRequest) -> ProjectAnswer:
        """A new, empty project."""
        return ProjectAnswer(project=_project(service.create_project(body.name, body.description, caller_of(request))))

    @router.post("/projects/import_kiln", response_model=ProjectAnswer, responses=failures(403, 404))
    def import_kiln(request: Request, body: ImportRequest) -> ProjectAnswer:
        """Read a Kiln project folder that lies under home; nothing of it is changed."""
        caller = caller_of(request)
        with below_home(body.path) as name:
            may_read(name, caller)
            folder = home.folder(name, "path")
        try:
            return ProjectAnswer(project=_project(service.import_kiln(folder, caller)))
        except Problem as problem:  # where home lies on the machine is nobody's business
            problem.zh, problem.en = (said.replace(f"{home.root}/", "") for said in (problem.zh, problem.en))
            raise

    @router.get("/projects/{project_id}", response_model=ProjectAnswer, responses=failures(404))
    def get_project(request: Request, project_id: str) -> ProjectAnswer:
        """One project."""
        return ProjectAnswer(project=_project(service.project(project_id, caller_of(request))))

    @router.patch("/projects/{project_id}", response_model=ProjectAnswer, responses=failures(404))
    def edit_project(request: Request, project_id: str, body: ProjectChanges) -> ProjectAnswer:
        """Another name or description."""
        changes = {name: getattr(body, name) for name in body.model_fields_set}
        return ProjectAnswer(project=_project(service.edit_project(project_id, changes, caller_of(request))))

    @router.delete("/projects/{project_id}", response_model=Deleted, responses=failures(404, 409))
    def delete_project(request: Request, project_id: str) -> Deleted:
        """Forget a project with its tasks, examples and splits; jobs stay."""
        service.delete_project(project_id, caller_of(request))
        return Deleted(id=project_id)


def _tasks(router: APIRouter, service: ProjectService) -> None:
    @router.get("/projects/{project_id}/tasks", response_model=TaskList, responses=failures(404))
    def list_tasks(request: Request, project_id: str) -> TaskList:
        """The tasks of a project."""
        return TaskList(tasks=[_task(each) for each in service.tasks(project_id, caller_of(request))])

    @router.post("/projects/{project_id}/tasks", response_model=TaskAnswer, responses=failures(404))
    def create_task(request: Request, project_id: str, body: TaskRequest) -> TaskAnswer:
        """A new task, without examples."""
        return TaskAnswer(task=_task(service.create_task(project_id, body.fields(), caller_of(request))))

    @router.get(_TASK, response_model=TaskAnswer, responses=failures(404))
    def get_task(request: Request, project_id: str, task_id: str) -> TaskAnswer:
        """One task."""
        return TaskAnswer(task=_task(service.task(project_id, task_id, caller_of(request))))

    @router.patch(_TASK, response_model=TaskAnswer, responses=failures(404))
    def edit_task(request: Request, project_id: str, task_id: str, body: TaskFields) -> TaskAnswer:
        """What is given changes, what is left out stays."""
        return TaskAnswer(task=_task(service.edit_task(project_id, task_id, body.fields(), caller_of(request))))

    @router.delete(_TASK, response_model=Deleted, responses=failures(404, 409))
    def delete_task(request: Request, project_id: str, task_id: str) -> Deleted:
        """Forget a task with its examples and splits; jobs stay."""
        service.delete_task(project_id, task_id, caller_of(request))
        return Deleted(id=task_id)


_TASK = "/projects/{project_id}/tasks/{task_id}"


def _project(found: Project) -> ProjectShown:
    return ProjectShown(
        id=found.id,
        name=found.name,
        description=found.description,
        created_at=time(found.created_at),
        created_by=found.owner,
    )


def _task(found: Task) -> TaskShown:
    return TaskShown(
        id=found.id,
        project_id=found.project_id,
        name=found.name,
        description=found.description,
        instruction=found.instruction,
        requirements=list(found.requirements),
        thinking_instruction=found.thinking_instruction,
        input_json_schema=found.input_schema,
        output_json_schema=found.output_schema,
        created_at=time(found.created_at),
    )
