"""Jobs: scheduled, found, changed, deleted, and brought to the app when they are due."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import pytest_asyncio
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import BaseModel

from apibase import ConstantFailurePolicy, DropFailurePolicy, JobsClient, NotSupported, SidecarError
from tests.contract.beside import Beside
from tests.contract.sides import Side
from tests.sidecar.shop import eventually

HOUR = timedelta(hours=1)


class Reminder(BaseModel):
    order: int


@pytest.fixture
def jobs(side: Side) -> JobsClient:
    return JobsClient(side.sidecar)


@pytest_asyncio.fixture(loop_scope="session")
async def name(side: Side, jobs: JobsClient) -> AsyncIterator[str]:
    """Return the name of a job that is deleted after the test."""
    key = side.key("job")
    yield key
    await jobs.delete(key)


async def test_a_job_is_found_as_it_was_scheduled(jobs: JobsClient, name: str) -> None:
    await jobs.schedule(name, schedule="@daily", due=HOUR, repeats=3, ttl=24 * HOUR, data=Reminder(order=7))

    job = await jobs.get(name)
    assert job is not None
    assert (job.name, job.schedule, job.due, job.repeats, job.ttl) == (name, "@daily", "3600s", 3, "86400s")
    assert job.decode(Reminder) == Reminder(order=7)


async def test_data_that_is_not_what_it_is_read_as_is_data_loss(jobs: JobsClient, name: str) -> None:
    await jobs.schedule(name, due=HOUR, data="no JSON")
    job = await jobs.get(name)

    assert job is not None
    for kind in (Reminder, StringValue):
        with pytest.raises(SidecarError, match=f"the data of the job '{name}' is no .*{kind.__name__}") as caught:
            job.decode(kind)
        assert caught.value.code is grpc.StatusCode.DATA_LOSS


async def test_an_interval_and_a_point_in_time_are_said_as_dapr_says_them(jobs: JobsClient, name: str) -> None:
    due = datetime.now(UTC).replace(microsecond=0) + HOUR
    await jobs.schedule(name, schedule=timedelta(seconds=1.5), due=due)

    job = await jobs.get(name)
    assert job is not None
    assert (job.schedule, job.due, job.data) == ("@every 1500000us", due.isoformat(), b"")


async def test_a_job_that_is_not_there_is_none(side: Side, jobs: JobsClient) -> None:
    assert await jobs.get(side.key("job")) is None


async def test_deleting_a_job_that_is_not_there_is_no_error(side: Side, jobs: JobsClient) -> None:
    await jobs.delete(side.key("job"))


async def test_a_job_that_is_deleted_is_not_there(jobs: JobsClient, name: str) -> None:
    await jobs.schedule(name, due=HOUR)
    await jobs.delete(name)

    assert await jobs.get(name) is None


async def test_a_job_stays_unless_it_is_to_be_overwritten(jobs: JobsClient, name: str) -> None:
    await jobs.schedule(name, due=HOUR, data="first")
    with pytest.raises(SidecarError) as caught:
        await jobs.schedule(name, due=HOUR, data="second")

    assert (caught.value.code, caught.value.component) == (grpc.StatusCode.ALREADY_EXISTS, "scheduler")
    job = await jobs.get(name)
    assert job is not None
    assert job.decode(str) == "first"


async def test_a_job_is_overwritten_where_that_is_asked_for(jobs: JobsClient, name: str) -> None:
    await jobs.schedule(name, due=HOUR, data="first")
    await jobs.schedule(name, schedule="@hourly", data="second", overwrite=True)

    job = await jobs.get(name)
    assert job is not None
    assert (job.schedule, job.due, job.decode(str)) == ("@hourly", None, "second")


@pytest.mark.differs("Dapr 1.14 has no failure policies of jobs", side="1.14")
async def test_a_failure_policy_is_kept(jobs: JobsClient, name: str, difference: str) -> None:
    policies = [DropFailurePolicy(), ConstantFailurePolicy(max_retries=5, interval_seconds=2)]
    if difference:
        for policy in policies:
            with pytest.raises(NotSupported, match="'scheduler' does not support failure policies of jobs"):
                await jobs.schedule(name, due=HOUR, failure_policy=policy)
        assert await jobs.get(name) is None
        return

    found = []
    for policy in policies:
        await jobs.schedule(name, due=HOUR, failure_policy=policy, overwrite=True)
        job = await jobs.get(name)
        assert job is not None
        found.append(job.failure_policy)

    assert isinstance(found[0], DropFailurePolicy)
    assert isinstance(found[1], ConstantFailurePolicy)
    assert (found[1].max_retries, found[1].interval_seconds) == (5, 2)


@pytest.mark.differs("Dapr 1.14 does not list jobs", side="1.14")
async def test_the_apps_jobs_are_listed(jobs: JobsClient, name: str, difference: str) -> None:
    await jobs.schedule(name, due=HOUR, data="listed")
    if difference:
        with pytest.raises(NotSupported, match="'scheduler' does not support listing jobs"):
            await jobs.list()
        return

    (job,) = [job for job in await jobs.list() if job.name == name]
    assert job.decode(str) == "listed"


@pytest.mark.differs("Dapr 1.14 has cron expressions of five fields, without seconds", side="1.14")
async def test_a_cron_expression_begins_with_seconds(jobs: JobsClient, name: str, difference: str) -> None:
    six, five = "30 15 3 * * *", "15 3 * * *"
    taken, refused = (five, six) if difference else (six, five)
    await jobs.schedule(name, schedule=taken)

    job = await jobs.get(name)
    assert job is not None
    assert job.schedule == taken
    with pytest.raises(SidecarError, match="fields"):
        await jobs.schedule(name, schedule=refused, overwrite=True)


@pytest.mark.parametrize("schedule", ["soon", "@every never"])
async def test_a_schedule_that_is_none_is_refused(jobs: JobsClient, name: str, schedule: str) -> None:
    with pytest.raises(SidecarError, match="failed to schedule job") as caught:
        await jobs.schedule(name, schedule=schedule)
    assert caught.value.component == "scheduler"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "neither a schedule nor a due time"),
        ({"due": datetime(2030, 1, 1)}, "has no time zone"),  # noqa: DTZ001 - the case
        ({"due": -HOUR}, "is in the past"),
        ({"schedule": timedelta(0)}, "no interval"),
    ],
)
async def test_a_job_without_a_time_is_refused_before_any_call(
    jobs: JobsClient, name: str, options: dict[str, object], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        await jobs.schedule(name, **options)  # type: ignore[arg-type]


async def test_a_job_needs_a_name(jobs: JobsClient) -> None:
    with pytest.raises(ValueError, match="the name of a job is empty"):
        await jobs.schedule("", due=HOUR)


async def test_a_job_comes_to_the_app_when_it_is_due_with_its_data(jobs: JobsClient, beside: Beside) -> None:
    pb2 = beside.desk.pb2
    await jobs.schedule("contract-text", due=timedelta(seconds=0.1), data="grüße")
    await jobs.schedule("contract-message", due=datetime.now(UTC), data=pb2.Question(text="why"))

    assert (await beside.job("contract-text")).data == "grüße".encode()
    assert (await beside.job("contract-message")).data == b'{"text": "why"}'


async def test_a_job_that_is_done_is_not_there(jobs: JobsClient, beside: Beside) -> None:
    await jobs.schedule("contract-due", due=timedelta(0))
    await beside.job("contract-due")

    async def gone() -> bool:
        return await jobs.get("contract-due") is None

    await eventually(gone, within=5, what="the job is gone")


async def test_a_job_comes_again_and_again_until_it_has_been_often_enough(jobs: JobsClient, beside: Beside) -> None:
    await jobs.schedule("contract-again", schedule=timedelta(seconds=0.1), repeats=3)

    async def gone() -> bool:
        return await jobs.get("contract-again") is None

    await eventually(gone, within=10, what="the job has been often enough")
    assert len([job for job in beside.jobs if job.name == "contract-again"]) == 3
