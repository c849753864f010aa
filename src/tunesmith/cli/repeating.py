"""``tunesmith train --from ADAPTER``: make an adapter again, and say whether the same bytes came out."""

from typing import TYPE_CHECKING, Any

from tunesmith.cli.screen import line, note, say, wrong_usage
from tunesmith.kernel.problems import Conflict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunesmith.app import Services
    from tunesmith.training.bundle import Bundle
    from tunesmith.training.run import Run


def check_usage(dataset: str | None, from_: str | None, others: "Mapping[str, object]") -> None:
    """Refuse what says neither or both of what to train on.

    Args:
        others: options that a repeated recipe has already, by name; those not given are None or False.

    Raises:
        typer.Exit: 2.
    """
    given = [name for name, value in others.items() if value not in (None, False)]
    if from_ is None and dataset is None:
        raise wrong_usage("请给出数据集，或用 --from 指定一个适配器", "name a dataset, or an adapter with --from")
    if from_ is not None and (dataset is not None or given):
        said = ", ".join([*(["DATASET"] if dataset is not None else []), *(f"--{n.replace('_', '-')}" for n in given)])
        raise wrong_usage(
            f"--from 会原样重复当时的训练，不能同时给出 {said}",
            f"--from repeats a run as it was; it cannot be combined with {said}",
        )


def checked(services: "Services", adapter: str) -> "Bundle":
    """How the adapter was made, when it can be made so again; what may differ is said.

    Raises:
        NotFound, Invalid: no such adapter, or nothing in its folder to repeat it from.
        Conflict: the base model or the data is not what it was.
    """
    from tunesmith.training import bundle
    from tunesmith.training.data.tokenizing import load_tokenizer

    found = services.registry.adapter(adapter)
    original = bundle.read(found.path, found.name)
    base = services.registry.base(original.recipe.base_model)
    threads = services.settings.threads
    now = bundle.gathered(services.home, original.recipe, base.path, load_tokenizer(base.path), threads)
    differences = bundle.differences(original, now)
    decisive = [each for each in differences if each.decides]
    if decisive:
        raise Conflict(
            f"{found.name} 无法原样重复：{'；'.join(each.zh for each in decisive)}",
            f"{found.name} cannot be repeated: {'; '.join(each.en for each in decisive)}",
            adapter=found.name,
            differences=[each.en for each in decisive],
        )
    for each in differences:
        note(say(each.zh, each.en))
    if differences:
        note(say("结果的字节可能因此不同", "the bytes may come out otherwise for that"))
    return original


def compared(services: "Services", original: "Bundle", run: "Run") -> dict[str, Any]:
    """Whether the run gave the same bytes.

    Returns:
        ``same_bytes``, ``weights_sha256`` and ``weights_sha256_before``, and ``differences`` in how it was computed.
    """
    from tunesmith.training import bundle

    folder = services.home.path(run.output, "output")
    again = bundle.read(folder, run.output)
    found = bundle.sha256(folder / "adapter_model.safetensors")
    differences = [
        say(each.zh, each.en) for each in bundle.differences(original, again.ingredients)
    ] + [
        f"{name}: {original.computed.get(name)} → {again.computed.get(name)}"
        for name in sorted(original.computed.keys() | again.computed.keys())
        if original.computed.get(name) != again.computed.get(name)
    ]  # fmt: skip
    if original.material_sha256 != again.material_sha256:
        differences.append(say("样本的词元不同", "the examples came out as other tokens"))
    return {
        "same_bytes": found == original.weights_sha256,
        "weights_sha256": found,
        "weights_sha256_before": original.weights_sha256,
        "differences": differences,
    }


def show(facts: "Mapping[str, Any]") -> None:
    """One line, and what differed where the bytes do."""
    found = facts["weights_sha256"]
    if facts["same_bytes"]:
        line(say(f"字节相同：sha256 {found}", f"same bytes: sha256 {found}"))
        return
    was = facts["weights_sha256_before"]
    line(say(f"字节不同：sha256 {found}，原来是 {was}", f"not the same bytes: sha256 {found}, was {was}"))
    for each in facts["differences"]:
        line(f"  {each}")
