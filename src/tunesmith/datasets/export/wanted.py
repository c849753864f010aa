"""What a caller asks of the formatter, read and checked before any example is."""

from dataclasses import replace

from tunesmith.datasets.export.sample import Format, Strategy, Wanted
from tunesmith.kernel.problems import Invalid

DEFAULT_SYSTEM = "You are a helpful assistant."
DEFAULT_THINKING = "Think step by step, explaining your reasoning."
# these want the last answer to be a JSON object, which it no longer is with the thinking before it
JSON_FORMATS = frozenset({Format.OPENAI_CHAT_JSON_SCHEMA, Format.OPENAI_CHAT_TOOLCALL, Format.HUGGINGFACE_TOOLCALL})


def read_format(text: str) -> Format:
    """The format called ``text``.

    Raises:
        Invalid: there is none of that name.
    """
    try:
        return Format(text)
    except ValueError:
        raise _unknown(text, "format_type", ("数据集格式", "Dataset format"), ", ".join(Format)) from None


def read_strategy(text: str) -> Strategy:
    """The strategy called ``text``.

    Raises:
        Invalid: there is none of that name.
    """
    try:
        return Strategy(text)
    except ValueError:
        raise _unknown(text, "data_strategy", ("数据策略", "Data strategy"), ", ".join(Strategy)) from None


def check_wanted(wanted: Wanted) -> Wanted:
    """``wanted`` as the formatter takes it: an empty system message and empty instructions are none.

    Thinking instructions are needed where the strategy instructs; what they are by default the caller decides. For
    the R1 strategy they are left out without a word, as Kiln's REST does: its models think unasked. ``final_only``
    refuses them, for whoever wrote some wants them trained on, and they would not be.

    Raises:
        Invalid: instructions are missing, or given for ``final_only``; the R1 strategy is asked for in a format whose
            last answer must be JSON; a text holds half a character.
    """
    strategy, instructions = wanted.strategy, wanted.thinking_instructions or None
    if strategy is Strategy.R1:
        instructions = None
        if wanted.format in JSON_FORMATS:
            raise Invalid(
                f"格式 {wanted.format} 要求最后的回答是 JSON 对象，而策略 {strategy} 会在其前加上思考过程；"
                f"请改用 {Format.OPENAI_CHAT} 或策略 {Strategy.TWO_MESSAGE}",
                f"the format {wanted.format} wants the last answer to be a JSON object, and the strategy {strategy} puts "
                f"the thinking in front of it; choose {Format.OPENAI_CHAT}, or the strategy {Strategy.TWO_MESSAGE}",
                field="data_strategy",
            )
    elif instructions and not strategy.instructs:
        raise Invalid(
            f"策略 {strategy} 不使用思考指令；请去掉 thinking_instructions，或改用策略 {Strategy.TWO_MESSAGE}",
            f"the strategy {strategy} has no use for thinking instructions; leave thinking_instructions out, or choose "
            f"the strategy {Strategy.TWO_MESSAGE}",
            field="thinking_instructions",
        )
    elif strategy.instructs and not instructions:
        raise Invalid(
            f"策略 {strategy} 需要思考指令；请填写 thinking_instructions",
            f"thinking instructions are required when the strategy is {strategy}; fill in thinking_instructions",
            field="thinking_instructions",
        )
    _check_text(wanted.system, "system_message")
    _check_text(instructions, "thinking_instructions")
    return replace(wanted, system=wanted.system or None, thinking_instructions=instructions)


def _check_text(text: str | None, field: str) -> None:
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise Invalid(
            f"{field} 含有残缺的代理字符；请删去它或重新复制该文本",
            f"{field} holds a lone surrogate; remove it, or copy the text again",
            field=field,
        ) from None


def _unknown(text: str, field: str, kind: tuple[str, str], known: str) -> Invalid:
    shown = (text if text.isprintable() else ascii(text)[1:-1])[:80]
    return Invalid(f"{kind[0]} '{shown}' 不存在，可用：{known}", f"{kind[1]} '{shown}' not found", field=field)
