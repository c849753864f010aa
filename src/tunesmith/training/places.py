"""Where an adapter may be published: a name under home that is free and stays free for its run."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Protocol

from tunesmith.kernel.caller import Caller
from tunesmith.kernel.home import Home, parse_name
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem
from tunesmith.models.model import BaseModel
from tunesmith.models.versions import name_of
from tunesmith.training.store import LIVE, RunStore

# folders of ours, and the database with whatever SQLite puts beside it
_RESERVED = ("runs", "data", "evaluations", "engines", "secrets", "usage", "tunesmith.db")
_DEEPEST = 6  # folders; adapters further down are not looked for


class Bases(Protocol):
    """Where base models are found by name."""

    def base(self, name: str) -> BaseModel: ...


class Places:
    """Knows what lies under home, and where runs that have not ended will publish.

    Args:
        is_alias: whether that name points at a version of an adapter.
    """

    def __init__(
        self, store: RunStore, registry: Bases, home: Home, is_alias: Callable[[str], bool] = lambda name: False
    ) -> None:
        self._store, self._registry, self._home, self._is_alias = store, registry, home, is_alias

    def _is_base(self, name: str) -> bool:
        """Whether requests mean a base model by ``name``: an adapter called so would be taken for it."""
        try:
            self._registry.base(name)
        except NotFound:
            return False
        except Problem:
            pass  # there, but unusable now
        return True

    def free(self, text: str, caller: Caller) -> str:
        """``text`` as the name of a place where an adapter may be published.

        Raises:
            Invalid: it is no name, or not one for an adapter.
            Conflict: something lies there, or a run that has not ended writes there; or an alias is called so, or a
                base model.
        """
        name = parse_name(text, "output")
        if not name.parts or _reserved(name.parts[0]) or any(part.startswith(".") for part in name.parts):
            raise Invalid(
                f"输出位置不可用：{text}；例如可用 adapters/名称",
                f"an adapter cannot be written to {text}; try adapters/NAME",
                field="output",
            )
        if len(name.parts) > _DEEPEST:
            raise Invalid(
                f"输出位置最多 {_DEEPEST} 层", f"the output is at most {_DEEPEST} folders deep", field="output"
            )
        if self._is_base(str(name)):
            raise _taken(name, f"{name} 是一个基座模型的名称", f"{name} is the name of a base model")
        if self._is_alias(short := name_of(str(name), None)):
            # who asks for it by its short name would get what the alias points at
            raise _taken(name, f"{short} 是一个别名", f"{short} is an alias")
        path = self._home.path(text, "output")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise _taken(name, f"输出位置已有内容：{name}", f"there is something at {name} already")
        for above in name.parents:
            outer = self._home.root / above
            if (outer.exists() and not outer.is_dir()) or (outer / "adapter_config.json").exists():
                raise _taken(name, f"{above} 不能再包含适配器", f"{above} cannot hold another adapter")
        for run in self._store.list(states=LIVE, limit=None):
            other = PurePosixPath(run.output)
            # folded: on some file systems two names that differ in case are one folder
            mine, theirs = PurePosixPath(str(name).casefold()), PurePosixPath(str(other).casefold())
            if mine == theirs or theirs in mine.parents or mine in theirs.parents:
                if not caller.sees(run.owner):
                    raise _taken(name, "另一个任务正在写入此处", "another run is writing there")
                zh, en = f"任务 {run.id} 正在写入 {other}", f"run {run.id} is writing to {other}"
                raise _taken(name, zh, en, run_id=run.id)
        return name.as_posix()


def _reserved(first: str) -> bool:
    """Whether a name that begins with ``first`` would lie among Tunesmith's own files."""
    folded = first.casefold()
    return folded in _RESERVED or folded.startswith("tunesmith.db")


def _taken(name: PurePosixPath, zh: str, en: str, **details: str) -> Conflict:
    details |= {"field": "output", "output": name.as_posix()}
    return Conflict(f"{zh}；请换一个输出位置", f"{en}; choose another output", **details)
