"""Parcels, written for `dapr.ext.grpc`: a method, and a topic with rules, verdicts and a dead-letter topic."""

import json
import os
import sys
import threading

from dapr.ext.grpc import App, InvokeMethodRequest, InvokeMethodResponse, Rule, SubscriptionMessage, TopicEventResponse
from grpc_health.v1 import health, health_pb2_grpc

TOPIC = os.environ["APP_ID"]

app = App()
app.register_health_check(lambda: None)
app.add_external_service(health_pb2_grpc.add_HealthServicer_to_server, health.HealthServicer())
seen = set()


def note(handler, event):
    """Write down what came, and say whether it came for the first time."""
    first = event.id() not in seen
    seen.add(event.id())
    what = {"handler": handler, "id": event.id(), "data": event.data(), "thread": threading.current_thread().name}
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
    return first


@app.method("quote")
def quote(request: InvokeMethodRequest) -> InvokeMethodResponse:
    """Say what a parcel costs."""
    parcel = json.loads(request.text())
    answer = json.dumps({"cents": 100 + parcel["grams"], "colour": request.metadata["colour"]})
    return InvokeMethodResponse(answer, "application/json", headers=(("tariff", "7"),))


@app.method("ping")
def ping(request: InvokeMethodRequest) -> str:
    """Answer in text."""
    return "pong"


@app.subscribe("events", TOPIC, dead_letter_topic=f"{TOPIC}.dead", disable_topic_validation=True)
def posted(event: SubscriptionMessage) -> TopicEventResponse:
    """Take a parcel as its label says."""
    first = note("posted", event)
    fate = event.data()["fate"]
    if fate == "broken" and first:
        raise RuntimeError("the scales are broken")
    if fate == "later" and first:
        return TopicEventResponse("retry")
    if fate == "never":
        return TopicEventResponse("drop")
    return TopicEventResponse("success")


@app.subscribe("events", TOPIC, rule=Rule('event.type == "parcel.insured" || event.data.fate == "insured"', 2))
def insured(event: SubscriptionMessage) -> None:
    """Take a parcel of value."""
    note("insured", event)


@app.subscribe("events", TOPIC, rule=Rule('event.type == "parcel.express"', 1))
def express(event: SubscriptionMessage) -> None:
    """Take a parcel in a hurry."""
    note("express", event)


@app.subscribe("events", f"{TOPIC}.dead")
def buried(event: SubscriptionMessage) -> None:
    """Take what could not be delivered."""
    note("buried", event)


app.run(int(os.environ["APP_PORT"]))
