"""What becomes of an error that another app answered."""

from __future__ import annotations

import grpc
import pytest

from apibase import App, CalleeError, Settings
from apibase.error_status import public_error


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL),
        (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_another_apps_error_is_told_on_only_where_another_try_is_worth_it(
    code: grpc.StatusCode, told: grpc.StatusCode
) -> None:
    error = public_error(CalleeError("payments", code, "the card 4711 is unknown", callee_reason="CARD_UNKNOWN"))

    assert error.code is told
    assert error.reason in {"INTERNAL", "UPSTREAM_ERROR"}
    assert "4711" not in str(error)
    assert "payments" not in str(error)


def test_an_app_has_an_accessor_for_each_client(settings: Settings) -> None:
    app = App(settings)

    assert app.output_binding("archive").name == "archive"
    assert app.locks("locks").store_name == "locks"
    assert app.invocation.http("gateway").app_id == "gateway"
    assert app.jobs is not app.metadata
