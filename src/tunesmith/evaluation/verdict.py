"""What a comparison says, in one or two plain sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluation.metrics import LOWER_IS_BETTER

# which figure leads, where it was measured: what a person means by "right" first
_LEADING = ("exact_match", "rougeL", "bleu", "perplexity", "rouge1", "rouge2")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The same in both languages."""

    zh: str
    en: str

    def message(self, language: str = "zh") -> str:
        """The verdict in ``language``: "zh" or anything else for English."""
        return self.zh if language == "zh" else self.en


def verdict(result: Mapping[str, Any]) -> Verdict:
    """Whether tuned beats base, from a result of ``metrics.result``.

    The first sentence is about the leading figure with its numbers; the second, where more was measured, says of all
    others whether they are better, worse or not told apart. A result without comparison is stated as it is.
    """
    names = [name for name in _LEADING if name in result["metrics"]]
    if "difference" not in result:
        return _alone(names, result)
    ways = {name: _way(name, result["difference"][name]) for name in names}
    leading, others = names[0], names[1:]
    first = _first(leading, ways[leading], result)
    if not others:
        return first
    second = _second(others, ways)
    return Verdict(f"{first.zh}{second.zh}", f"{first.en} {second.en}")


def _way(name: str, difference: Mapping[str, Any]) -> str:
    """ "better", "worse" or "same" for tuned; the sign that is better depends on the figure."""
    if not difference["significant"]:
        return "same"
    return "better" if (difference["value"] > 0) != (name in LOWER_IS_BETTER) else "worse"


def _first(name: str, way: str, result: Mapping[str, Any]) -> Verdict:
    difference = result["difference"][name]
    tuned, base = (_number(name, result[part][name]["value"]) for part in ("metrics", "base"))
    change, low, high = (_number(name, difference[key]) for key in ("value", "low", "high"))
    zh = {"better": f"微调后 {name} 更好", "worse": f"微调后 {name} 变差", "same": f"{name} 看不出差别"}[way]
    en = {
        "better": f"tuned is better on {name}",
        "worse": f"tuned is worse on {name}",
        "same": f"tuned and base cannot be told apart on {name}",
    }[way]
    sure_zh, sure_en = ("不显著", "not significant") if way == "same" else ("显著", "significant")
    count = result["count"]
    return Verdict(
        f"{zh}：微调 {tuned}，基座 {base}，相差 {change} [{low}, {high}]，{sure_zh}（{count} 题）。",
        f"{en}: {tuned} against {base}, difference {change} [{low}, {high}], {sure_en} ({_questions(count)}).",
    )


def _second(names: Sequence[str], ways: Mapping[str, str]) -> Verdict:
    grouped = {way: [name for name in names if ways[name] == way] for way in ("better", "worse", "same")}
    said_zh = {"better": "更好", "worse": "变差", "same": "差别不显著"}
    said_en = {"better": "better on", "worse": "worse on", "same": "no significant difference on"}
    parts_zh = [f"{'、'.join(found)} {said_zh[way]}" for way, found in grouped.items() if found]
    parts_en = [f"{said_en[way]} {', '.join(found)}" for way, found in grouped.items() if found]
    return Verdict(f"另外：{'；'.join(parts_zh)}。", f"Also: {'; '.join(parts_en)}.")


def _alone(names: Sequence[str], result: Mapping[str, Any]) -> Verdict:
    def figure(name: str) -> str:
        value, low, high = (_number(name, result["metrics"][name][key]) for key in ("value", "low", "high"))
        return f"{name} {value} [{low}, {high}]"

    count = result["count"]
    return Verdict(
        f"{'，'.join(map(figure, names))}（{count} 题）。",
        f"{', '.join(map(figure, names))} ({_questions(count)}).",
    )


def _questions(count: int) -> str:
    return "1 question" if count == 1 else f"{count} questions"


def _number(name: str, value: float) -> str:
    """BLEU is of 100, so one decimal says as much as two do of 1; a perplexity may have many digits."""
    if name == "bleu":
        text = f"{value:.1f}"
    elif name == "perplexity" and abs(value) >= 1000:
        text = f"{value:.3g}"
    else:
        text = f"{value:.2f}"
    return text.removeprefix("-") if not float(text) else text
