"""Dialects' defaults and frames, without a server."""

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone

from tunesmith.dialects.compare_chat import wire as compare
from tunesmith.dialects.gpt_service import wire as gpt
from tunesmith.dialects.gpt_service.run_answers import task
from tunesmith.inference.engine import Delta, Done
from tunesmith.kernel.problems import Invalid, Unavailable
from tunesmith.training.run import Progress, Recipe, Run, State

END = Done(1, "length", 5, 7, 0.1, 0.2)


def frames(sent: bytes) -> list[object]:
    assert sent.endswith(b"\n\n")
    texts = [part.removeprefix("data: ") for part in sent.decode().split("\n\n")[:-1]]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def test_compare_defaults_are_the_documents() -> None:
    asked = compare.ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}]})
    sampling = asked.sampling()
    assert (asked.stream, asked.compare) == (False, False)
    assert (sampling.temperature, sampling.max_new_tokens, sampling.top_p) == (0.7, 512, 0.9)
    assert sampling.repetition_penalty == 1.1


def test_gpt_service_defaults_are_the_documents() -> None:
    sampling = gpt.GenerateRequest.model_validate({"prompt": "hi"}).sampling()
    assert (sampling.temperature, sampling.max_new_tokens, sampling.top_p) == (0.8, 512, 0.9)
    assert sampling.repetition_penalty == 1.05
    recipe = gpt.TrainRequest.model_validate({"base_model": "b", "dataset_path": "d.csv"}).recipe(2048)
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.max_length) == (3, 4, 2e-4, 1024)
    assert recipe.dataset_format is None


def test_every_field_beyond_the_document_reaches_the_recipe() -> None:
    beyond = {
        "validation_path": "v", "replay_path": "p", "replay_share": 0.25, "lora_r": 4, "lora_alpha": 9,
        "lora_dropout": 0.2, "max_length": 99, "quantization": "int4", "seed": 7, "control_path": "c",
        "objective": "dpo", "dpo_beta": 0.3, "use_rslora": True, "use_dora": True, "target_modules": ["q_proj"],
        "lr_scheduler_type": "linear", "warmup_ratio": 0.1, "weight_decay": 0.2, "gradient_accumulation_steps": 3,
        "eval_steps": 5, "load_best_model_at_end": True, "early_stopping_patience": 2,
    }  # fmt: skip
    asked = {"base_model": "b", "dataset_path": "d.csv", "num_epochs": 9, "batch_size": 5, "learning_rate": 0.5}
    assert set(asked) | set(beyond) | {"output_dir", "dataset_format"} == set(gpt.TrainRequest.model_fields)
    usual, made = Recipe("b", "d.csv"), gpt.TrainRequest.model_validate(asked | beyond).recipe(2048)
    reached = {field.name for field in fields(Recipe) if getattr(made, field.name) != getattr(usual, field.name)}
    not_asked = {"base_model", "dataset", "dataset_format", "max_grad_norm", "skip_bad"}
    assert reached == {field.name for field in fields(Recipe)} - not_asked
    assert made.target_modules == ("q_proj",) and made.evaluate_every == 5 and made.early_stopping == 2


def test_a_length_nobody_named_fits_a_short_context() -> None:
    body = {"base_model": "b", "dataset_path": "d.json"}
    assert gpt.TrainRequest.model_validate(body).recipe(512).max_length == 512
    assert gpt.TrainRequest.model_validate({**body, "max_length": 2000}).recipe(512).max_length == 2000


def test_compare_frames_name_their_side() -> None:
    encoder = compare.CompareEncoder("zh")
    assert frames(encoder.event(Delta(0, "左"))) == [{"source": "base", "content": "左"}]
    assert frames(encoder.event(Delta(1, "右"))) == [{"source": "lora", "content": "右"}]
    assert frames(encoder.event(END)) == [{"source": "lora", "done": True}]
    assert frames(encoder.end()) == ["[DONE]"]
    assert frames(encoder.error(Unavailable("断了", "broken"))) == [{"error": "断了", "done": True}]


def test_plain_frames_say_the_text_twice() -> None:
    encoder = compare.AnswerEncoder("en")
    assert frames(encoder.event(Delta(0, "a\n\nb"))) == [{"message": {"content": "a\n\nb"}, "response": "a\n\nb"}]
    assert encoder.event(END) == b""
    assert frames(encoder.error(Unavailable("断了", "broken"))) == [{"error": "broken", "done": True}]


def test_generate_frames_end_with_totals_and_done() -> None:
    encoder = gpt.StreamEncoder("model", "zh")
    encoder.event(END)
    totals, done = frames(encoder.end())
    assert totals == {
        "text": "",
        "done": True,
        "model_name": "model",
        "tokens_generated": 7,
        "finish_reason": "length",
    }
    assert done == "[DONE]"


def test_only_problems_with_messages_have_the_documents_sentence() -> None:
    wrong = Invalid("x", "x", field="messages[0].content")
    assert compare.error(400, "said", wrong) == {"code": 400, "msg": "Missing or invalid messages"}
    assert compare.error(400, "said", Invalid("x", "x", field="top_p")) == {"code": 400, "msg": "said"}
    assert compare.error(404, "said", None) == {"code": 404, "msg": "said"}


def run(**changes: object) -> Run:
    recipe = Recipe(base_model="b", dataset="d", epochs=3)
    created = datetime(2024, 1, 1, 8, tzinfo=timezone(timedelta(hours=8)))
    return Run(id="1", recipe=recipe, output="o", executor="local", created_at=created, **changes)  # type: ignore[arg-type]


def test_a_task_shows_percent_epochs_from_one_and_times_in_utc() -> None:
    progress = Progress(step=91, total_steps=200, epoch=1.365, loss=0.123)
    shown = task(run(state=State.RUNNING, progress=progress, started_at=datetime(2024, 1, 1, 0, 1, tzinfo=UTC)), "zh")
    assert (shown["progress"], shown["current_epoch"], shown["total_epochs"]) == (45.5, 2, 3)
    assert (shown["created_at"], shown["started_at"]) == ("2024-01-01T00:00:00", "2024-01-01T00:01:00")
    assert task(run(), "zh")["current_epoch"] == 0
    ended = task(run(state=State.COMPLETED, progress=Progress(200, 200, 3.0)), "zh")
    assert (ended["progress"], ended["current_epoch"]) == (100.0, 3)


def test_a_failed_task_says_why_in_the_readers_language() -> None:
    failed = run(state=State.FAILED, error="disk full", error_zh="磁盘已满")
    assert task(failed, "zh")["error"] == "磁盘已满"
    assert task(failed, "en")["error"] == "disk full"
