"""Where a job stands in the document's words, and why."""

from tunesmith.training.jobs.job import HostedNews, Job, Status
from tunesmith.training.run import Run, State

_OF_STATES = {
    State.QUEUED: Status.PENDING,
    State.RUNNING: Status.RUNNING,
    State.COMPLETED: Status.COMPLETED,
    State.FAILED: Status.FAILED,
    State.CANCELED: Status.CANCELLED,
}


def status_of(run: Run, hosted: HostedNews | None) -> Status:
    """Where the run stands. One at a provider is pending until that has begun with it."""
    if run.state is not State.RUNNING or hosted is None:
        return _OF_STATES[run.state]
    if hosted.job_id is None:
        return Status.PENDING  # also while the provider cannot be reached: there is nothing there to know of
    if hosted.trouble is not None or not hosted.known:
        return Status.UNKNOWN
    return Status.PENDING if hosted.pending else Status.RUNNING


def said_of(job: Job) -> tuple[str, str] | None:
    """What a person should read beside the status, Chinese and English; None where that says all."""
    run, hosted = job.run, job.hosted
    if run.state is State.FAILED:
        return run.error_zh or run.error or "", run.error or ""
    if hosted is None:
        return None
    if not run.state.final and hosted.trouble is not None:
        zh, en = hosted.trouble
        return f"暂时无法询问提供商，稍后会再试：{zh}", f"the provider cannot be asked now and will be again: {en}"
    if not run.state.final and not hosted.known:
        return (
            f"提供商给出未知状态 {hosted.word}，任务保持原状",
            f"the provider told a state that is not known here, {hosted.word}; the job is left as it is",
        )
    return None if hosted.message is None else (hosted.message, hosted.message)
