"""Which base models and adapters are on this machine.

Base models come from three places, looked up in this order: the one that ships with the package, folders under
``models/`` in the home folder, and the Hugging Face cache. Adapters are PEFT folders anywhere under home. Nothing is
cached: the folders are the truth, and a look costs a few milliseconds.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.kernel.files import PARTIAL
from tunesmith.kernel.home import UNPRINTABLE, Home, parse_name
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem
from tunesmith.models.model import MAX_RANK, Adapter, BaseModel, Model, model_id

SHIPPED = "tunesmith-small"
_SHIPPED_FOLDER = Path(__file__).parent / "shipped"
_WORKING_FOLDERS = frozenset({"runs", "data", "evaluations", "engines", "secrets", "usage"})
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_MODEL_TYPE = re.compile(r"[a-z0-9_]{1,64}")
_MAX_DEPTH = 6


class Registry:
    """Finds base models and adapters by name.

    Args:
        hf_home: the Hugging Face cache (its ``hub`` folder is read), or None to leave it out.
        pointed: the folder of the adapter that an alias or a version (``prod``, ``town@3``) names, None where the text
            is neither. Left out, adapters answer to the names of their folders alone.
    """

    def __init__(
        self, home: Home, hf_home: Path | None = None, pointed: Callable[[str], str | None] = lambda name: None
    ) -> None:
        self._home, self._pointed = home, pointed
        self._hub = hf_home / "hub" if hf_home else None

    def bases(self) -> list[BaseModel]:
        """Every usable base model, the shipped one first; unusable folders are left out."""
        found: dict[str, BaseModel] = {}
        for name, folder in self._base_folders():
            try:
                found.setdefault(name, _read_base(name, folder))
            except Problem:
                continue  # listing must not fail because one folder is broken; asking for it by name says why
        return list(found.values())

    def base(self, name: str) -> BaseModel:
        """The base model of that name.

        Raises:
            NotFound: it is not on this machine; nothing is ever downloaded unasked.
            Invalid: its folder is there but cannot be used, and why.
        """
        wanted = name.removeprefix("models/")
        if wanted == SHIPPED:
            return _read_base(SHIPPED, _SHIPPED_FOLDER / SHIPPED)
        parse_name(name, "base_model")
        local = self._home.path(f"models/{wanted}", "base_model")
        if (local / "config.json").is_file():
            return _read_base(wanted, local)
        snapshot = self._snapshot(wanted)
        if snapshot is not None:
            return _read_base(wanted, snapshot)
        raise NotFound(
            f"模型不存在：{name}。请将其放入主目录的 models/{wanted}，或先用 Hugging Face 工具下载到缓存",
            f"no base model {name}: put it under models/{wanted} in the home folder or into the Hugging Face cache",
            model=name,
        )

    def adapters(self) -> list[Adapter]:
        """Every complete adapter under home, newest first; half-written and unreadable ones are left out."""
        found = []
        for folder in _folders_with(self._home.root, "adapter_config.json"):
            try:
                found.append(self._read_adapter(self._home.name(folder), folder))
            except Problem:
                continue
        return sorted(found, key=lambda adapter: adapter.created_at, reverse=True)

    def adapter(self, name: str) -> Adapter:
        """The adapter of that name: an alias, a version, its path below home, or the path's end when only one ends so.

        Raises:
            NotFound: there is none. Invalid: the folder is there but is no usable adapter, and why.
            Conflict: the version that the name points at is gone, or was replaced.
        """
        folder = self._home.path(name, "lora_adapter")
        # a path is asked for with each request and is never an alias; an alias is no folder's to take
        if "/" not in name or "@" in name:
            pointed = self._pointed(name)
            if pointed is not None:
                name, folder = pointed, self._home.path(pointed, "lora_adapter")
        if (folder / "adapter_config.json").is_file():
            return self._read_adapter(self._home.name(folder), folder)
        same_end = [adapter for adapter in self.adapters() if adapter.path.name == name]
        if len(same_end) == 1:
            return same_end[0]
        raise NotFound(f"LoRA 适配器不存在：{name}", f"no adapter {name} under the home folder", adapter=name)

    def knows(self, name: str) -> bool:
        """Whether a base model or an adapter answers to that name, usable or not."""
        for find in (self.base, self.adapter):
            try:
                find(name)
            except NotFound:
                continue
            except Problem:
                pass
            return True
        return False

    def with_id(self, wanted: str) -> Adapter | BaseModel:
        """The adapter or base model whose ``model_id`` that is.

        Raises:
            NotFound: there is none.
        """
        # bases first: an adapter somebody calls like one does not take its place
        known: tuple[Adapter | BaseModel, ...] = (*self.bases(), *self.adapters())
        for found in known:
            if model_id(found.name) == wanted:
                return found
        shown = UNPRINTABLE.sub("?", wanted)[:64]
        raise NotFound(f"模型不存在：{shown}", f"there is no model {shown}", model_id=shown)

    def check(self, model: Model) -> None:
        """Refuse a model that cannot be: base or adapter missing, or made for each other's enemies.

        Raises:
            NotFound: base or adapter is not there.
            Conflict: the adapter was trained on another base.
        """
        base = self.base(model.base)
        if model.adapter is None:
            return
        adapter = self.adapter(model.adapter)
        if adapter.base.removeprefix("models/") != base.name:
            raise Conflict(
                f"适配器 {adapter.name} 是为 {adapter.base} 训练的，不能用于 {base.name}",
                f"adapter {adapter.name} was trained on {adapter.base}, not on {base.name}",
                adapter=adapter.name,
                base=base.name,
            )

    def _base_folders(self) -> Iterator[tuple[str, Path]]:
        yield SHIPPED, _SHIPPED_FOLDER / SHIPPED
        models = self._home.root / "models"
        for folder in _folders_with(models, "config.json"):
            yield folder.relative_to(models).as_posix(), folder
        if self._hub is not None and self._hub.is_dir():
            for entry in sorted(self._hub.glob("models--*--*")):
                name = entry.name.removeprefix("models--").replace("--", "/", 1)
                snapshot = self._snapshot(name)
                if snapshot is not None:
                    yield name, snapshot

    def _snapshot(self, repository: str) -> Path | None:
        """The cached snapshot that ``main`` points to, as huggingface_hub lays it out."""
        if self._hub is None or not _REPOSITORY.fullmatch(repository) or ".." in repository:
            return None
        folder = self._hub / f"models--{repository.replace('/', '--')}"
        try:
            commit = (folder / "refs" / "main").read_text().strip()
        except OSError:
            return None
        snapshot = folder / "snapshots" / commit
        return snapshot if re.fullmatch(r"[0-9a-f]{40}", commit) and (snapshot / "config.json").is_file() else None

    def _read_adapter(self, name: str, folder: Path) -> Adapter:
        weights = folder / "adapter_model.safetensors"
        if not weights.is_file():
            raise NotFound(f"{name} 中没有 adapter_model.safetensors", f"{name} holds no adapter_model.safetensors")
        config = _read_config(folder / "adapter_config.json", name)
        base, rank = config.get("base_model_name_or_path"), config.get("r")
        if config.get("peft_type") != "LORA" or not isinstance(base, str) or not isinstance(rank, int):
            raise Invalid(f"{name} 不是 LoRA 适配器", f"{name} is not a LoRA adapter", adapter=name)
        if not 1 <= rank <= MAX_RANK or config.get("auto_mapping"):
            raise Invalid(f"{name} 的 adapter_config.json 不可用", f"{name}: adapter_config.json cannot be used")
        try:
            files = [os.stat(weights), os.stat(folder / "adapter_config.json")]
        except FileNotFoundError as error:  # removed while it was looked at
            raise NotFound(f"{name} 已被删除", f"{name} is gone", adapter=name) from error
        return Adapter(
            name=name,
            path=folder,
            base=base,
            rank=rank,
            size_bytes=sum(file.st_size for file in files),
            created_at=files[0].st_mtime,
            # the inode too: a folder replaced within one clock tick is another adapter
            version="-".join(f"{file.st_ino:x}.{file.st_mtime_ns:x}.{file.st_size:x}" for file in files),
        )


def _folders_with(root: Path, file: str) -> Iterator[Path]:
    """Folders below ``root`` holding ``file``, without following links or looking into temporary ones."""
    if not root.is_dir():
        return
    for folder, below, files in os.walk(root, followlinks=False):
        path = Path(folder)
        depth = len(path.relative_to(root).parts)
        below[:] = sorted(
            name
            for name in below
            if not name.startswith((".", PARTIAL))
            and depth < _MAX_DEPTH
            and not (depth == 0 and name in _WORKING_FOLDERS)
        )
        if file in files and depth:  # the root itself has no name
            below.clear()
            yield path


def _read_config(path: Path, name: str) -> dict[str, Any]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would hang us, a device would never end
            raise Invalid(f"{name} 的 {path.name} 不是普通文件", f"{name}: {path.name} is not a regular file")
        if path.stat().st_size > 4_000_000:
            raise Invalid(f"{name} 的 {path.name} 过大", f"{name}: {path.name} is too large")
        config = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        if not path.parent.exists():  # removed at this moment
            raise NotFound(f"模型不存在：{name}", f"no model {name} under the home folder") from error
        raise Invalid(f"{name} 的 {path.name} 无法读取", f"{name}: {path.name} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise Invalid(f"{name} 的 {path.name} 不是 JSON 对象", f"{name}: {path.name} is not a JSON object")
    return config


def _read_base(name: str, folder: Path) -> BaseModel:
    """A base model's folder, looked over before any library sees it.

    Raises:
        NotFound: no config.json. Invalid: not safetensors, or a config that could run code or climb out.
    """
    if not (folder / "config.json").is_file():
        raise NotFound(f"模型不存在：{name}", f"no base model {name}", model=name)
    config = _read_config(folder / "config.json", name)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        raise Invalid(f"{name} 的 model_type 无效", f"{name}: config.json has no valid model_type", model=name)
    if any("trust_remote_code" in key or key.startswith("_attn") for key in _keys(config)):
        raise Invalid(f"{name} 的 config.json 含有不允许的键", f"{name}: config.json holds a key that is not allowed")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise Invalid(
            f"{name} 没有 safetensors 权重（出于安全，不读取 .bin 或 .pt）",
            f"{name} has no safetensors weights (.bin and .pt are never read, for safety)",
            model=name,
        )
    _check_index(folder, name)
    listed = config.get("architectures")
    architectures = listed if isinstance(listed, list) and listed else [model_type]
    context = config.get("max_position_embeddings")
    return BaseModel(
        name=name,
        path=folder,
        architecture=str(architectures[0]),
        size_bytes=sum(file.stat().st_size for file in weights),
        context_length=context if isinstance(context, int) and context > 0 else 2048,
    )


def _check_index(folder: Path, name: str) -> None:
    """A sharded checkpoint may name only files beside it (a path in ``weight_map`` would be joined as it stands)."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _read_config(index, name).get("weight_map")
        if not isinstance(shards, dict) or any(
            not isinstance(s, str) or "/" in s or "\\" in s for s in shards.values()
        ):
            raise Invalid(
                f"{name} 的权重索引无效", f"{name}: the weight index names files outside the folder", model=name
            )


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)
