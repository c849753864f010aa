"""Which example belongs to which part of a split.

An example's place is a hash of the seed and its id, and a part is a stretch of places as long as its percentage. So more
examples move no old one, with the same seed; the price is that sizes come out near the percentages, not exactly: of
1,000 examples at 0.8 some 800, give or take 13. Where a part would come out empty and there are examples enough, the
borders move by as few examples as leave at least one in every part. Within a part, examples follow their places.
"""

import math
import secrets
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import accumulate

from tunesmith.datasets.split import Borders, borders, place
from tunesmith.kernel.problems import Invalid
from tunesmith.projects.checks import check_description, check_name, check_number, shown
from tunesmith.projects.project import SplitPart
from tunesmith.projects.run_store import Candidate

MOST_PARTS = 20
LARGEST_SEED = 2**63 - 1
_SPACE = 1 << 64
_LISTED = 3
_PRESETS = {
    "all": (("all", 1.0),),
    "train_val": (("train", 0.8), ("val", 0.2)),
    "train_test": (("train", 0.8), ("test", 0.2)),
    "train_test_val": (("train", 0.6), ("test", 0.2), ("val", 0.2)),
    "train_test_val_80": (("train", 0.8), ("test", 0.1), ("val", 0.1)),
}
PRESETS = {
    name: tuple(SplitPart(name=part, percentage=share) for part, share in parts) for name, parts in _PRESETS.items()
}


def chosen_parts(split_type: str | None, parts: Sequence[SplitPart] | None) -> tuple[SplitPart, ...]:
    """The parts of a preset, or the caller's own, checked.

    Raises:
        Invalid: both or neither are given, there is no such preset, or the percentages do not add up to 1.
    """
    if (split_type is None) == (not parts):
        raise Invalid(
            "请给出 dataset_split_type 或 splits 之一",
            "give either dataset_split_type or splits",
            field="dataset_split_type",
        )
    if split_type is not None:
        if split_type in PRESETS:
            return PRESETS[split_type]
        known = ", ".join(PRESETS)
        raise Invalid(
            f"未知的划分类型 {shown(split_type)}；可用：{known}",
            f"Dataset split type '{shown(split_type)}' not found; known: {known}",
            field="dataset_split_type",
        )
    return _checked(parts or ())


def check_seed(seed: int | None) -> int:
    """The seed; a new one for None.

    Raises:
        Invalid: not a whole number that a database keeps.
    """
    if seed is None:
        return secrets.randbelow(2**31)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise Invalid(
            f"seed 应为 0 到 {LARGEST_SEED} 的整数", f"seed must be a whole number, 0 to {LARGEST_SEED}", field="seed"
        )
    return seed


def deal(found: Sequence[Candidate], parts: Sequence[SplitPart], seed: int) -> dict[str, tuple[Candidate, ...]]:
    """The examples of every part, in the order of their places."""
    places = {each: place(each.id.encode(), seed) for each in found}
    shares = {part.name: part.percentage for part in parts if part.percentage > 0}
    if len(set(places.values())) >= len(shares):
        ends = borders(places.values, shares)
    else:
        sums = list(accumulate(shares.values()))[:-1]
        ends = Borders(tuple(shares), (*(round(each * _SPACE) for each in sums), _SPACE))
    dealt: dict[str, list[Candidate]] = {part.name: [] for part in parts}
    for each in sorted(found, key=lambda each: (places[each], each.id)):
        dealt[ends.split_of(places[each])].append(each)
    return {name: tuple(some) for name, some in dealt.items()}


def warnings_of(dealt: dict[str, tuple[Candidate, ...]], parts: Sequence[SplitPart]) -> tuple[tuple[str, str], ...]:
    """What a person should know before training on it, Chinese and English."""
    warnings = []
    if not any(dealt.values()):
        warnings.append(("没有符合过滤器的样本，所有部分都是空的", "no example passes the filter: every part is empty"))
    else:
        for part in parts:
            if part.percentage > 0 and not dealt[part.name]:
                what = (
                    ("，不能用于训练", ", so nothing can be trained on") if part.name in ("train", "all") else ("", "")
                )
                warnings.append(
                    (
                        f"{part.name} 部分是空的{what[0]}；请增加样本",
                        f"the part {part.name} is empty{what[1]}; add examples",
                    )
                )
    return (*warnings, *_leaks(dealt), *_copies(dealt))


def _leaks(dealt: dict[str, tuple[Candidate, ...]]) -> list[tuple[str, str]]:
    """Questions that stand in two parts."""
    where: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name, some in dealt.items():
        for each in some:
            where[each.asked].setdefault(name, each.id)
    leaks = [parts for parts in where.values() if len(parts) > 1]
    if not leaks:
        return []
    shown_ids = "; ".join(
        ", ".join(f"{name}: {id}" for name, id in parts.items())
        for parts in sorted(leaks, key=lambda parts: min(parts.values()))[:_LISTED]
    )
    return [
        (
            f"{len(leaks)} 个相同的输入出现在不止一个部分中（例如 {shown_ids}），评估结果会偏高",
            f"the same input is in more than one part {len(leaks)} time{'' if len(leaks) == 1 else 's'}"
            f" (such as {shown_ids}): results on the other part will look too good",
        )
    ]


def _copies(dealt: dict[str, tuple[Candidate, ...]]) -> list[tuple[str, str]]:
    """Examples that say the same as another."""
    counts = Counter(each.pair for some in dealt.values() for each in some)
    extra = sum(counts.values()) - len(counts)
    if not extra:
        return []
    return [
        (
            f"{extra} 个样本的输入和输出与另一个样本完全相同",
            f"{extra} example{' repeats' if extra == 1 else 's repeat'} the input and output of another",
        )
    ]


def _checked(parts: Sequence[SplitPart]) -> tuple[SplitPart, ...]:
    if len(parts) > MOST_PARTS:
        zh, en = f"最多 {MOST_PARTS} 个部分", f"at most {MOST_PARTS} parts"
        raise Invalid(zh, f"there may be {en}", field="splits")
    checked = []
    for index, part in enumerate(parts):
        share = check_number(part.percentage, f"splits[{index}].percentage")
        if not 0 <= share <= 1:
            raise Invalid(
                f"splits[{index}].percentage 应在 0 与 1 之间，得到 {share:g}",
                f"splits[{index}].percentage must be between 0 and 1, got {share:g}",
                field=f"splits[{index}].percentage",
            )
        name = check_name(part.name, f"splits[{index}].name")
        described = check_description(part.description, f"splits[{index}].description")
        checked.append(SplitPart(name=name, percentage=share, description=described))
    if len({part.name.casefold() for part in checked}) < len(checked):
        raise Invalid("各部分的名称不能相同", "two parts have the same name; rename one", field="splits")
    total = math.fsum(part.percentage for part in checked)
    if not math.isclose(total, 1.0, rel_tol=1e-9):
        raise Invalid(
            f"各部分的比例之和应为 1.0，得到 {total:g}",
            f"The sum of split percentages must be 1.0 (got {total:g})",
            field="splits",
        )
    return tuple(checked)
