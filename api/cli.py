"""Command line: the names of the commands and where each lives. A command's module is imported when it is called.

Exit codes: 0 ok, 1 refused or a law broken, 2 usage or bad input, 3 unavailable. stdout carries data, stderr talk.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import typer
import typer.core

from api.commands.console import Failure, language, set_language


class Entry(NamedTuple):
    """A command: module under api.commands, and what it does in one line of each language."""

    module: str
    zh: str
    en: str


# In the order of the help page: use the platform, look around, run it, offline tools.
COMMANDS = {
    "submit": Entry("jobs", "提交作业文件，打印作业编号", "submit a job file, print the job's id"),
    "jobs": Entry("jobs", "列出作业", "list jobs"),
    "describe": Entry("jobs", "作业的状态、经过、等待原因与花费", "a job's state, story, reasons for waiting and cost"),
    "logs": Entry("jobs", "作业日志", "a job's log"),
    "cancel": Entry("jobs", "取消作业", "cancel a job"),
    "hold": Entry("jobs", "暂缓排队中的作业", "keep a waiting job from starting"),
    "release": Entry("jobs", "放行暂缓的作业", "let a held job start again"),
    "progress": Entry("jobs", "上报运行中作业的步数", "report the steps a running job has done"),
    "quote": Entry(
        "quoting", "报价：能在哪里、何时、以多少净费用运行", "where, when and at what net cost a job could run"
    ),
    "offers": Entry("zone", "现在可租的算力与价格", "what could be leased now, at what price"),
    "nodes": Entry("zone", "节点", "nodes"),
    "pools": Entry("zone", "资源池", "pools"),
    "queues": Entry("zone", "队列与配额", "queues and their quota"),
    "voucher": Entry("money", "算力券：权利与余额", "the compute voucher: right and rooms left"),
    "statement": Entry("money", "作业或企业的对账单", "a job's or a firm's statement"),
    "document": Entry(
        "documents",
        "单据：对账单、结算单、清算批次、补贴申请",
        "a statement, settlement, batch or application as a file",
    ),
    "export": Entry(
        "documents", "导出：FOCUS 账单、Beancount 账簿", "what was billed as FOCUS rows, the ledger as Beancount"
    ),
    "explain": Entry(
        "explain",
        "任意一个数字的由来：条款、参数、算式、记录、证据",
        "where any number comes from, down to the evidence",
    ),
    "usage": Entry("money", "用量记录", "usage records"),
    "contract": Entry("papers", "合同", "contracts"),
    "invoice": Entry("papers", "发票", "invoices"),
    "slip": Entry("papers", "银行回单", "bank slips"),
    "clearing": Entry("clearing", "清算：核验、批次、审批与兑付", "clearing: verify, batch, approve and pay"),
    "dispute": Entry("clearing", "对结算单的争议", "disputes of settlements"),
    "refund": Entry("clearing", "退还作业的部分费用", "give back part of a job's fee"),
    "correct": Entry("clearing", "按现在的事实重新结算作业", "settle a job again under today's facts"),
    "clawback": Entry("clearing", "追缴", "what has to be paid back"),
    "subsidy": Entry("programmes", "国产芯片服务器补贴的项目", "projects of the domestic-chip server subsidy"),
    "model-voucher": Entry("programmes", "模型券的申请", "applications for the model voucher"),
    "programmes": Entry("programmes", "各类项目：开放或冻结", "each programme: open or frozen"),
    "freeze": Entry("programmes", "立即冻结一类项目", "freeze a programme at once"),
    "unfreeze": Entry("programmes", "解除一类项目的冻结", "lift a programme's freeze"),
    "policy": Entry("policy", "政策参数与条款", "the policy's parameters and clauses"),
    "review": Entry("zone", "待人工复核的事项", "what waits for a person's review"),
    "demo": Entry("service", "在本机演示全过程", "the whole journey on this machine"),
    "serve": Entry("service", "启动平台：接口、页面与调度循环", "run the platform: routes, pages and the loop"),
    "loop": Entry("service", "只运行调度循环", "run the loop alone"),
    "agent": Entry("agent", "运行节点代理", "run a node's agent"),
    "migrate": Entry("service", "把数据库升级到当前版本", "bring the database to this version"),
    "backup": Entry("keeping", "平台运行中备份整个数据库", "keep the whole database in one file, while it runs"),
    "restore": Entry("keeping", "由备份恢复到空数据库", "make an empty database what a backup holds"),
    "doctor": Entry("service", "检查本机能否运行", "check what this machine has and lacks"),
    "evidence": Entry(
        "evidence",
        "加速卡的产地证据：等级、质询与答复、审核",
        "evidence of a device's origin: level, challenge, decisions",
    ),
    "devices": Entry("devices", "本机或录制文件中的加速卡", "accelerators of this host, or of a recording"),
    "bench": Entry(
        "bench", "测本机加速卡的算力、带宽与互联", "measure this host's accelerators, their memory and links"
    ),
    "snapshot": Entry("zone", "导出调度器所见的一切", "everything the planner sees now, as JSON"),
    "plan": Entry("tools", "离线：对快照做调度计划", "offline: plan a snapshot"),
    "simulate": Entry(
        "tools",
        "离线：在虚拟时钟上回放作业轨迹，或试算快照增减节点",
        "offline: replay a trace, or a snapshot with other nodes",
    ),
    "settle": Entry("tools", "离线：结算一组用量", "offline: settle cases of usage"),
    "audit": Entry("tools", "离线：从第一条记录重算全部账目与链", "offline: recompute every balance and chain"),
}
HEAD = {
    "zh": "亦算：算力专区平台。提交 → 准入 → 安置 → 启动 → 采样 → 结算 → 公开。",
    "en": "yisuan, the platform a compute zone runs: submit, admit, place, launch, sample, settle, publish.",
}
FOOT = {
    "zh": "退出码：0 成功，1 被拒绝或规则不成立，2 用法或输入错误，3 服务不可用。",
    "en": "Exit codes: 0 ok, 1 refused or a law broken, 2 usage or bad input, 3 unavailable.",
}


class LazyGroup(typer.core.TyperGroup):
    """The commands of COMMANDS. Help is written from the table, so that it imports none of them."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the library's signature
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"api.commands.{entry.module}")
        single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        function = getattr(module, cmd_name.replace("-", "_"))
        summary = entry.zh if language() == "zh" else entry.en
        options = {"help_option_names": ["-h", "--help"]}
        single.command(
            cmd_name, help=f"{summary}\n\n{inspect.cleandoc(function.__doc__ or '')}", context_settings=options
        )(function)
        return typer.main.get_command(single)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        names: Any = dict.fromkeys(COMMANDS)  # only the keys are read, to suggest the nearest one
        self.commands = names
        return super().resolve_command(ctx, args)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        formatter.write_paragraph()
        formatter.write_text(HEAD[language()])

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        zh = language() == "zh"
        with formatter.section("命令" if zh else "Commands"):
            formatter.write_dl([(name, entry.zh if zh else entry.en) for name, entry in COMMANDS.items()])
        formatter.write_paragraph()
        formatter.write_text(FOOT[language()])


app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _common(
    lang: str = typer.Option(None, metavar="zh|en", help="Language of texts, also after the command's name."),
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    del lang  # taken out of the arguments by main, before Typer sees them
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"yisuan {installed('yisuan')}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; a Failure is told on stderr in three parts: what, why, what to do."""
    try:
        app(args=take_language(list(sys.argv[1:] if arguments is None else arguments)), prog_name="yisuan")
    except Failure as failure:
        failure.tell()
        sys.exit(failure.code)


def take_language(arguments: list[str]) -> list[str]:
    """The language is set from `--lang`, wherever it stands; the arguments without it are returned.

    Before Typer: help texts are in the language too, and they are made before any option is read.
    """
    set_language(None)
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*kept, argument, *rest]
        if argument == "--lang":
            set_language(next(rest, ""))
        elif argument.startswith("--lang="):
            set_language(argument.removeprefix("--lang="))
        else:
            kept.append(argument)
    return kept


if __name__ == "__main__":
    main()
