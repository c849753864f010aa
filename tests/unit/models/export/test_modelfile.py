"""Ollama's Modelfile: its Go template renders what the chat template renders."""

from typing import Any

import pytest

from tests.tiny_model import CHATML
from tunesmith.models.export import go_template
from tunesmith.models.export.modelfile import PROBES, Template, go_version, modelfile, ollama_name, readme
from tunesmith.models.export.vocabulary import read_template, special_texts
from tunesmith.models.registry import SHIPPED, Registry

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% generation %}{{ message.content }}<|im_end|>\n"
    "{% endgeneration %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def by_go(template: str, messages: Any) -> str:
    system = "\n\n".join(turn["content"] for turn in messages if turn["role"] == "system")
    turns = [{"Role": turn["role"], "Content": turn["content"]} for turn in messages]
    return go_template.render(template, {"Messages": turns, "System": system})


@pytest.mark.parametrize(
    ("jinja", "bos"),
    [(CHATML, ""), (QWEN, ""), (MARKED, ""), (LLAMA3, "<|begin_of_text|>")],
    ids=["chatml", "qwen", "marked", "llama3"],
)
def test_known_templates_are_rendered_alike(jinja: str, bos: str) -> None:
    template = Template(jinja, {"bos_token": bos} if bos else {})
    found = go_version(template, adds_bos=bool(bos))
    assert found is not None
    more = ({"role": "system", "content": "S"}, {"role": "user", "content": "{{ .System }} 是什么？"})
    for messages in (*PROBES, more):
        assert by_go(found, messages) == template.render(messages).removeprefix(bos)


def test_the_shipped_models_template_is_known() -> None:
    from tunesmith.kernel.home import Home

    folder = Registry(Home.__new__(Home)).base(SHIPPED).path
    text = read_template(folder)
    assert text is not None and go_version(Template(text, special_texts(folder)), adds_bos=False) is not None


@pytest.mark.parametrize(
    "jinja",
    [
        CHATML.replace("<|im_end|>\n", "<|im_end|>"),
        CHATML + "<think>",
        "{{ raise_exception('no') }}",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        LLAMA3,  # puts the first token itself, and nobody else does
        "{% broken",
    ],
)
def test_a_template_that_differs_anywhere_is_not_taken_for_a_known_one(jinja: str) -> None:
    assert go_version(Template(jinja, {"bos_token": "<s>"}), adds_bos=False) is None


def test_a_template_cannot_reach_what_is_not_its_own() -> None:
    assert go_version(Template("{{ messages.__class__.__mro__ }}", {}), adds_bos=False) is None


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("a {{- .X }} b", "a1 b"),
        ("a {{ .X -}} b", "a 1b"),
        ("{{ if .X }}yes{{ else }}no{{ end }}{{ if .None }}yes{{ else }}no{{ end }}", "yesno"),
        ('{{ range .L }}{{ if eq .R "u" }}<{{ .R }}{{ $.X }}>{{ end }}{{ end }}', "<u1>"),
        ('{{ range .L }}{{ if ne .R "u" }}<{{ .R }}>{{ end }}{{ end }}', "<v>"),
    ],
)
def test_the_go_that_is_known_here_means_what_it_means_there(template: str, rendered: str) -> None:
    assert go_template.render(template, {"X": "1", "L": [{"R": "u"}, {"R": "v"}]}) == rendered


@pytest.mark.parametrize(
    "template", ["{{ len .X }}", "{{ if .X }}", "{{ end }}", "{{ else }}", "{{ if and .X .Y }}{{ end }}"]
)
def test_go_that_is_not_known_here_is_refused(template: str) -> None:
    with pytest.raises(ValueError):
        go_template.render(template, {"X": "1"})


def test_a_modelfile_names_its_files_its_template_and_where_answers_stop() -> None:
    text = modelfile("base.gguf", "adapter.gguf", "{{ .Prompt }}\n", ["<|im_end|>"], rendered_by_gguf=True)
    assert text == (
        'FROM ./base.gguf\nADAPTER ./adapter.gguf\nTEMPLATE """{{ .Prompt }}\n"""\nPARAMETER stop "<|im_end|>"\n'
    )


def test_an_unknown_template_becomes_a_comment_and_no_template() -> None:
    text = modelfile("model.gguf", None, None, [], rendered_by_gguf=True)
    assert 'TEMPLATE """' not in text and "# Ollama must use the GGUF's own" in text
    assert "read its comment" in readme("town", template_known=False)


@pytest.mark.parametrize(("name", "made"), [("adapters/Town Two", "town-two"), ("a/!!", "tuned"), ("x", "x")])
def test_ollama_gets_a_name_it_takes(name: str, made: str) -> None:
    assert ollama_name(name) == made
