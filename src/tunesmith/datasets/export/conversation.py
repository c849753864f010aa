"""A sample as the list of messages that is trained on, before any format shapes it.

Every message is an OpenAI message: ``{"role", "content"}``, with ``tool_calls`` or ``tool_call_id`` behind them where
tools were called. The keys stand in the order they are written in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.datasets.export.sample import Sample, Strategy, Wanted
from tunesmith.datasets.export.wanted import DEFAULT_SYSTEM
from tunesmith.kernel.problems import Invalid

Turn = dict[str, Any]
_FINAL = "Considering the above, return a final result."
_NO_THINKING = "Thinking data is required when fine-tuning thinking models"
_ONLY_PLAIN = "keep user and assistant messages, and write tool calls as OpenAI's tool_calls"
_HISTORY = "<conversation_history>"  # an input that holds it is no single question, and is not wrapped as one


def refused(sample: Sample, zh: str, en: str, remedy: tuple[str, str]) -> Invalid:
    """``sample`` cannot be written: why, its id, and what to do, Chinese and English."""
    return Invalid(
        f"样本 {sample.id}：{zh}；{remedy[0]}",
        f"{en} Sample {sample.id}: {remedy[1]}.",
        field="samples",
        sample=sample.id,
    )


def conversation(sample: Sample, wanted: Wanted) -> list[Turn]:
    """What of ``sample`` is trained on, the system message first and the final answer last.

    Every earlier turn is there. The tool calls of the trace stand where its plain messages show that they belong;
    without those, as Kiln has them, between the question and what answers it.

    Args:
        wanted: as ``check_wanted`` gives it.

    Raises:
        Invalid: the strategy needs thinking and the sample has none, or its trace is broken.
    """
    before, after = _with_tools(sample)
    system = sample.system or DEFAULT_SYSTEM if wanted.system is None else wanted.system
    turns = [_turn("system", system), *before]
    thinking, instructions = _thinking(sample, wanted.strategy), wanted.thinking_instructions or ""
    if wanted.strategy is Strategy.TWO_MESSAGE:
        turns += [_turn("user", _wrapped(sample.input, instructions)), *after]
    elif wanted.strategy is Strategy.TWO_MESSAGE_LEGACY:
        turns += [_turn("user", sample.input), _turn("system", instructions), *after]
    else:
        turns += [_turn("user", sample.input), *after]
    if wanted.strategy.instructs:
        turns += [_turn("assistant", thinking), _turn("user", _FINAL)]
    final = f"<think>\n{thinking}\n</think>\n\n{sample.output}" if wanted.strategy is Strategy.R1 else sample.output
    turns.append(_turn("assistant", final))
    return turns


def text_of_content(content: object) -> str | None:
    """The text of an OpenAI message: itself, or its text parts a line each; None where there is none."""
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return "\n".join(texts) if texts else None
    return content if isinstance(content, str) else None


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _wrapped(asked: str, instructions: str) -> str:
    question = asked if _HISTORY in asked else f"The input is:\n<user_input>\n{asked}\n</user_input>"
    return f"{question}\n\n{instructions}"


def _thinking(sample: Sample, strategy: Strategy) -> str:
    """What was thought; "" where the strategy does not ask. A blank thought is one but to the R1 strategy."""
    if not strategy.thinks:
        return ""
    remedy = (
        f"请补上 reasoning 或 chain_of_thought，或改用策略 {Strategy.FINAL_ONLY}",
        f"add its reasoning or chain of thought, or choose the strategy {Strategy.FINAL_ONLY}",
    )
    if strategy is Strategy.R1 and not (sample.thinking or "").strip():
        raise refused(sample, "缺少思考过程（R1、QwQ 等模型需要）", f"{_NO_THINKING} (R1, QwQ, etc).", remedy)
    if sample.thinking is None:
        raise refused(sample, "缺少思考过程", f"{_NO_THINKING}.", remedy)
    return sample.thinking


def _with_tools(sample: Sample) -> tuple[list[Turn], list[Turn]]:
    """The earlier turns with the tool calls between them, and those that follow the last question."""
    for message in sample.earlier:
        if message.role not in ("user", "assistant"):
            raise refused(
                sample,
                f"较早的轮次里有 {message.role}",
                f"A turn before the last question is a {message.role} message.",
                ("请只保留 user 与 assistant，工具调用请按 OpenAI 的 tool_calls 书写", _ONLY_PLAIN),
            )
    earlier: list[Turn] = [_turn(message.role, message.content) for message in sample.earlier]
    if not sample.trace:
        return earlier, []
    # tools[n] is what was called before the earlier turn n, the last what was called after the last question
    tools: list[list[Turn]] = [[] for _ in range(len(earlier) + 1)]
    for place, turn in _tool_turns(sample, earlier):
        tools[place].append(turn)
    before = [each for place, turn in enumerate(earlier) for each in (*tools[place], turn)]
    return before, tools[-1]


def _tool_turns(sample: Sample, earlier: Sequence[Turn]) -> list[tuple[int, Turn]]:
    """Each tool call and tool result of the trace, with the number of earlier turns before it."""
    found: list[tuple[int, Turn]] = []
    place, called = 0, set[str]()
    for message in sample.trace:
        role = message.get("role")
        if role == "assistant" and message.get("tool_calls"):
            calls = message["tool_calls"]
            called.update(_call_ids(sample, calls))
            text = text_of_content(message.get("content")) or ""  # Fireworks takes no null
            found.append((place, {"role": "assistant", "content": text, "tool_calls": calls}))
        elif role == "tool":
            found.append((place, _tool_result(sample, message, called)))
        elif place < len(earlier) and earlier[place] == _turn(str(role), text_of_content(message.get("content")) or ""):
            place += 1
    if place < len(earlier):  # the trace is of the last question alone
        return [(len(earlier), turn) for _, turn in found]
    return found


def _call_ids(sample: Sample, calls: object) -> list[str]:
    if not isinstance(calls, list | tuple) or not all(_is_call(call) for call in calls):
        raise refused(
            sample,
            "工具调用不完整：需要 id、function.name 与作为 JSON 文本的 function.arguments",
            "A tool call is not as OpenAI writes it: id, function.name and function.arguments as JSON text.",
            ("请补全或删去这一样本", "complete it, or remove the sample"),
        )
    return [call["id"] for call in calls]


def _is_call(call: object) -> bool:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping) or not function.get("name"):
        return False
    return all(isinstance(text, str) for text in (call.get("id"), function["name"], function.get("arguments")))


def _tool_result(sample: Sample, message: Mapping[str, Any], called: set[str]) -> Turn:
    remedy = ("请补全或删去这一样本", "complete it, or remove the sample")
    id, content = message.get("tool_call_id"), text_of_content(message.get("content"))
    if not isinstance(id, str) or id not in called:
        en = "Tool call ID is required for tool response messages: one has none, or one that no call before it has."
        raise refused(sample, "工具结果没有 tool_call_id，或之前没有该 id 的调用", en, remedy)
    if content is None:
        raise refused(
            sample, "工具结果没有文本内容", "Content is required for tool response messages, and is text.", remedy
        )
    return {"role": "tool", "content": content, "tool_call_id": id}
