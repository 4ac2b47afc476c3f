"""Jobs of a contract, registered at a scheduler that a test plays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from dapr.proto import api_v1
from google.protobuf.duration_pb2 import Duration

from apibase.clients import Sidecar
from apibase.jobs import JobRegistrar
from apibase.routes import JobRoute
from dapr_contract.v1 import annotations_pb2
from tests.unit.fake_dapr import FakeDapr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from apibase import Settings
    from apibase.routes import Incoming
    from tests.unit.conftest import Log


class Scheduler(FakeDapr):
    """Keeps the jobs that are scheduled."""

    jobs: dict[str, Any]

    async def GetJob(self, request: Any, context: Any) -> Any:
        await self._take("GetJob", request, context)
        return api_v1.GetJobResponse(job=self.jobs.get(request.name))

    async def ScheduleJob(self, request: Any, context: Any) -> Any:
        await self._take("ScheduleJob", request, context)
        self.jobs[request.job.name] = request.job
        return api_v1.ScheduleJobResponse()


@pytest.fixture
async def scheduler(settings: Settings) -> AsyncIterator[Scheduler]:
    fake = Scheduler(settings.sidecar_address)
    fake.jobs = {}
    async with fake:
        yield fake


async def nothing(_incoming: Incoming) -> None: ...


async def test_a_job_that_can_not_be_declared_takes_no_other_with_it(
    scheduler: Scheduler, settings: Settings, log: Log
) -> None:
    endless = annotations_pb2.Job(schedule="@daily", retry_interval=Duration(seconds=10**15))
    jobs = {"endless": endless, "daily": annotations_pb2.Job(schedule="@daily")}
    sidecar = Sidecar(settings)

    await JobRegistrar(sidecar, {name: JobRoute(name, nothing, options=job) for name, job in jobs.items()}).run()
    await sidecar.close()

    assert list(scheduler.jobs) == ["daily"]
    assert "job 'endless' can't be registered" in log.one(level="ERROR")["message"]
