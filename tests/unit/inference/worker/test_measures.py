"""What an engine counts of its rows, and the page it becomes."""

from dataclasses import dataclass, field

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tunesmith.inference.worker import measures as counted
from tunesmith.inference.worker.exposition import page
from tunesmith.inference.worker.measures import MOST_ADAPTERS, OTHERS, Histogram, Measures


@dataclass(frozen=True)
class Adapter:
    name: str


@dataclass(eq=False)
class Row:
    """As much of a row as is counted."""

    adapter: Adapter | None = None
    prompt: list[int] = field(default_factory=lambda: [1] * 10)
    cached: int = -1
    asked: float = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    clock = Clock()
    monkeypatch.setattr(counted.time, "monotonic", lambda: clock.now)
    return clock


@dataclass
class Clock:
    now: float = 100.0


def told(measures: Measures) -> dict[str, float]:
    """The samples of the page by name and labels, as Prometheus reads them."""
    families = text_string_to_metric_families(page(measures, "tiny", 0.25).decode())
    return {
        ",".join([sample.name.removeprefix("tunesmith:"), *(f"{k}={v}" for k, v in sorted(sample.labels.items()))]): (
            sample.value
        )
        for family in families
        for sample in family.samples
    }


def test_a_row_is_counted_from_its_place_in_the_queue_to_its_end(clock: Clock) -> None:
    measures, row = Measures(), Row(Adapter("adapters/one@abc#7"), cached=4)
    of = "adapter=adapters/one,model_name=tiny"
    measures.queued(row)
    assert told(measures)[f"num_requests_waiting,{of}"] == 1
    clock.now = 101.0
    measures.admitted(row)
    clock.now = 102.0
    measures.moved([(row, 1)], clock.now)
    clock.now = 102.04
    measures.moved([(row, 3)], clock.now)
    seen = told(measures)
    assert seen[f"num_requests_waiting,{of}"] == 0
    assert seen[f"num_requests_running,{of}"] == 1
    measures.left(row, "stop")
    measures.left(row, "stop")
    seen = told(measures)
    assert seen[f"num_requests_running,{of}"] == 0
    assert seen[f"prompt_tokens_total,{of}"] == 10
    assert seen[f"generation_tokens_total,{of}"] == 4
    assert seen[f"prefix_cache_queries_total,{of}"] == 10
    assert seen[f"prefix_cache_hits_total,{of}"] == 4
    assert seen["request_success_total,adapter=adapters/one,finished_reason=stop,model_name=tiny"] == 1
    assert seen["kv_cache_usage_perc,model_name=tiny"] == 0.25
    assert seen[f"request_queue_time_seconds_sum,{of}"] == 1.0
    assert seen[f"time_to_first_token_seconds_sum,{of}"] == 2.0
    assert seen[f"inter_token_latency_seconds_count,{of}"] == 1
    assert seen["inter_token_latency_seconds_bucket,adapter=adapters/one,le=0.05,model_name=tiny"] == 1
    assert seen["inter_token_latency_seconds_bucket,adapter=adapters/one,le=0.025,model_name=tiny"] == 0
    assert seen[f"e2e_request_latency_seconds_sum,{of}"] == pytest.approx(2.04)


def test_rows_that_go_on_together_are_counted_as_one_by_one(clock: Clock) -> None:
    def counted(together: bool) -> dict[str, float]:
        measures = Measures()
        rows = [Row(Adapter("one") if n % 3 else None) for n in range(5)]
        for row in rows:
            measures.queued(row)
            measures.admitted(row)
        measures.moved([(row, 1) for row in rows], 101.0)
        going_on = measures.together(rows)
        for now in (101.5, 101.75, 105.0):
            if together:
                going_on.moved(now)
            else:
                measures.moved([(row, 1) for row in rows], now)
        measures.moved([(rows[0], 1)], 105.5)  # by itself again
        return told(measures)

    assert counted(together=True) == counted(together=False)


def test_rows_that_never_ran_or_were_only_scored_are_counted_truly() -> None:
    measures, gone, scored, lost = Measures(), Row(), Row(), Row()
    for row in (gone, scored, lost):
        measures.queued(row)
    measures.left(gone, "abort")
    for row in (scored, lost):
        measures.admitted(row)
        measures.admitted(row)  # it lost its place and came back
    measures.left(scored, "length")
    measures.left(lost, "error")
    measures.moved([(lost, 1)], 103.0)  # too late
    seen, of = told(measures), "adapter=,model_name=tiny"
    assert seen[f"num_requests_waiting,{of}"] == seen[f"num_requests_running,{of}"] == 0
    assert seen[f"prompt_tokens_total,{of}"] == 10
    assert [
        seen[f"request_success_total,adapter=,finished_reason={reason},model_name=tiny"]
        for reason in ("stop", "length", "abort", "error")
    ] == [0, 1, 1, 1]


def test_a_bucket_holds_its_own_bound_and_the_last_has_none() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.1, 0.10001, 1.0, 7.0):
        histogram.observe(seconds)
    assert histogram.counts == [1, 2, 1]


def test_names_from_outside_stay_labels_and_are_only_so_many() -> None:
    measures = Measures()
    for name in ('a"b\\c\nd', "half \ud800", "x" * 5000, *(f"adapters/{n}" for n in range(2 * MOST_ADAPTERS))):
        row = Row(Adapter(name))
        measures.queued(row)
        measures.left(row, "abort")
    counts = {
        sample.labels["adapter"]: sample.value
        for family in text_string_to_metric_families(page(measures, "tiny", 0.0).decode())
        for sample in family.samples
        if sample.name == "tunesmith:request_success_total" and sample.labels["finished_reason"] == "abort"
    }
    assert {'a"b\\c\nd', "half ?", OTHERS} <= set(counts)
    assert len(counts) == MOST_ADAPTERS + 2  # the bare base, and the others as one
    assert sum(counts.values()) == 2 * MOST_ADAPTERS + 3
    assert max(map(len, counts)) == 200
