"""The adapter of a model tuned at Fireworks, fetched from the addresses it signs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.kernel.problems import Forbidden, Invalid, NotFound, Problem, Unavailable, Unsupported
from tunesmith.training.executors.fireworks_wire import MODELS, last, resource
from tunesmith.training.hosted.wire import Wire

# what PEFT opens, and bytes of each at most; nothing else is fetched, and no name of theirs is ever a path of ours
_WANTED: Mapping[str, int] = {"adapter_config.json": 1 << 20, "adapter_model.safetensors": 16 << 30}
_REFUSED = frozenset({400, 403, 404, 405, 501})
_SHOWN = 10


async def save(wire: Wire, model: str, to: Path) -> None:
    """Fetch the adapter of a tuned model into the empty folder ``to``.

    Raises:
        Unsupported: it is not handed out, or not as PEFT keeps it.
        Unavailable: an address is none we ask, a file is too large, or Fireworks does not answer.
    """
    try:
        answer = await wire.json("GET", f"{resource(model, MODELS)}:getDownloadEndpoint")
    except (Invalid, Forbidden, NotFound, Unavailable) as problem:
        if problem.details.get("upstream_status") in _REFUSED:
            raise _not_handed_out(model, problem) from None
        raise
    found = addresses(wire, answer)
    chosen = {name: _address(found, name) for name in _WANTED}
    if not all(chosen.values()):
        shown = ", ".join(sorted(repr(name[:80]) for name in found)[:_SHOWN]) or "-"
        raise Unsupported(
            f"Fireworks 没有以 PEFT 格式提供 {last(model)} 的适配器（提供的文件：{shown}）",
            f"Fireworks does not hand out the adapter of {last(model)} as PEFT keeps it (files: {shown})",
        )
    for name, most in _WANTED.items():
        await wire.save(chosen[name], to / name, most)


def addresses(wire: Wire, answer: Any) -> dict[str, str]:
    """Signed addresses by file name.

    Raises:
        Unavailable: the answer has another shape.
    """
    urls = answer.get("filenameToSignedUrls") if isinstance(answer, dict) else None
    return wire.shaped(urls or {}, dict[str, str])


def _address(found: Mapping[str, str], wanted: str) -> str:
    """The address of a file, at the top if it is there, or in the only folder that has it; "" where it is not."""
    if wanted in found:
        return found[wanted]
    places = [name for name in found if last(name) == wanted]
    return found[places[0]] if len(places) == 1 else ""


def _not_handed_out(model: str, problem: Problem) -> Unsupported:
    return Unsupported(
        f"Fireworks 不提供 {last(model)} 的适配器下载：{problem.zh}",
        f"Fireworks does not hand out the adapter of {last(model)}: {problem.en}",
        **problem.details,
    )
