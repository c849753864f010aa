"""Why a trainer is gone that did not say so itself: what is known of it, and nothing else."""

import signal

from tunesmith.training import failures, run_folder
from tunesmith.training.run_folder import Silent

Reason = tuple[str, str]  # in Chinese and in English


def cause(status: int | None, killed_for_memory: int, silent: Silent | None) -> Reason:
    """The reason.

    Args:
        status: the exit status, negative for a signal; None where only its parent could know, and we are not.
        killed_for_memory: processes the kernel killed for want of memory while the trainer ran.
        silent: it was ended because it showed no sign of life.
    """
    if silent is not None:
        minutes = f"{silent.seconds / 60:.0f}"
        return (
            f"训练进程还在，但 {minutes} 分钟没有任何动静，已被终止",
            f"the trainer was alive but showed no sign of life for {minutes} minutes, and was ended",
        )
    if status == run_folder.NO_ROOM:
        return failures.NO_ROOM
    if killed_for_memory and status in (None, -signal.SIGKILL):
        return (
            "系统内存耗尽，训练进程被系统终止（信号 9）：请减小 max_length，设置 quantization，或使用更小的模型",
            "the system ran out of memory and killed the trainer (signal 9): lower max_length, set "
            "quantization, or use a smaller model",
        )
    if status is None:
        return (
            "训练进程不见了（被信号 9 终止、内存不足或机器重启），未留下原因",
            "the trainer is gone without a word: killed by signal 9, out of memory, or the machine restarted",
        )
    if status >= 0:
        return f"训练进程意外退出，状态码 {status}", f"the trainer ended unexpectedly with status {status}"
    zh, en = _by_whom(-status)
    name = signal.Signals(-status).name
    return (
        f"训练进程被信号 {-status}（{name}）终止{zh}",
        f"the trainer was killed by signal {-status} ({name}){en}",
    )


def _by_whom(number: int) -> Reason:
    if number != signal.SIGKILL:
        return "", ""
    return "，可能是内存不足被系统终止，或被人为终止", ": the system ran out of memory, or somebody did it"
