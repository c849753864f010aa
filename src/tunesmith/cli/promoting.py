"""``tunesmith models versions``, ``promote``, ``rollback``, ``unalias``, ``aliases``: which version answers, and since when."""

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import completing, data
from tunesmith.cli.evaluating import METRICS, bar, questions_in
from tunesmith.cli.screen import (
    PROBLEM,
    HomeOption,
    JsonOption,
    line,
    note,
    say,
    show_json,
    show_problem,
    table,
    verb,
    wrong_usage,
)
from tunesmith.cli.session import opened, run_inside

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.evaluation.promotion import Outcome, Promotion, Report
    from tunesmith.models.aliases import Alias, Move
    from tunesmith.models.versions import Version

AliasArgument = Annotated[str, typer.Argument(help=say("别名，例如 prod", "An alias, such as prod."))]


def add_to(app: typer.Typer) -> None:
    """Hang the verbs into ``tunesmith models``."""
    app.command("versions", help=say("列出适配器的版本", "List the versions of adapters."))(versions)
    app.command(
        "promote",
        help=say(
            "让别名指向一个版本；先与它现在指向的版本逐题比较，任何指标显著变差则不移动（退出码 1）",
            "Point an alias at a version, if it is no worse than the one it points at: both answer the same questions, "
            "and a significant loss leaves it where it is (exit 1).",
        ),
    )(promote)
    app.command("rollback", help=say("让别名回到之前的版本", "Point an alias back at the version before."))(rollback)
    app.command("unalias", help=say("删除别名；它指向的版本保留", "Remove an alias; the version it points at stays."))(
        unalias
    )
    app.command("aliases", help=say("列出别名，或一个别名的历史", "List aliases, or the history of one."))(aliases)


