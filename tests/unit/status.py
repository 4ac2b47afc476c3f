"""What a failed call told its caller."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Told:
    """A status, with its google.rpc details where it has them."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    everything: str = ""

    def read(self, error: grpc.aio.AioRpcError) -> None:
        self.code, self.message = error.code(), error.details() or ""
        status = rpc_status.from_call(error)
        self.everything = f"{error} {status}"
        for detail in status.details if status else ():
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                self.reason, self.domain, self.metadata = info.reason, info.domain, dict(info.metadata)
            elif detail.Unpack(bad):
                self.fields = {violation.field: violation.reason for violation in bad.field_violations}


@contextmanager
def refused() -> Iterator[Told]:
    """Expect a call to fail, and read what its caller is told."""
    told = Told()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield told
    told.read(caught.value)
