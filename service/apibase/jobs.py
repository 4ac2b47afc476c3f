"""Jobs of the contract, registered at Dapr's scheduler when the app is ready, and changed there when the contract changes.

The registered job carries a digest of its declaration. A job whose digest is the same is left alone, because scheduling it
again would start its interval anew with every restart of the app.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import grpc
from dapr.proto import api_v1, common_v1
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from loguru import logger

from apibase.clients.jobs import find_job, put_job
from apibase.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apibase.clients import Sidecar
    from apibase.routes import JobRoute
    from dapr_contract.v1 import annotations_pb2

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0


class JobRegistrar:
    """Registers the jobs of a route table; what fails is tried again until it succeeds, with growing pauses."""

    def __init__(self, sidecar: Sidecar, jobs: Mapping[str, JobRoute]) -> None:
        self._sidecar = sidecar
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
        registered = await self._registered(name)
        if registered is not None and registered.data == wanted:
            return False
        job = api_v1.Job(
            name=name,
            schedule=options.schedule or None,
            due_time=options.due_time or None,
            repeats=options.repeats or None,
            data=wanted,
            failure_policy=_failure_policy(options),
        )
        await put_job(self._sidecar, job, overwrite=True, lenient=True)
        return True

    async def _registered(self, name: str) -> api_v1.Job | None:
        """Return the job as it is registered; None where there is none, or it can't be told."""
        try:
            return await find_job(self._sidecar, name)
        except SidecarError as error:
            if error.code is grpc.StatusCode.UNAVAILABLE:
                raise
            return None


def _mark(options: annotations_pb2.Job) -> AnyMessage:
    digest = hashlib.sha256(options.SerializeToString(deterministic=True)).hexdigest()
    packed = AnyMessage()
    packed.Pack(StringValue(value=f"contract:{digest}"))
    return packed


def _failure_policy(options: annotations_pb2.Job) -> common_v1.JobFailurePolicy | None:
    if not options.max_retries and not options.HasField("retry_interval"):
        return None
    interval = options.retry_interval.ToTimedelta().total_seconds() if options.HasField("retry_interval") else 1
    constant = common_v1.JobFailurePolicyConstant(max_retries=options.max_retries or None)
    constant.interval.FromSeconds(max(int(interval), 1))
    return common_v1.JobFailurePolicy(constant=constant)
