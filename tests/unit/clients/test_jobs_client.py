"""Jobs at a scheduler that is too old, or fails; that of the real ones is in the contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from dapr.proto import api_v1

from apibase import ConstantFailurePolicy, JobsClient, NotSupported, Settings, Sidecar, SidecarError
from tests.unit.fake_dapr import FakeDapr

HOUR = timedelta(hours=1)


class OldScheduler(FakeDapr):
    """Dapr 1.14: it knows the methods by their older names only, and always overwrites."""

    async def _old(self, method: str, request: Any, context: Any) -> None:
        await self._take(method, request, context)
        await context.abort(grpc.StatusCode.UNKNOWN, "failed to proxy request: required metadata dapr-app-id not found")

    async def ScheduleJob(self, request: Any, context: Any) -> Any:
        await self._old("ScheduleJob", request, context)

    async def GetJob(self, request: Any, context: Any) -> Any:
        await self._old("GetJob", request, context)

    async def DeleteJob(self, request: Any, context: Any) -> Any:
        await self._old("DeleteJob", request, context)

    async def ListJobs(self, request: Any, context: Any) -> Any:
        await self._old("ListJobs", request, context)

    jobs: dict[str, Any]

    async def ScheduleJobAlpha1(self, request: Any, context: Any) -> Any:
        await self._take("ScheduleJobAlpha1", request, context)
        self.jobs[request.job.name] = request.job
        return api_v1.ScheduleJobResponse()

    async def GetJobAlpha1(self, request: Any, context: Any) -> Any:
        await self._take("GetJobAlpha1", request, context)
        if request.name not in self.jobs:
            await context.abort(grpc.StatusCode.INTERNAL, f"failed to get job due to: job not found: {request.name}")
        return api_v1.GetJobResponse(job=self.jobs[request.name])

    async def DeleteJobAlpha1(self, request: Any, context: Any) -> Any:
        await self._take("DeleteJobAlpha1", request, context)
        if self.jobs.pop(request.name, None) is None:
            await context.abort(grpc.StatusCode.INTERNAL, "job not found")
        return api_v1.DeleteJobResponse()

    @property
    def methods(self) -> list[str]:
        return [call.method for call in self.calls]


@pytest.fixture
async def scheduler(settings: Settings) -> AsyncIterator[OldScheduler]:
    fake = OldScheduler(settings.sidecar_address)
    fake.jobs = {}
    async with fake:
        yield fake


@pytest.fixture
async def jobs(scheduler: OldScheduler, settings: Settings) -> AsyncIterator[JobsClient]:
    sidecar = Sidecar(settings)
    yield JobsClient(sidecar)
    await sidecar.close()


async def test_an_old_scheduler_is_asked_by_the_older_names_once_that_is_known(
    scheduler: OldScheduler, jobs: JobsClient
) -> None:
    for name in ("first", "second"):
        await jobs.schedule(name, due=HOUR, data=name, overwrite=True)
        found = await jobs.get(name)
        assert found is not None
        assert (found.decode(str), found.failure_policy) == (name, None)
        await jobs.delete(name)

    known = ["ScheduleJobAlpha1", "GetJobAlpha1", "DeleteJobAlpha1"]
    first = ["ScheduleJob", known[0], "GetJob", known[1], "DeleteJob", known[2]]
    assert scheduler.methods == [*first, *known]


async def test_an_old_scheduler_overwrites_no_job_that_is_to_stay(scheduler: OldScheduler, jobs: JobsClient) -> None:
    await jobs.schedule("job", due=HOUR, data="first")
    with pytest.raises(SidecarError, match="there is a job 'job'") as caught:
        await jobs.schedule("job", due=HOUR, data="second")

    assert (caught.value.code, caught.value.component) == (grpc.StatusCode.ALREADY_EXISTS, "scheduler")
    assert scheduler.jobs["job"].data.value == b"first"


async def test_an_old_scheduler_gets_no_job_with_a_failure_policy(scheduler: OldScheduler, jobs: JobsClient) -> None:
    with pytest.raises(NotSupported, match="failure policies of jobs: Dapr 1"):
        await jobs.schedule("job", due=HOUR, failure_policy=ConstantFailurePolicy(max_retries=1))
    assert scheduler.jobs == {}


async def test_an_old_scheduler_lists_nothing(jobs: JobsClient) -> None:
    with pytest.raises(NotSupported, match="'scheduler' does not support listing jobs: the sidecar has no ListJobs"):
        await jobs.list()


async def test_a_sidecar_without_jobs_does_not_support_them(settings: Settings) -> None:
    async with FakeDapr(settings.sidecar_address):  # which answers UNIMPLEMENTED
        sidecar = Sidecar(settings)
        with pytest.raises(NotSupported, match="'scheduler' does not support jobs"):
            await JobsClient(sidecar).schedule("job", due=HOUR)
        await sidecar.close()


@pytest.mark.parametrize("method", ["GetJobAlpha1", "DeleteJobAlpha1", "ScheduleJobAlpha1"])
async def test_what_a_scheduler_fails_with_is_raised(scheduler: OldScheduler, jobs: JobsClient, method: str) -> None:
    scheduler.fail(method, grpc.StatusCode.INTERNAL, "etcd is away")
    with pytest.raises(SidecarError, match="etcd is away") as caught:
        await {
            "GetJobAlpha1": lambda: jobs.get("job"),
            "DeleteJobAlpha1": lambda: jobs.delete("job"),
            "ScheduleJobAlpha1": lambda: jobs.schedule("job", due=HOUR, overwrite=True),
        }[method]()
    assert caught.value.component == "scheduler"


async def test_a_list_that_fails_is_an_error(settings: Settings) -> None:
    class Failing(FakeDapr):
        async def ListJobs(self, request: Any, context: Any) -> Any:
            await self._take("ListJobs", request, context)

    async with Failing(settings.sidecar_address) as fake:
        fake.fail("ListJobs", grpc.StatusCode.INTERNAL, "etcd is away")
        sidecar = Sidecar(settings)
        with pytest.raises(SidecarError, match="etcd is away"):
            await JobsClient(sidecar).list()
        await sidecar.close()
