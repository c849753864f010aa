"""What a row is told that cannot go on."""

from tunesmith.inference.worker.row import Row
from tunesmith.kernel.problems import Invalid, Problem, Unavailable


def longer_than_context(prompt: int, context: int) -> Problem:
    return Invalid(
        f"输入过长：提示共 {prompt} 个 token，模型上下文为 {context} 个",
        f"the prompt has {prompt} tokens; the model's context is {context}",
        prompt_tokens=prompt,
        context_length=context,
    )


def larger_than_cache(needed: int, limit: int) -> Problem:
    return Invalid(
        f"该请求需要 {needed / 1e6:.0f} MB 缓存，上限为 {limit / 1e6:.0f} MB；请减少 max_tokens",
        f"this request needs {needed / 1e6:.0f} MB of cache and the limit is {limit / 1e6:.0f} MB; ask for fewer tokens",
    )


def larger_than_memory() -> Problem:
    return Unavailable(
        "引擎内存不足：该请求单独运行也放不下，请缩短输入或减少 max_tokens",
        "the engine ran out of memory: this request does not fit even alone; shorten it or ask for fewer tokens",
    )


def failed_inside() -> Problem:
    return Unavailable("引擎内部错误，请重试", "the engine failed inside; ask again")


def nothing_to_draw(row: Row) -> Problem:
    """Why a row's logits had no token to draw: its grammar failed, or they are not finite."""
    if row.grammar is not None and (problem := row.grammar.problem) is not None:
        return problem
    who = row.adapter.name if row.adapter else ""
    return Unavailable(
        f"模型输出了非有限数{f'（适配器 {who}）' if who else ''}，权重可能已损坏",
        f"the model produced numbers that are not finite{f' (adapter {who})' if who else ''}; its weights may be broken",
    )
