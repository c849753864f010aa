"""Which examples of a task are meant, as Kiln writes it.

all · high_rating · thinking_model · thinking_model_high_rated · tag::<tag>
multi_filter::<filter>&<filter>…    all of them; an ampersand of a tag is written ``\\&``
"""

import re
from dataclasses import dataclass

from tunesmith.kernel.problems import Invalid
from tunesmith.projects.checks import check_text, shown

_LONGEST = 2000
_TAG, _MULTI = "tag::", "multi_filter::"


@dataclass(frozen=True, slots=True)
class Filter:
    """An example passes that has all that is asked.

    Attributes:
        rated: repaired, or highly rated: four stars and more, or a pass.
        thinking: with thinking data.
        tags: with every one of them.
    """

    rated: bool = False
    thinking: bool = False
    tags: tuple[str, ...] = ()

    def __and__(self, other: "Filter") -> "Filter":
        return Filter(self.rated or other.rated, self.thinking or other.thinking, self.tags + other.tags)


_NAMED = {
    "all": Filter(),
    "high_rating": Filter(rated=True),
    "thinking_model": Filter(thinking=True),
    "thinking_model_high_rated": Filter(rated=True, thinking=True),
}


def read_filter(text: object) -> Filter:
    """The filter that ``text`` names.

    Raises:
        Invalid: Kiln has none of that form.
    """
    try:
        asked = check_text(text, "filter", _LONGEST)
    except Invalid as problem:
        raise Invalid(problem.zh, f"Invalid dataset filter ID: {problem.en}", field="filter") from None
    if asked in _NAMED:
        return _NAMED[asked]
    if asked.startswith(_TAG) and len(asked) > len(_TAG):
        return Filter(tags=(asked.removeprefix(_TAG),))
    if asked.startswith(_MULTI):
        return _all_of(asked)
    raise Invalid(f"无效的数据集过滤器：{shown(asked)}", f"Invalid dataset filter ID: {shown(asked)}", field="filter")


def _all_of(asked: str) -> Filter:
    found = Filter()
    try:
        for part in re.split(r"(?<!\\)&", asked.removeprefix(_MULTI)):
            found = found & read_filter(part.replace("\\&", "&"))
    except Invalid:
        zh, en = f"无效的组合过滤器：{shown(asked)}", f"Invalid multi-filter string: {shown(asked)}"
        raise Invalid(zh, en, field="filter") from None
    return found
