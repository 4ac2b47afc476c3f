"""Jobs: what Dapr's scheduler calls this app for, once or again and again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import grpc
from dapr.clients.grpc._jobs import ConstantFailurePolicy, DropFailurePolicy, FailurePolicy
from dapr.proto import api_v1
from google.protobuf.any_pb2 import Any as AnyMessage

from apibase.clients._methods import call_method, is_unknown_method
from apibase.clients._values import decode, encode, name_of
from apibase.contract.reasons import chassis_reason
from apibase.errors import NotSupported, SidecarError
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from apibase.clients._transport import Sidecar
    from apibase.clients._values import Value

V = TypeVar("V")
When = datetime | timedelta | str
"""A point in time, a time from now, or either as Dapr writes it: RFC 3339, a Go duration (`1h30m`), an ISO 8601 duration."""

COMPONENT = "scheduler"
"""What errors of jobs name as their component."""


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    """A job as the scheduler has it; times are as they were given, in Dapr's writing."""

    name: str
    schedule: str | None
    due: str | None
    repeats: int | None
    ttl: str | None
    data: bytes = field(repr=False)
    failure_policy: FailurePolicy | None
    """None from Dapr 1.14, which has none."""

    def decode(self, kind: type[V]) -> V:
        """Return the data as a message, model, text or JSON. Raises `SidecarError` (DATA_LOSS) where it is none."""
        try:
            return decode(self.data, kind)
        except ValueError as error:
            raise SidecarError(
                grpc.StatusCode.DATA_LOSS,
                chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR),
                f"the data of the job {self.name!r} is no {name_of(kind)}: {error}",
                component=COMPONENT,
            ) from error


class JobsClient:
    """The jobs of this app. Who handles one when it is due, the contract or `App.job_event` says."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    async def schedule(  # noqa: PLR0913 - what a job has, by name
        self,
        name: str,
        *,
        schedule: timedelta | str | None = None,
        due: When | None = None,
        repeats: int | None = None,
        ttl: When | None = None,
        data: Value = b"",
        overwrite: bool = False,
        failure_policy: FailurePolicy | None = None,
    ) -> None:
        """Have the app called for the job `name`: `due` once, or by `schedule`, from `due` on if there is one.

        `schedule` is an interval, `@every 1h30m`, `@daily` and the like, or a cron expression of six fields, seconds first (Dapr 1.14: of
        five, without them). It ends after `repeats` calls, or with `ttl`. Bytes and text are handed over as they are, everything else as
        JSON, which is what a handler with a message reads. What a call that fails is followed by, `failure_policy` says: Dapr's default is
        three more, a second apart.

        A job of that name stays, and the call ends ALREADY_EXISTS, unless `overwrite`; its times begin anew then. On Dapr 1.14 two at once
        may both succeed, and a failure policy is `NotSupported`. Raises `ValueError` for a job without a name or a time,
        `SidecarError` for one that the scheduler does not take.
        """
        if not name:
            raise ValueError("the name of a job is empty")
        if schedule is None and due is None:
            raise ValueError(f"the job {name!r} has neither a schedule nor a due time")
        job = api_v1.Job(
            name=name,
            schedule=_interval(schedule) if isinstance(schedule, timedelta) else schedule,
            due_time=_time(due),
            repeats=repeats,
            ttl=_time(ttl),
            data=AnyMessage(value=encode(data)[0]),
            failure_policy=failure_policy._to_proto() if failure_policy else None,  # type: ignore[no-untyped-call]  # noqa: SLF001
        )
        await put_job(self._sidecar, job, overwrite=overwrite)

    async def get(self, name: str) -> ScheduledJob | None:
        """Return the job of that name, or None where there is none, or it is done."""
        found = await find_job(self._sidecar, name)
        return None if found is None else _scheduled(found)

    async def delete(self, name: str) -> None:
        """Delete the job of that name; where there is none, nothing is to be done."""
        request = api_v1.DeleteJobRequest(name=name)
        try:
            await call_method(self._sidecar, "DeleteJob", request, component=COMPONENT, feature="jobs", safe=True)
        except SidecarError as error:
            if _NOT_FOUND not in error.message:
                raise

    async def list(self) -> tuple[ScheduledJob, ...]:
        """Return this app's jobs, in no order. Raises `NotSupported` on Dapr 1.14."""
        try:
            answer = await self._sidecar.call(
                lambda: self._sidecar.stub.ListJobs(api_v1.ListJobsRequest()), component=COMPONENT, safe=True
            )
        except SidecarError as error:
            if is_unknown_method(error):
                raise NotSupported(COMPONENT, "listing jobs", "the sidecar has no ListJobs") from error
            raise
        return tuple(map(_scheduled, answer.jobs))


async def put_job(sidecar: Sidecar, job: api_v1.Job, *, overwrite: bool, lenient: bool = False) -> None:
    """Schedule a job as Dapr's API has it; `lenient` passes over a failure policy that the sidecar is too old for."""

    async def before_older() -> None:
        if not lenient and job.HasField("failure_policy"):
            raise NotSupported(COMPONENT, "failure policies of jobs", "Dapr 1.14 has none")
        if not overwrite and await find_job(sidecar, job.name) is not None:  # 1.14 always overwrites
            raise SidecarError(
                grpc.StatusCode.ALREADY_EXISTS,
                chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR),
                f"there is a job {job.name!r}",
                component=COMPONENT,
            )

    request = api_v1.ScheduleJobRequest(job=job, overwrite=overwrite)
    await call_method(sidecar, "ScheduleJob", request, component=COMPONENT, feature="jobs", before_older=before_older)


async def find_job(sidecar: Sidecar, name: str) -> api_v1.Job | None:
    """Return a job as Dapr's API has it, or None."""
    request = api_v1.GetJobRequest(name=name)
    try:
        answer = await call_method(sidecar, "GetJob", request, component=COMPONENT, feature="jobs", safe=True)
    except SidecarError as error:
        if _NOT_FOUND in error.message:  # which daprd says as INTERNAL
            return None
        raise
    job: api_v1.Job = answer.job
    return job


_NOT_FOUND = "job not found"


def _scheduled(job: api_v1.Job) -> ScheduledJob:
    return ScheduledJob(
        name=job.name,
        schedule=job.schedule if job.HasField("schedule") else None,
        due=job.due_time if job.HasField("due_time") else None,
        repeats=job.repeats if job.HasField("repeats") else None,
        ttl=job.ttl if job.HasField("ttl") else None,
        data=job.data.value,
        failure_policy=_policy(job),
    )


def _policy(job: api_v1.Job) -> FailurePolicy | None:
    if not job.HasField("failure_policy"):
        return None
    policy = job.failure_policy
    if policy.HasField("drop"):
        return DropFailurePolicy()
    constant = policy.constant
    return ConstantFailurePolicy(
        max_retries=constant.max_retries if constant.HasField("max_retries") else None,
        interval_seconds=constant.interval.seconds if constant.HasField("interval") else None,
    )


def _interval(given: timedelta) -> str:
    if given <= timedelta(0):
        raise ValueError(f"{given} is no interval")
    return f"@every {_duration(given)}"


def _time(given: When | None) -> str | None:
    match given:
        case timedelta():
            return _duration(given)
        case datetime():
            if given.tzinfo is None:
                raise ValueError(f"{given} has no time zone; give one")
            return given.isoformat()
        case _:
            return given


def _duration(given: timedelta) -> str:
    """Return a time as Go writes it."""
    if given < timedelta(0):
        raise ValueError(f"{given} is in the past")
    microseconds = given // timedelta(microseconds=1)
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{microseconds}us" if rest else f"{seconds}s"
