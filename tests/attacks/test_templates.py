"""Templates that would run code, read attributes or grow without end, were they formatted and not replaced."""

import json

import pytest

from tests.attacks.conftest import Attacker, refused
from tests.server import Server

REFUSED = {
    "attribute": "{instruction.__class__.__init__.__globals__} {instruction} {response}",
    "index": "{instruction[0]} {instruction} {response}",
    "position": "{0} {instruction} {response}",
    "unknown name": "{password} {instruction} {response}",
    "padding": "{x:>999999999} {instruction} {response}",
    "conversion": "{instruction!r} {instruction} {response}",
    "no response": "{instruction}",
    "no instruction": "{response}",
    "two responses": "{instruction}{response}{response}",
    "too long": "{instruction}{response}" + "x" * 20_001,
}


@pytest.fixture(scope="module")
def raw(mallory: Attacker) -> str:
    rows = [
        {
            "instruction": f"{{response}} {{input}} {{{{7*7}}}} %s {n}",
            "input": "{instruction}",
            "output": f"{{input}} {n}",
        }
        for n in range(20)
    ]
    answer = mallory.upload(json.dumps(rows).encode(), name="for templates")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


@pytest.mark.parametrize("label", REFUSED)
def test_a_template_that_is_no_plain_text_with_placeholders_is_refused_or_stays_text(
    server: Server, mallory: Attacker, raw: str, label: str
) -> None:
    name = f"template_{label.replace(' ', '_')}"
    answer = mallory.post("/datasets/process", {"dataset_id": raw, "output_name": name, "template": REFUSED[label]})
    if answer.status_code == 400:
        refused(answer, 400)
        assert not (server.home / "data" / "processed" / name).exists()
        return
    text = (server.home / answer.json()["output_path"] / "train.jsonl").read_text()
    assert "globals" not in text.replace("__globals__", "") and len(text) < 100_000
    left = REFUSED[label].split(" ")[0]
    assert json.dumps(left)[1:-1] in text


def test_values_are_not_expanded_again(server: Server, mallory: Attacker, raw: str) -> None:
    template = '{"a": 1} {{ 7 * 7 }} {% for x in y %} %(name)s $HOME Q: {instruction} ({input})\nA: {response} end'
    body = {"dataset_id": raw, "output_name": "literal", "template": template}
    answer = mallory.post("/datasets/process", body)
    assert answer.status_code == 200, answer.text
    lines = (server.home / answer.json()["output_path"] / "train.jsonl").read_text().splitlines()
    for line in lines:
        asked, answered = (each["content"] for each in json.loads(line)["messages"])
        number = answered.split()[1]
        assert asked == (
            '{"a": 1} {{ 7 * 7 }} {% for x in y %} %(name)s $HOME '
            f"Q: {{response}} {{input}} {{{{7*7}}}} %s {number} ({{instruction}})\nA: "
        )
        assert answered == f"{{input}} {number} end"
