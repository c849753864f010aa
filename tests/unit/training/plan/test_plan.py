"""What a plan says: steps, time, memory, whether it fits, and what would make it fit. Values only, no model."""

from dataclasses import replace

import pytest

from tunesmith.training.plan.forecast import Drawing, memory_of
from tunesmith.training.plan.prediction import Counted, Linear, Measured, Plan, Shorter, Step, Weights, cut_at
from tunesmith.training.plan.room import Room
from tunesmith.training.run import Recipe

GB = 1_000_000_000
RECIPE = Recipe("big", "data/a.jsonl", epochs=3, batch_size=8, gradient_accumulation=2, max_length=4096)
COUNTED = Counted(
    examples=100,
    tokens=20_000,
    supervised=9_000,
    longest=4096,
    shorter=(Shorter(2048, 0.1, 0.02), Shorter(1024, 0.3, 0.1)),
)
LINEAR = {name: Linear(250_000_000, 100_000) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
WEIGHTS = Weights(1_100_000_000, LINEAR)
MEASURED = Measured(
    prepare_s=10.0,
    loaded_bytes=4 * GB,
    trained=8 * 400_000,
    bytes_each=4.0,
    parts={4096: 4096, 2048: 2048, 1024: 1024},
    small=Step(1000, 5 * GB),
    large=Step(4096, 5 * GB + 3096 * 1_000_000),
    pace=100.0,
    paced=2,
    steps=21,
)


def drawn(free: int, recipe: Recipe = RECIPE, measured: Measured | None = MEASURED, counted: Counted = COUNTED) -> Plan:
    return Drawing(recipe, counted, WEIGHTS, Room("cpu", free, 10 * GB), measured).plan()


def test_time_is_the_tokens_of_the_run_at_the_measured_speed() -> None:
    plan = drawn(100 * GB)
    assert (plan.steps, plan.updates_per_epoch) == (21, 7)
    assert (plan.tokens, plan.supervised, plan.train_s) == (60_000, 27_000, 600.0)
    assert plan.seconds == pytest.approx(10.0 + 600.0 + plan.finish_s)
    assert plan.fits and plan.remedies == () and "fits" in plan.message("en")


def test_what_is_scored_takes_time_as_often_as_it_is_scored() -> None:
    counted = replace(COUNTED, scored=1000, control=500)
    each_epoch = drawn(100 * GB, counted=counted).score_s
    often = drawn(100 * GB, replace(RECIPE, validation="v", evaluate_every=3), counted=counted).score_s
    assert (each_epoch, often) == (0.5 * (3 * 1000 + 2 * 500) / 100, 0.5 * (7 * 1000 + 2 * 500) / 100)


def test_memory_is_the_line_through_both_steps_and_a_copy_for_checkpoints() -> None:
    line = memory_of(MEASURED)
    assert (line.peak(1000), line.peak(4096), line.a_token) == (5 * GB, 8_096_000_000, 1_000_000)
    assert drawn(100 * GB).memory_bytes == 8_096_000_000 + 12 * MEASURED.trained


def test_one_step_alone_makes_a_line_from_the_loaded_model() -> None:
    line = memory_of(replace(MEASURED, large=None))
    assert (line.peak(0), line.peak(4096)) == (4 * GB, 4 * GB + 4096 * 1_000_000)


def test_a_run_that_cannot_fit_names_what_would_and_each_of_it_fits() -> None:
    plan = drawn(7 * GB)
    assert not plan.fits
    by_kind = {next(iter(remedy.changes)): remedy for remedy in plan.remedies}
    assert set(by_kind) == {"max_length", "quantization"}  # fewer modules save too little here
    shorter = by_kind["max_length"]
    assert (shorter.changes, shorter.shorter) == ({"max_length": 2048}, COUNTED.shorter[0])
    assert by_kind["quantization"].changes == {"quantization": "int8"}
    assert all(remedy.memory_bytes <= 0.95 * 7 * GB for remedy in plan.remedies)
    said = shorter.message("en")
    assert "max_length=2048" in said and "6.1 GB" in said and "10.0%" in said and "2.0%" in said
    assert "does not fit" in plan.message("en") and "放不下" in plan.message("zh")


def test_only_where_no_change_alone_is_enough_several_are_made_together() -> None:
    [together] = drawn(int(2.5 * GB)).remedies
    assert together.changes["quantization"] == "int4" and together.changes["max_length"] in (2048, 1024)
    assert together.memory_bytes <= 0.95 * 2.5 * GB


def test_where_nothing_helps_the_plan_says_so() -> None:
    plan = drawn(1 * GB)
    assert plan.remedies == () and not plan.fits and "smaller base model" in plan.message("en")


def test_fewer_modules_are_offered_where_their_weights_weigh_enough() -> None:
    heavy = Weights(WEIGHTS.count, {name: Linear(1, 12_500_000) for name in LINEAR})
    measured = replace(MEASURED, trained=8 * 50_000_000)
    found = (
        Drawing(RECIPE, replace(COUNTED, shorter=()), heavy, Room("cuda:0", 2 * GB, 99 * GB), measured).plan().remedies
    )
    assert [tuple(each.changes["target_modules"]) for each in found] == []
    roomy = Room("cuda:0", 8 * GB, 99 * GB)
    [remedy] = Drawing(RECIPE, replace(COUNTED, shorter=()), heavy, roomy, measured).plan().remedies
    assert tuple(remedy.changes["target_modules"]) == ("q_proj", "v_proj")
    assert "target_modules=q_proj,v_proj" in remedy.message("en")


def test_a_rehearsal_ended_for_its_memory_never_fits() -> None:
    room = Room("cpu", 20 * GB, 10 * GB)
    plan = Drawing(RECIPE, COUNTED, WEIGHTS, room, why=("满", "full"), at_least=20 * GB).plan()
    assert not plan.fits and plan.memory_bytes > 20 * GB and plan.note("en") == "full"


def test_a_full_disk_does_not_fit() -> None:
    plan = Drawing(RECIPE, COUNTED, WEIGHTS, Room("cpu", 100 * GB, 1_000_000), MEASURED).plan()
    assert not plan.fits and plan.fits_memory and "disk" in plan.message("en")


def test_an_estimate_says_that_it_is_one_and_counts_steps_as_the_loop_does() -> None:
    plan = Drawing(RECIPE, COUNTED, WEIGHTS, Room("cpu", 100 * GB, 10 * GB), why=("忙", "busy"), cores=2).plan()
    assert (plan.measured, plan.note("zh"), plan.steps, plan.updates_per_epoch) == (False, "忙", 21, 7)
    assert plan.memory_bytes > 4 * WEIGHTS.count and plan.train_s > 0


def test_lengths_tell_what_a_smaller_limit_would_cut_and_lose() -> None:
    assert cut_at([10, 20, 30, 40], [5, 25, 6, 30], 20) == Shorter(20, 0.5, 0.5)
    assert cut_at([10], [9], 10) == Shorter(10, 0.0, 0.0)


def test_memory_that_later_steps_took_counts_too() -> None:
    line = memory_of(replace(MEASURED, peak_bytes=9 * GB))
    assert line.peak(4096) == 9 * GB and line.a_token == 1_000_000


def test_steps_nobody_counted_are_counted_as_the_loop_does() -> None:
    assert drawn(100 * GB, measured=replace(MEASURED, steps=0)).steps == 21
