"""What the descriptors of a contract say, and the contradictions in it that stop start-up."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, empty_pb2

from apibase import ContractError
from apibase.contract import (
    BindingListener,
    JobListener,
    TopicListener,
    event_options,
    listeners,
    request_class,
    response_class,
    servicer_contract,
)
from apibase.contract.deduplication import Deduplication
from dapr_contract.v1 import annotations_pb2
from shop.orders.v1 import events_pb2, events_pb2_grpc, order_pb2, service_pb2_grpc

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from tests.unit.conftest import Desk

_numbers = itertools.count()


def method(
    name: str, *, streams: bool = False, takes: str = "Empty", returns: str = "Empty", **options: Any
) -> descriptor_pb2.MethodDescriptorProto:
    """Return a method with the options of these names, which may be empty."""
    made = descriptor_pb2.MethodDescriptorProto(
        name=name,
        input_type=f".google.protobuf.{takes}",
        output_type=f".google.protobuf.{returns}",
        client_streaming=streams,
    )
    for option, value in options.items():
        extension = made.options.Extensions[getattr(annotations_pb2, option)]
        extension.SetInParent()
        extension.MergeFrom(value)
    return made


TOPIC = annotations_pb2.Topic(pubsub_name="events", name="orders", dead_letter_topic="orders.dead")
BINDING = annotations_pb2.Binding(name="tick")
MINUTE = duration_pb2.Duration(seconds=60)


def topic(**options: Any) -> annotations_pb2.Topic:
    return annotations_pb2.Topic(pubsub_name="events", name="orders", **options)


def service(*methods: descriptor_pb2.MethodDescriptorProto) -> ServiceDescriptor:
    """Return a service of these methods, from a contract that no generated code has."""
    pool = descriptor_pool.DescriptorPool()
    for file in (descriptor_pb2, duration_pb2, empty_pb2, annotations_pb2):
        proto = descriptor_pb2.FileDescriptorProto()
        file.DESCRIPTOR.CopyToProto(proto)
        pool.Add(proto)
    made = descriptor_pb2.FileDescriptorProto(
        name=f"made{next(_numbers)}/v1/made.proto",
        package="made.v1",
        syntax="proto3",
        dependency=[
            "google/protobuf/empty.proto",
            "google/protobuf/duration.proto",
            "dapr_contract/v1/annotations.proto",
        ],
        service=[descriptor_pb2.ServiceDescriptorProto(name="Made", method=methods)],
    )
    pool.Add(made)
    return pool.FindFileByName(made.name).services_by_name["Made"]


def test_a_service_without_annotations_has_no_listeners() -> None:
    assert listeners(service(method("Get"), method("Put", streams=True))) == []


def test_a_service_without_methods_has_no_listeners() -> None:
    assert listeners(service()) == []


def test_every_annotated_method_is_a_listener_of_what_its_annotation_names() -> None:
    job = annotations_pb2.Job(schedule="@daily", repeats=3)
    order, tick, sweep, named = listeners(
        service(
            method("OnOrder", topic=TOPIC),
            method("OnTick", binding=BINDING),
            method("Sweep", job=job),
            method("Remind", job=annotations_pb2.Job(name="remind", due_time="30s")),
        )
    )

    assert isinstance(order, TopicListener)
    assert (order.method.name, order.pubsub_name, order.topic, order.options.dead_letter_topic) == (
        "OnOrder",
        "events",
        "orders",
        "orders.dead",
    )
    assert isinstance(tick, BindingListener)
    assert (tick.method.name, tick.name) == ("OnTick", "tick")
    assert isinstance(sweep, JobListener)
    assert (sweep.method.name, sweep.name, sweep.options) == ("Sweep", "made.v1.Made.Sweep", job)
    assert isinstance(named, JobListener)
    assert named.name == "remind"


@pytest.mark.parametrize(
    ("methods", "says"),
    [
        pytest.param(
            [method("OnOrder", topic=TOPIC), method("Get"), method("Put")],
            ["made.v1.Made mixes listeners with rpcs (Get, Put)", "move the rpcs to a service of their own"],
            id="listeners among rpcs",
        ),
        pytest.param(
            [method("OnOrder", topic=TOPIC, binding=BINDING)],
            ["made.v1.Made.OnOrder has the options topic and binding", "make it a method for each"],
            id="two options",
        ),
        pytest.param(
            [method("OnOrder", streams=True, topic=TOPIC)],
            ["made.v1.Made.OnOrder is a listener and streams", "take `stream` away"],
            id="a listener that streams",
        ),
        pytest.param(
            [method("OnOrder", topic=annotations_pb2.Topic(name="orders"))],
            ["made.v1.Made.OnOrder", "option (dapr_contract.v1.topic) has no pubsub_name; give it one"],
            id="a topic without a component",
        ),
        pytest.param(
            [method("OnOrder", topic=annotations_pb2.Topic(pubsub_name="events"))],
            ["option (dapr_contract.v1.topic) has no name; give it one"],
            id="a topic without a name",
        ),
        pytest.param(
            [method("OnTick", binding=annotations_pb2.Binding())],
            ["made.v1.Made.OnTick", "option (dapr_contract.v1.binding) has no name; give it one"],
            id="a binding without a name",
        ),
        pytest.param(
            [
                method(
                    "OnOrder", topic=annotations_pb2.Topic(pubsub_name="e", name="orders", dead_letter_topic="orders")
                )
            ],
            ["the topic 'orders' is its own dead-letter topic", "name another"],
            id="a topic that is its own dead-letter topic",
        ),
        pytest.param(
            [method("OnTick", topic=TOPIC, binding=BINDING, job=annotations_pb2.Job(schedule="@daily"))],
            ["made.v1.Made.OnTick has the options topic and binding and job", "make it a method for each"],
            id="three options",
        ),
        pytest.param(
            [method("OnOrder", topic=topic(priority=1))],
            ["made.v1.Made.OnOrder has a priority and no match", "only matches are tried in order"],
            id="a priority without a match",
        ),
        pytest.param(
            [method("OnOrder", topic=topic(metadata={"rawPayload": "true"}))],
            ["made.v1.Made.OnOrder has the metadata rawPayload", "say raw_payload instead"],
            id="raw by its metadata alone",
        ),
        pytest.param(
            [method("OnOrder", topic=topic(raw_payload=True, match="a"))],
            ["made.v1.Made.OnOrder has raw_payload and a match"],
            id="a match on raw records",
        ),
        pytest.param(
            [method("Sweep", job=annotations_pb2.Job(repeats=3))],
            ["made.v1.Made.Sweep: option (dapr_contract.v1.job) has neither schedule nor due_time; give it one"],
            id="a job without a time",
        ),
        pytest.param(
            [method("Sweep", takes="Duration", job=annotations_pb2.Job(schedule="@daily"))],
            ["made.v1.Made.Sweep is a job and takes google.protobuf.Duration; let it take google.protobuf.Empty"],
            id="a job with data",
        ),
        pytest.param(
            [method("OnOrder", topic=topic(deduplicate_by="seconds"))],
            ["made.v1.Made.OnOrder has deduplicate_by and no deduplicate_for", "say for how long"],
            id="a key of repetitions that are not recognised",
        ),
        *(
            pytest.param(
                [method("OnOrder", topic=topic(deduplicate_for=duration_pb2.Duration(seconds=seconds)))],
                ["made.v1.Made.OnOrder: deduplicate_for must be longer than nothing and at most ten years"],
                id=f"repetitions for {seconds} s",
            )
            for seconds in (0, -1, 2**40)
        ),
        *(
            pytest.param(
                [method("OnOrder", takes="Duration", topic=topic(deduplicate_for=MINUTE, deduplicate_by=path))],
                [
                    f"made.v1.Made.OnOrder: deduplicate_by {path!r} can't tell events apart: {why}",
                    "name a field that can, or none for the CloudEvent's source and id",
                ],
                id=f"a key that is {path}",
            )
            for path, why in [
                ("hours", "google.protobuf.Duration has no field 'hours'"),
                ("seconds.value", "seconds has no fields within"),
            ]
        ),
        pytest.param(
            [method("OnOrder", topic=topic(deduplicate_for=MINUTE, raw_payload=True))],
            ["made.v1.Made.OnOrder has a raw payload and deduplicate_for without deduplicate_by", "name the field"],
            id="raw records told apart by an id that is new each time",
        ),
        pytest.param(
            [method("OnOrder", returns="Duration", topic=TOPIC)],
            [
                "made.v1.Made.OnOrder is a listener and returns google.protobuf.Duration",
                "let it return google.protobuf.Empty",
            ],
            id="a listener with an answer",
        ),
    ],
)
def test_a_contradiction_is_named_with_file_element_and_remedy(
    methods: list[descriptor_pb2.MethodDescriptorProto], says: list[str]
) -> None:
    contract = service(*methods)

    with pytest.raises(ContractError) as caught:
        listeners(contract)

    assert contract.file.name in str(caught.value)
    for part in says:
        assert part in str(caught.value)


def test_a_listener_says_how_repetitions_are_recognised() -> None:
    never, by_id, by_field, raw = listeners(
        service(
            method("OnOrder", topic=TOPIC),
            method("OnPaid", topic=topic(deduplicate_for=MINUTE)),
            method("OnSent", takes="Duration", topic=topic(deduplicate_for=MINUTE, deduplicate_by="seconds")),
            method(
                "OnRecord",
                takes="Duration",
                topic=topic(deduplicate_for=MINUTE, deduplicate_by="nanos", raw_payload=True),
            ),
        )
    )

    minute = timedelta(minutes=1)
    assert [each.deduplication for each in (never, by_id, by_field, raw) if isinstance(each, TopicListener)] == [
        None,
        Deduplication(minute),
        Deduplication(minute, "seconds"),
        Deduplication(minute, "nanos"),
    ]


def test_a_servicers_contract_is_that_of_its_generated_base() -> None:
    class Orders(service_pb2_grpc.OrderServiceServicer):
        pass

    class MoreOrders(Orders):
        pass

    assert servicer_contract(Orders()).full_name == "shop.orders.v1.OrderService"
    assert servicer_contract(MoreOrders()).full_name == "shop.orders.v1.OrderService"


def test_a_class_that_implements_no_contract_is_told_what_to_derive_from() -> None:
    class Orders:
        pass

    with pytest.raises(ContractError, match=r"Orders implements no generated servicer; derive it from the …Servicer"):
        servicer_contract(Orders())


def test_a_class_that_implements_two_contracts_is_told_to_become_two() -> None:
    class Both(service_pb2_grpc.OrderServiceServicer, events_pb2_grpc.OrderEventsServicer):
        pass

    with pytest.raises(
        ContractError, match=r"Both implements .*OrderService and .*OrderEvents; make it one class for each"
    ):
        servicer_contract(Both())


def test_an_event_says_where_it_is_published() -> None:
    for event in (events_pb2.OrderPlaced, events_pb2.OrderPlaced()):
        options = event_options(event)
        assert (options.pubsub_name, options.topic) == ("events", "orders")


def test_a_message_that_is_no_event_is_told_which_option_makes_it_one() -> None:
    with pytest.raises(
        ContractError, match=r"order\.proto:\d+: shop\.orders\.v1\.Order is not an event; .*dapr_contract\.v1\.event"
    ):
        event_options(order_pb2.Order)


def test_requests_and_responses_are_of_the_generated_classes(desk: Desk) -> None:
    ask = desk.pb2.DESCRIPTOR.services_by_name["Desk"].methods_by_name["Ask"]

    assert request_class(ask) is desk.pb2.Question
    assert response_class(ask) is desk.pb2.Answer
