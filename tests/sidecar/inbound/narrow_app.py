"""An app without a contract that takes little at a time (`APIBASE_MAX_MESSAGE_BYTES` in dapr.yaml), and logs what came."""

from __future__ import annotations

import grpc
from loguru import logger

from apibase import App, Drop, InvokeMethodRequest, JobEvent, Retry, ServiceError, SubscriptionMessage

app = App()


@app.method("measure")
async def measure(request: InvokeMethodRequest) -> str:
    return str(len(request.data))


@app.subscribe("events", "narrow", dead_letter_topic="narrow.dead")
async def on_narrow(message: SubscriptionMessage) -> None:
    logger.bind(logger="narrow", id=message.id()).info("took {}", message.id())


@app.job_event("measure")
@app.job_event("large")
@app.job_event("drop")
@app.job_event("refuse")
@app.job_event("retry")
@app.job_event("break")
async def on_job(job: JobEvent) -> None:
    logger.bind(logger="narrow", id=job.name, size=len(job.data)).info("took {}", job.name)
    match job.name:
        case "drop":
            raise Drop("the job asked for it")
        case "refuse":
            raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "NEVER", "this can never be done")
        case "retry":
            raise Retry
        case "break":
            raise RuntimeError("inner text")


app.run()
