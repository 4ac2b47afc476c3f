"""Jobs of the contract, registered at Dapr's scheduler when the app is ready, and changed there when the contract changes.

The registered job carries a digest of its declaration. A job whose digest is the same is left alone, because scheduling it
again would start its interval anew with every restart of the app.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import grpc
from dapr.clients.grpc._jobs import ConstantFailurePolicy, Job
from dapr.proto import api_service_v1, api_v1
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from loguru import logger

from apibase.clients._transport import sidecar_call
from apibase.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apibase.clients import Sidecar
    from apibase.routes import JobRoute
    from dapr_contract.v1 import annotations_pb2

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_COMPONENT = "scheduler"


class JobRegistrar:
    """Registers the jobs of a route table; what fails is tried again until it succeeds, with growing pauses."""

    def __init__(self, sidecar: Sidecar, jobs: Mapping[str, JobRoute]) -> None:
        self._sidecar = sidecar
        self._stub = api_service_v1.DaprStub(sidecar.channel())  # type: ignore[no-untyped-call]
        self._left = {name: route for name, route in jobs.items() if route.options is not None}

    async def run(self) -> None:
        """Return when every job is registered."""
        pause = _FIRST_PAUSE_SECONDS
        while self._left:
            for name, route in list(self._left.items()):
                assert route.options is not None  # noqa: S101 - kept so by the constructor
                try:
                    changed = await self._register(name, route.options)
                except SidecarError as error:
                    logger.warning("job {!r} is not registered yet, next try in {:.0f} s: {}", name, pause, error)
                except Exception:  # noqa: BLE001 - one that can't be declared takes no other job with it
                    del self._left[name]
                    logger.exception("job {!r} can't be registered", name)
                else:
                    del self._left[name]
                    logger.info("job {!r} is {}", name, "registered" if changed else "registered already")
            if self._left:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _register(self, name: str, options: annotations_pb2.Job) -> bool:
        """Register a job unless it is there as declared; return whether that was necessary."""
        wanted = _mark(options)
        if await self._mark_of(name) == wanted:
            return False
        job = Job(
            name=name,
            schedule=options.schedule or None,
            due_time=options.due_time or None,
            repeats=options.repeats or None,
            data=wanted,
            failure_policy=_failure_policy(options),
        )
        try:
            await sidecar_call(self._sidecar.client.schedule_job(job, overwrite=True), component=_COMPONENT)
        except SidecarError as error:
            if not _is_unknown_method(error):
                raise
            request = api_v1.ScheduleJobRequest(job=job._get_proto(), overwrite=True)  # type: ignore[no-untyped-call]  # noqa: SLF001
            await sidecar_call(self._stub.ScheduleJobAlpha1(request), component=_COMPONENT)
        return True

    async def _mark_of(self, name: str) -> AnyMessage | None:
        """Return the mark of the job as it is registered; None where there is none, or it can't be told."""
        try:
            job = await sidecar_call(self._sidecar.client.get_job(name), component=_COMPONENT)
        except SidecarError as error:
            if error.code is grpc.StatusCode.UNAVAILABLE:
                raise
            return await self._alpha_mark_of(name) if _is_unknown_method(error) else None
        mark: AnyMessage | None = job.data
        return mark

    async def _alpha_mark_of(self, name: str) -> AnyMessage | None:
        try:
            answer = await sidecar_call(self._stub.GetJobAlpha1(api_v1.GetJobRequest(name=name)), component=_COMPONENT)
        except SidecarError:
            return None
        mark: AnyMessage = answer.job.data
        return mark


def _is_unknown_method(error: SidecarError) -> bool:
    """Whether the sidecar does not know the method: Dapr 1.14 takes it for another app's, and the SDK does not see that."""
    return error.code is grpc.StatusCode.UNIMPLEMENTED or (
        error.code is grpc.StatusCode.UNKNOWN and "dapr-app-id not found" in error.message
    )


def _mark(options: annotations_pb2.Job) -> AnyMessage:
    digest = hashlib.sha256(options.SerializeToString(deterministic=True)).hexdigest()
    packed = AnyMessage()
    packed.Pack(StringValue(value=f"contract:{digest}"))
    return packed


def _failure_policy(options: annotations_pb2.Job) -> ConstantFailurePolicy | None:
    if not options.max_retries and not options.HasField("retry_interval"):
        return None
    interval = options.retry_interval.ToTimedelta().total_seconds() if options.HasField("retry_interval") else 1
    return ConstantFailurePolicy(max_retries=options.max_retries or None, interval_seconds=max(int(interval), 1))
