"""An app without a contract that takes little at a time (`APIBASE_MAX_MESSAGE_BYTES` in dapr.yaml), and logs what came."""

from __future__ import annotations

from grpc import StatusCode as Code
from loguru import logger

from apibase import App, Drop, InvokeMethodRequest, JobEvent, Retry, ServiceError, SubscriptionMessage

app = App()


@app.method("measure")
async def measure(request: InvokeMethodRequest) -> str:
    return str(len(request.data))


@app.subscribe("events", "narrow", dead_letter_topic="narrow.dead")
async def on_narrow(message: SubscriptionMessage) -> None:
    logger.bind(logger="narrow", id=message.id()).info("took {}", message.id())


ERRORS: dict[str, Exception] = {
    "drop": Drop("the job asked for it"),
    "refuse": ServiceError(Code.FAILED_PRECONDITION, "NEVER", "this can never be done"),
    "miss": ServiceError(Code.NOT_FOUND, "NEVER", "what the job is about is gone"),
    "miss-for-now": ServiceError(Code.NOT_FOUND, "LATER", "what the job is about is not there yet", retryable=True),
    "lack": ServiceError(Code.UNIMPLEMENTED, "NEVER", "nobody has written that"),
    "retry": Retry(),
    "break": RuntimeError("inner text"),
}


async def on_job(job: JobEvent) -> None:
    logger.bind(logger="narrow", id=job.name, size=len(job.data)).info("took {}", job.name)
    if job.name in ERRORS:
        raise ERRORS[job.name]


for name in ("measure", "large", *ERRORS):
    app.job_event(name)(on_job)
app.run()
