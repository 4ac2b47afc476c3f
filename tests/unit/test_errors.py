"""The one table from errors to `google.rpc.Status`."""

from __future__ import annotations

from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2

from apibase import Conflict, FieldViolation, InvalidRequest, ServiceError, SidecarError, SidecarUnavailable
from apibase.error_status import public_error, to_status

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_every_code_keeps_its_number_its_message_and_its_error_info(code: grpc.StatusCode) -> None:
    error = ServiceError(code, "NO_SUCH_DESK", "there is no desk 7", metadata={"desk": "7"})

    status = to_status(error, domain="desk.v1")

    assert (status.code, status.message) == (code.value[0], "there is no desk 7")
    info = error_details_pb2.ErrorInfo()
    assert len(status.details) == 1
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == ("NO_SUCH_DESK", "desk.v1", {"desk": "7"})


def test_violations_become_a_bad_request_beside_the_error_info() -> None:
    error = InvalidRequest(
        [FieldViolation("lines[0].sku", "is not sold", "UNKNOWN_SKU"), FieldViolation("note", "is rude")]
    )

    status = to_status(error, domain="desk.v1")

    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad_request)
    assert info.reason == "INVALID_REQUEST"
    assert [(v.field, v.description, v.reason) for v in bad_request.field_violations] == [
        ("lines[0].sku", "is not sold", "UNKNOWN_SKU"),
        ("note", "is rude", ""),
    ]


def test_the_message_of_an_invalid_request_names_three_violations_and_counts_the_rest() -> None:
    error = InvalidRequest([FieldViolation(f"field{number}", "is wrong") for number in range(5)])

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == "field0: is wrong; field1: is wrong; field2: is wrong (and 2 more)"


def test_a_status_stays_below_what_grpc_lets_through_in_a_header() -> None:
    violations = [
        FieldViolation(f"lines[{number}].quantity", "must be more than it is", "int32.gte") for number in range(500)
    ]
    violations[0] = FieldViolation("first", "d" * 2000)

    status = to_status(InvalidRequest(violations), domain="desk.v1")

    assert status.ByteSize() < 6000
    assert len(status.message) == 1000
    assert status.message.endswith("…")
    bad_request = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad_request)
    assert bad_request.field_violations[0].field == "first"
    assert len(bad_request.field_violations) > 10


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_an_error_is_retryable_as_its_code_says_unless_it_says_so_itself(code: grpc.StatusCode) -> None:
    by_default = code.name in {"ABORTED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}

    assert ServiceError(code, "R", "m").retryable is by_default
    assert ServiceError(code, "R", "m", retryable=not by_default).retryable is not by_default


@pytest.mark.req("R1.5")
def test_an_unreachable_sidecar_is_unavailable_and_worth_a_retry() -> None:
    error = SidecarUnavailable("connection refused")

    assert isinstance(error, ServiceError)
    assert (error.code, error.retryable) == (grpc.StatusCode.UNAVAILABLE, True)
    assert str(error) == "UNAVAILABLE SIDECAR_UNAVAILABLE: connection refused"


def test_a_conflict_is_aborted_worth_a_retry_and_names_key_and_store() -> None:
    error = Conflict("order/7", component="statestore")

    assert (error.code, error.retryable) == (grpc.StatusCode.ABORTED, True)
    assert (error.key, error.component) == ("order/7", "statestore")
    assert "order/7" in str(error)


def test_a_services_own_error_is_public_as_it_is() -> None:
    error = ServiceError(grpc.StatusCode.INTERNAL, "BROKEN", "the desk is broken")

    assert public_error(error) is error


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_a_sidecar_error_is_public_without_its_text_and_with_its_code_only_where_a_retry_helps(
    code: grpc.StatusCode,
) -> None:
    told = public_error(SidecarError(code, "SIDECAR_ERROR", "dial postgres://hunter2", component="statestore"))

    kept = code.name in {"ABORTED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert told.code is (code if kept else grpc.StatusCode.INTERNAL)
    assert told.retryable is kept
    assert told.metadata.keys() == {"error_id"}
    assert "hunter2" not in str(to_status(told, domain="desk.v1"))
    assert "statestore" not in str(to_status(told, domain="desk.v1"))


def test_every_unexpected_exception_gets_an_id_of_its_own() -> None:
    first, second = public_error(RuntimeError("hunter2")), public_error(RuntimeError("hunter2"))

    assert first.code is second.code is grpc.StatusCode.INTERNAL
    assert first.metadata["error_id"] != second.metadata["error_id"]
    assert first.metadata["error_id"] in first.message
    assert "hunter2" not in first.message


@pytest.mark.parametrize("character", ["é", "時", "🙂", "%", "\n", "\udc80", "x"])
def test_a_long_message_fits_into_headers_as_grpc_writes_it(character: str) -> None:
    violations = [
        FieldViolation(f"lines[{number}].quantity", "must be more than 0", "int32.gt") for number in range(200)
    ]
    error = ServiceError(grpc.StatusCode.NOT_FOUND, "NO", character * 5000, violations=violations)

    status = to_status(error, domain="desk.v1")

    assert status.message.endswith("…")
    written = len(quote(status.message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}"))
    assert 990 <= written <= 1010
    assert written + len(status.SerializeToString()) * 4 / 3 < 8000


def test_metadata_that_a_header_does_not_let_through_is_left_out() -> None:
    error = ServiceError(
        grpc.StatusCode.NOT_FOUND, "NO_SUCH_DESK", "no", metadata={"long": "x" * 9000, "desk": "7", "half": "\ud800"}
    )

    info = error_details_pb2.ErrorInfo()
    assert to_status(error, domain="desk.v1").details[0].Unpack(info)

    assert dict(info.metadata) == {"desk": "7", "half": "?"}


def test_metadata_and_violations_share_what_a_header_lets_through() -> None:
    error = ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "WRONG",
        "wrong",
        metadata={"text": "x" * 3000},
        violations=[FieldViolation(f"lines[{number}]\ud800", "is wrong") for number in range(500)],
    )

    status = to_status(error, domain="desk.v1")

    assert status.ByteSize() < 6000
    bad_request = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad_request)
    assert bad_request.field_violations[0].field == "lines[0]?"