@verb
def versions(
    name: Annotated[str | None, typer.Argument(help=say("只列出此名称", "Only of this name."))] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The newest first."""
    with opened(home) as services:
        found = services.versions.list(name)
        names = pointing(services)
        rows = [_version(each) | {"aliases": names.get(each.ref, []), "there": services.versions.lies(each)}
                for each in found]  # fmt: skip
    if as_json:
        show_json({"versions": rows})
        return
    gone = say("已不在", "gone")
    table(
        [say("版本", "version"), say("目录", "folder"), say("基座", "base"), say("别名", "aliases"), say("时间", "made")],
        [
            (r["version"], r["adapter"] if r["there"] else f"{r['adapter']} ({gone})", r["base"],
             ", ".join(r["aliases"]), _minute(r["made_at"]))
            for r in rows
        ],
    )  # fmt: skip


@verb
def promote(
    adapter: Annotated[
        str,
        typer.Argument(
            autocompletion=completing.adapters,
            help=say("适配器或版本（town@3）", "The adapter or version (town@3)."),
        ),
    ],
    alias: Annotated[str, typer.Option("--alias", help=say("要移动的别名", "The alias to move."))],
    on: Annotated[
        str | None,
        typer.Option(
            "--on", autocompletion=completing.datasets, help=say("测试集（town/test）", "The test set (town/test).")
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            autocompletion=completing.datasets,
            help=say("对照集：不应被遗忘的", "The control set: what must not be forgotten."),
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metrics", metavar="NAME", help=say("指标，可重复", "Repeat it: ") + ",".join(METRICS)),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help=say("只用前 N 题", "Only the first N questions."))] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help=say("每个回答的最多词元数", "Most tokens of an answer."))
    ] = 128,
    force: Annotated[
        bool, typer.Option("--force", help=say("无论比较结果如何都移动", "Move it whatever the comparison says."))
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """See ``add_to``."""
    if on is None and not force:
        raise wrong_usage(
            "缺少 --on：移动别名前要在测试集上比较", "--on is missing: it is compared on a test set first"
        )
    names = tuple(name.strip() for given in metrics or METRICS for name in given.split(",") if name.strip())

    def asked_of(services: "Services") -> "Promotion":
        from tunesmith.cli.asking import sampling_of
        from tunesmith.evaluation.promotion import Promotion, TestSet

        sets = [
            TestSet(role, kept, tuple(islice(questions_in(services, kept), limit)))  # type: ignore[arg-type]
            for role, dataset in (("test", on), ("control", control))
            if dataset is not None
            for kept in [data.kept_name(services, dataset)]
        ]
        return Promotion(adapter, alias, tuple(sets), names, sampling_of(0.0, 1.0, max_tokens, 0), force)

    async def work(services: "Services") -> "Outcome":
        asked = await asyncio.to_thread(asked_of, services)
        with bar(say("比较", "comparing"), sum(len(each.questions) for each in asked.sets)) as moved:
            return await services.promotions.promote(asked, told=moved)

    _show_outcome(run_inside(home, work), alias, as_json=as_json)


@verb
def rollback(alias: AliasArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Once more goes back once more."""
    with opened(home) as services:
        before = services.aliases.get(alias)
        now = services.aliases.roll_back(alias)
    if as_json:
        show_json({"alias": now.name, "before": before.version.ref, "version": now.version.ref})
    else:
        line(f"{now.name}: {before.version.ref} → {now.version.ref}")


@verb
def unalias(alias: AliasArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Whoever asks for it is told that there is none."""
    with opened(home) as services:
        removed = services.aliases.remove(alias)
    if as_json:
        show_json({"removed": removed.name, "version": removed.version.ref})
    else:
        line(
            say(
                f"已删除别名 {removed.name}（它指向 {removed.version.ref}）",
                f"removed the alias {removed.name}, which pointed at {removed.version.ref}",
            )
        )


def pointing(services: "Services") -> dict[str, list[str]]:
    """The aliases that point at a version, by what it is called (``town@3``)."""
    found: dict[str, list[str]] = {}
    for alias in services.aliases.list():
        found.setdefault(alias.version.ref, []).append(alias.name)
    return found


@verb
def aliases(
    name: Annotated[str | None, typer.Argument(help=say("显示此别名的历史", "Show the history of this one."))] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """With a name: every move, the newest first."""
    with opened(home) as services:
        if name is not None:
            _show_history(services.aliases.history(name), as_json=as_json)
            return
        found = services.aliases.list()
    if as_json:
        show_json({"aliases": [_alias(each) for each in found]})
        return
    table(
        [say("别名", "alias"), say("版本", "version"), say("目录", "folder"), say("所有者", "owner"),
         say("移动时间", "moved")],
        [(a.name, a.version.ref, a.version.adapter, a.owner, _minute(a.moved_at.isoformat())) for a in found],
    )  # fmt: skip


def _show_outcome(outcome: "Outcome", alias: str, *, as_json: bool) -> None:
    from tunesmith.evaluation.promotion import refusal

    if as_json:
        where = outcome.alias
        show_json({
            "alias": alias, "moved": outcome.moved, "version": where.version.ref if where else None,
            "report": outcome.report,
        })  # fmt: skip
    else:
        if outcome.report is not None:
            _show_report(outcome.report)
        if outcome.refused:
            show_problem(refusal(outcome, alias), as_json=False)
            note(say("仍要移动：加上 --force", "to move it all the same: --force"))
        elif outcome.alias is not None:
            already = "" if outcome.moved else say("（本来就指向它）", " (it did already)")
            line(f"{alias} → {outcome.alias.version.ref}{already}")
    if outcome.refused:
        raise typer.Exit(PROBLEM)


def _show_report(report: "Report") -> None:
    """A row a figure of each set; what became worse is named."""
    from tunesmith.evaluation.promotion import became_worse

    before, after = report["before"], report["after"]
    columns = [say("题集", "set"), say("指标", "metric")]
    roles = {"test": say("测试", "test"), "control": say("对照", "control")}
    columns += [f"{before} [95%]", f"{after} [95%]", say("差 [95%]", "difference [95%]"), "p", ""] if before else [
        f"{after} [95%]"
    ]  # fmt: skip
    rows: list[list[object]] = []
    for each in report["sets"]:
        result = each["result"]
        for name, figure in result["metrics"].items():
            row: list[object] = [f"{roles[each['role']]} {each['dataset']} ({result['count']})", name]
            if before:
                change = result["difference"][name]
                worse, better = say("变差", "worse"), say("更好", "better")
                real = (worse if became_worse(name, change) else better) if change["significant"] else ""
                row += [_figure(result["base"][name]), _figure(figure), _figure(change), f"{change['p']:.3f}", real]
            else:
                row.append(_figure(figure))
            rows.append(row)
    table(columns, rows)


def _show_history(moves: "Sequence[Move]", *, as_json: bool) -> None:
    if as_json:
        show_json({"moves": [
            {"serial": m.serial, "kind": str(m.kind), "version": m.ref, "by": m.by, "at": m.at, "report": m.report}
            for m in moves
        ]})  # fmt: skip
        return
    words = {
        "promoted": say("比较后移动", "promoted"), "forced": say("强制", "forced"), "rolled_back": say("回退", "rolled back"),
    }  # fmt: skip
    table(
        [say("序号", "move"), say("版本", "version"), say("方式", "how"), say("由谁", "by"), say("时间", "when"),
         say("变差的指标", "worse")],
        [
            (m.serial, m.ref, words[str(m.kind)], m.by, _minute(m.at.isoformat()),
             ", ".join(f"{w['dataset']} {w['metric']}" for w in (m.report or {}).get("worse", [])))
            for m in moves
        ],
    )  # fmt: skip


def _version(found: "Version") -> dict[str, Any]:
    return {
        "version": found.ref, "name": found.name, "number": found.number, "adapter": found.adapter,
        "base": found.base, "run_id": found.run_id, "digest": found.digest, "made_at": found.made_at.isoformat(),
    }  # fmt: skip


def _alias(found: "Alias") -> dict[str, Any]:
    return {
        "alias": found.name, "version": found.version.ref, "adapter": found.version.adapter,
        "base": found.version.base, "owner": found.owner, "moved_by": found.moved_by,
        "moved_at": found.moved_at.isoformat(),
    }  # fmt: skip


def _figure(figure: dict[str, Any]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _minute(moment: str) -> str:
    from datetime import datetime

    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")
