"""A clock, written for `dapr.ext.grpc`: a cron binding and a job."""

import json
import os
import sys

from dapr.ext.grpc import App, BindingRequest, JobEvent
from grpc_health.v1 import health, health_pb2_grpc

app = App()
app.register_health_check(lambda: None)
app.add_external_service(health_pb2_grpc.add_HealthServicer_to_server, health.HealthServicer())


def note(**what):
    """Write down what came."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


@app.binding("tick")
def tick(request: BindingRequest) -> None:
    """Strike."""
    note(handler="tick", data=request.text(), component=sorted(request.binding_metadata), call=sorted(request.metadata))


@app.job_event("tidy")
def tidy(job: JobEvent) -> None:
    """Tidy up."""
    note(handler="tidy", name=job.name, data=job.get_data_as_string())


app.run(app_port=int(os.environ["APP_PORT"]))
