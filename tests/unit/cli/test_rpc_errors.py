"""A failed call, told to a person."""

from __future__ import annotations

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from apibase.cli.rpc_errors import describe


def error(*details: object, message: str = "no", raw: bytes | None = None) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=3, message=message)
    for detail in details:
        if isinstance(detail, Any):
            status.details.append(detail)
        else:
            status.details.add().Pack(detail)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", raw or status.SerializeToString()))
    return grpc.aio.AioRpcError(grpc.StatusCode.INVALID_ARGUMENT, grpc.aio.Metadata(), trailing, message)


def test_reason_fields_and_delay_are_readable() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="lines[0].sku", description="unknown")
    lines = describe(
        error(
            error_details_pb2.ErrorInfo(reason="NOT_TODAY", domain="toy", metadata={"day": "monday"}),
            error_details_pb2.BadRequest(field_violations=[violation]),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
        ),
        DescriptorPool(),
    )
    assert lines == [
        "INVALID_ARGUMENT: no",
        "  reason: NOT_TODAY (toy)",
        "    day: monday",
        "  field lines[0].sku: unknown",
        "  retry after: 1.5 s",
    ]


def test_other_details_are_json_and_unknown_ones_are_named() -> None:
    unknown = Any(type_url="type.googleapis.com/acme.Secret", value=b"123")
    lines = describe(error(error_details_pb2.ResourceInfo(resource_name="orders/1"), unknown), DescriptorPool())
    assert lines[1] == '  google.rpc.ResourceInfo: {"resource_name": "orders/1"}'
    assert lines[2] == "  acme.Secret: 3 bytes, of a type that is not in the contracts"


def test_an_error_without_details_or_with_unreadable_ones_is_still_told() -> None:
    assert describe(error(message=""), DescriptorPool()) == ["INVALID_ARGUMENT: (no message)"]
    assert "can't be read" in describe(error(raw=b"\xff"), DescriptorPool())[1]
