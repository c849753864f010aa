"""The counts of all engines as one page: each engine tells its own, and what it cannot tell is added."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import structlog

from tunesmith.inference.engine_status import EnginePage

if TYPE_CHECKING:
    from prometheus_client import Metric

log = structlog.get_logger(__name__)
_PAGE_S = 2.0  # longest wait for an engine
_OURS = ("tunesmith:", "vllm:")  # the rest of a page is about a process, and would be there once for every engine


class Engines(Protocol):
    """Where the pages of all engines come from."""

    async def pages(self, *, within_s: float) -> list[EnginePage]: ...


async def gathered(engines: Engines) -> bytes:
    """The page of all engines as they are now, within seconds: one that does not answer does not hold up the rest."""
    return await asyncio.to_thread(one_page, await engines.pages(within_s=_PAGE_S))


def one_page(pages: Sequence[EnginePage]) -> bytes:
    """All pages as one in Prometheus' text format. One that cannot be read counts as an engine that did not answer."""
    from prometheus_client import generate_latest

    read = [(page, _families(page)) for page in pages]
    return generate_latest(_Gathered(read))


class _Gathered:
    """What ``generate_latest`` takes for a registry."""

    def __init__(self, read: "Sequence[tuple[EnginePage, list[Metric] | None]]") -> None:
        self._read = read

    def collect(self) -> Iterator["Metric"]:
        up = [(page.base, float(families is not None)) for page, families in self._read]
        yield _gauge("engine_up", "Whether the engine of a base model answers.", up)
        for name, help_text, values in (
            ("engine_rows", "Rows asked of an engine that have not ended.", [p.rows for p, _ in self._read]),
            ("engine_resident_memory_bytes", "Memory of an engine's processes.", [p.rss for p, _ in self._read]),
            ("engine_crashes", "Crashes in a row, without an answer between.", [p.crashes for p, _ in self._read]),
        ):
            yield _gauge(name, help_text, ((p.base, float(v)) for (p, _), v in zip(self._read, values, strict=True)))
        yield from _joined(families for _, families in self._read if families is not None)


def _families(page: EnginePage) -> "list[Metric] | None":
    from prometheus_client.parser import text_string_to_metric_families

    if page.text is None:
        return None
    try:
        found = list(text_string_to_metric_families(page.text.decode()))
    except ValueError as error:  # UnicodeDecodeError too
        log.warning("the metrics of an engine cannot be read", base=page.base, reason=str(error)[:200])
        return None
    for family in found:
        family.samples = [
            sample._replace(timestamp=None) for sample in family.samples
        ]  # now is when they were asked for
    return [family for family in found if family.name.startswith(_OURS)]


def _joined(pages: "Iterable[list[Metric]]") -> "Iterator[Metric]":
    """Families of one name become one; a sample that was there is not repeated, for two engines may be one server."""
    by_name: dict[str, Metric] = {}
    seen = set[tuple[str, tuple[tuple[str, str], ...]]]()
    for families in pages:
        for family in families:
            into = by_name.setdefault(family.name, family)
            if into.type != family.type:
                continue
            new = []
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                if key not in seen:
                    seen.add(key)
                    new.append(sample)
            into.samples = new if into is family else [*into.samples, *new]
    yield from by_name.values()


def _gauge(name: str, help_text: str, values: Iterable[tuple[str, float]]) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"tunesmith:{name}", help_text, labels=["model_name"])
    for base, value in values:
        family.add_metric([base], value)
    return family
