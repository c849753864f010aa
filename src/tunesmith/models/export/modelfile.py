"""What Ollama needs beside a GGUF file: a Modelfile whose template renders what the model was trained on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.models.export import go_template

Conversation = Sequence[Mapping[str, str]]

_CHATML = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
_LLAMA3 = (
    "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
_OWN_SYSTEM = re.compile(r"<\|im_start\|>system\n(.*?)<\|im_end\|>\n", re.DOTALL)
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_USER = {"role": "user", "content": "你好, what is 1 + 1?\nSay it in two words."}
_SYSTEM = {"role": "system", "content": "You are terse.\n回答要短。"}
_TURNS = (_USER, {"role": "assistant", "content": "It is 2."}, {"role": "user", "content": "And 2 + 2?"})
PROBES: tuple[Conversation, ...] = ((_USER,), (_SYSTEM, _USER), _TURNS, (_SYSTEM, *_TURNS))


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template in Jinja, as transformers renders it.

    Args:
        special: ``bos_token``, ``eos_token`` and their like.
    """

    text: str
    special: Mapping[str, str]

    def render(self, messages: Conversation) -> str:
        """The conversation up to where the assistant begins to answer.

        Raises:
            jinja2.TemplateError: the template refuses it or fails.
        """
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> str:
            raise jinja2.TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.globals["raise_exception"] = refuse
        plain = _GENERATION.sub("", self.text)  # marks for training: they print nothing
        known: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": True, **self.special}
        return environment.from_string(plain).render(known)


def go_version(template: Template, *, adds_bos: bool) -> str | None:
    """A Go template for Ollama that renders every one of PROBES as ``template`` does; None where none is known.

    Args:
        adds_bos: the first token is put before the text by itself, so the Go template leaves it out.
    """
    rendered = _renderings(template, adds_bos=adds_bos)
    if rendered is None:
        return None
    candidates = [_CHATML, _LLAMA3]
    if own := _OWN_SYSTEM.match(rendered[0]):
        candidates.append("{{- if .System }}{{ else }}" + own[0] + "{{ end }}" + _CHATML.replace("{{-", "{{", 1))
    for candidate in candidates:
        try:
            if '"""' not in candidate and rendered == [_by_go(candidate, probe) for probe in PROBES]:
                return candidate
        except ValueError:  # the model's own system message looks like Go
            continue
    return None


def modelfile(
    model: str, adapter: str | None, template: str | None, stops: Sequence[str], *, rendered_by_gguf: bool
) -> str:
    """The text of a Modelfile.

    Args:
        model, adapter: names of GGUF files beside it.
        template: in Go; None where none is known.
        stops: texts that end an answer.
        rendered_by_gguf: the GGUF file holds a chat template of its own.
    """
    lines = [f"FROM ./{model}"]
    if adapter is not None:
        lines.append(f"ADAPTER ./{adapter}")
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    elif rendered_by_gguf:
        lines.append("# No Go template is known that renders this model's chat template, so there is no TEMPLATE here.")
        lines.append("# Ollama must use the GGUF's own (tokenizer.chat_template): check what it makes of it with")
        lines.append("# `ollama show --template NAME` before you trust an answer, and write a TEMPLATE if it is wrong.")
    else:
        lines.append("# This model has no chat template: it completes text.")
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if '"' not in stop and "\n" not in stop]
    return "\n".join(lines) + "\n"


def readme(name: str, *, template_known: bool) -> str:
    """The text of the README beside it: two commands."""
    caution = (
        ""
        if template_known
        else "\nThe Modelfile has no TEMPLATE: read its comment first.\n没有可用的 TEMPLATE：请先阅读 Modelfile 中的说明。\n"
    )
    return f"""# {name}

In this folder / 在此目录中:

```
ollama create {name} -f Modelfile
ollama run {name}
```
{caution}
`parity.json` says how the answers of these files compare with Tunesmith's own.
`parity.json` 记录了导出文件的回答与 Tunesmith 自己回答的比较。
"""


def ollama_name(name: str) -> str:
    """A name ``ollama create`` takes, from an adapter's."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.rsplit("/", 1)[-1].lower()).strip("-._") or "tuned"


def _renderings(template: Template, *, adds_bos: bool) -> list[str] | None:
    try:
        rendered = [template.render(probe) for probe in PROBES]
    except Exception:  # a template is a program, and may fail in any way
        return None
    bos = template.special.get("bos_token", "")
    if adds_bos and bos:
        return [text.removeprefix(bos) for text in rendered]
    return rendered


def _by_go(template: str, messages: Conversation) -> str:
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    turns = [{"Role": message["role"], "Content": message["content"]} for message in messages]
    return go_template.render(template, {"Messages": turns, "System": system})
