"""Jobs of Dapr's scheduler, which fall due by the stand-in's clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto import api_v1
from google.protobuf.any_pb2 import Any as AnyMessage
from loguru import logger

from apibase.testing.stand_in.api_errors import ApiError
from apibase.testing.stand_in.durations import moment_of
from apibase.testing.stand_in.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from apibase.testing.stand_in.api import ApiCall, Operations
    from apibase.testing.stand_in.app_link import AppLink
    from apibase.testing.stand_in.clock import Clock, Timer

_DONE = {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND}
_RETRIES, _INTERVAL = 3, 1.0
_REFUSED = "rpc error: code = Unknown desc = job failed validation: "


@dataclass
class ScheduledJob:
    """A job: `message` as it was scheduled, and where it stands."""

    message: Any
    schedule: Schedule | None
    due: float | None
    """When it is to run next, in seconds since 1970; None when it is over."""
    expires: float | None
    runs: int = 0
    attempts: int = 0
    last: float | None = None
    timer: Timer | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.message.name)

    @property
    def retries(self) -> int | None:
        """How often a run that failed is tried again; None: for ever."""
        policy = self.message.failure_policy
        if policy.HasField("constant"):
            return policy.constant.max_retries if policy.constant.HasField("max_retries") else None
        return 0

    @property
    def interval(self) -> float:
        """Seconds before the next try of a run that failed."""
        return float(self.message.failure_policy.constant.interval.ToTimedelta().total_seconds())


class JobsApi:
    """Dapr's operations on jobs, and the scheduler that runs them."""

    def __init__(self, app_id: str, clock: Clock, app: Callable[[], AppLink | None]) -> None:
        self._app_id = app_id
        self._clock = clock
        self._app = app
        self.jobs: dict[str, ScheduledJob] = {}
        """Those that are not over, by name."""
        self._waiting: list[ScheduledJob] = []

    @property
    def operations(self) -> Operations:
        """By the names of their rpcs."""
        return {
            "ScheduleJob": self._schedule,
            "ScheduleJobAlpha1": self._schedule,
            "GetJob": self._get,
            "GetJobAlpha1": self._get,
            "DeleteJob": self._delete,
            "DeleteJobAlpha1": self._delete,
            "ListJobs": self._list,
            "ListJobsAlpha1": self._list,
            "DeleteJobsByPrefix": self._delete_by_prefix,
            "DeleteJobsByPrefixAlpha1": self._delete_by_prefix,
        }

    async def resume(self) -> None:
        """Run what fell due while no app was connected."""
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            if self.jobs.get(job.name) is job:
                await self._run(job)

    async def run_now(self, name: str, data: AnyMessage | None = None) -> grpc.StatusCode:
        """Run a job as if it were due, scheduled or not, and return the status that the app answers. Raises `LookupError`."""
        app = self._app()
        if app is None:
            raise LookupError("no app is connected that a job could go to")
        job = self.jobs.get(name)
        scheduled = job.message.data if job is not None else AnyMessage()
        return await app.deliver_job(name, scheduled if data is None else data)

    async def _schedule(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - the API's messages, here and below
        job = request.job
        if not request.HasField("job"):
            raise self._refused("Job is empty", "DAPR_SCHEDULER_EMPTY")
        if not job.name:
            raise self._refused("Name is empty", "DAPR_SCHEDULER_JOB_NAME_EMPTY")
        if not job.HasField("schedule") and not job.HasField("due_time"):
            raise self._refused("Schedule is empty", "DAPR_SCHEDULER_SCHEDULE_EMPTY")
        if job.name in self.jobs and not request.overwrite:
            why = (
                f"rpc error: code = AlreadyExists desc = job already exists: 'app||default||{self._app_id}||{job.name}'"
            )
            raise self._failed("failed to schedule job due to: " + why, grpc.StatusCode.ALREADY_EXISTS)
        try:
            made = self._parse(job)
        except ValueError as error:
            raise self._failed(f"failed to schedule job due to: {_REFUSED}{error}") from None
        self._forget(job.name)
        self.jobs[job.name] = made
        self._arm(made)
        return api_v1.ScheduleJobResponse()

    def _parse(self, job: Any) -> ScheduledJob:  # noqa: ANN401
        kept = api_v1.Job()
        kept.CopyFrom(job)
        if not job.HasField("schedule") and job.repeats > 1:
            raise ValueError("job must have a schedule to repeat")
        if job.HasField("repeats") and job.repeats < 1:
            raise ValueError("defined repeats must be greater than 0")
        if not job.HasField("schedule") and job.HasField("ttl"):
            raise ValueError("job must have a schedule to have a ttl")
        schedule = Schedule.parse(job.schedule) if job.HasField("schedule") else None
        if not job.HasField("failure_policy"):
            kept.failure_policy.constant.interval.FromTimedelta(timedelta(seconds=_INTERVAL))
            kept.failure_policy.constant.max_retries = _RETRIES
        now = self._clock.seconds
        begin = now
        due: float | None = None
        if job.HasField("due_time"):
            due = begin = _moment(job.due_time, now, "due time format not recognized")
        elif schedule is not None:
            due = schedule.after(now)
        expires = _moment(job.ttl, begin, "ttl format not recognized") if job.HasField("ttl") else None
        if expires is not None and job.HasField("due_time") and begin > expires:
            raise ValueError("ttl must be greater than due time")
        return ScheduledJob(kept, schedule, due, expires)

    async def _get(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401
        self._check_name(request.name)
        if (job := self.jobs.get(request.name)) is None:
            why = f"rpc error: code = NotFound desc = job not found: {request.name}"
            raise self._failed(f"failed to get job due to: {why}", reason="DAPR_SCHEDULER_GET_JOB")
        return api_v1.GetJobResponse(job=job.message)

    async def _delete(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401
        self._check_name(request.name)
        self._forget(request.name)
        return api_v1.DeleteJobResponse()

    async def _list(self, _request: Any, call: ApiCall) -> Any:  # noqa: ANN401
        jobs = [job.message for job in self.jobs.values()]
        if call.operation.endswith("Alpha1"):
            return api_v1.ListJobsResponseAlpha1(jobs=jobs)
        return api_v1.ListJobsResponse(jobs=jobs)

    async def _delete_by_prefix(self, request: Any, call: ApiCall) -> Any:  # noqa: ANN401
        for name in [name for name in self.jobs if name.startswith(request.name_prefix)]:
            self._forget(name)
        if call.operation.endswith("Alpha1"):
            return api_v1.DeleteJobsByPrefixResponseAlpha1()
        return api_v1.DeleteJobsByPrefixResponse()

    def _arm(self, job: ScheduledJob) -> None:
        if job.due is None:
            self._forget(job.name)
            return

        async def run() -> None:
            await self._run(job)

        job.timer = self._clock.call_at(job.due, run)

    async def _run(self, job: ScheduledJob) -> None:
        app = self._app()
        if app is None:
            self._waiting.append(job)
            return
        code = await app.deliver_job(job.name, job.message.data)
        if self.jobs.get(job.name) is not job:
            return  # it was taken away, or replaced, by its own handler
        due = job.due or 0.0
        if job.attempts == 0:
            job.last = due
        if code not in _DONE:
            job.attempts += 1
            logger.debug("job {!r} ended {}, try {}", job.name, code.name, job.attempts)
            if job.retries is None or job.retries >= job.attempts:
                job.due = due + job.interval
                self._arm(job)
                return
        job.runs += 1
        job.attempts = 0
        job.due = self._next(job)
        self._arm(job)

    def _next(self, job: ScheduledJob) -> float | None:
        if job.schedule is None or (job.message.HasField("repeats") and job.runs >= job.message.repeats):
            return None
        due = job.schedule.after(job.last or self._clock.seconds)
        return None if due is None or (job.expires is not None and due > job.expires) else due

    def _forget(self, name: str) -> None:
        job = self.jobs.pop(name, None)
        if job is not None and job.timer is not None:
            job.timer.cancel()

    def _check_name(self, name: str) -> None:
        if not name:
            raise self._refused("Name is empty", "DAPR_SCHEDULER_JOB_NAME_EMPTY")

    def _refused(self, message: str, reason: str) -> ApiError:
        told = {"appID": self._app_id, "namespace": "default"}
        return ApiError(grpc.StatusCode.INVALID_ARGUMENT, message, reason, told)

    def _failed(
        self,
        message: str,
        code: grpc.StatusCode = grpc.StatusCode.INTERNAL,
        reason: str = "DAPR_SCHEDULER_SCHEDULE_JOB",
    ) -> ApiError:
        return ApiError(code, message, reason, {"appID": self._app_id, "namespace": "default"})


def _moment(text: str, now: float, problem: str) -> float:
    try:
        return moment_of(text, now)
    except ValueError:
        raise ValueError(problem) from None
