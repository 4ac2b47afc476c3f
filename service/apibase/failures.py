"""What both borders do with an exception: its caller is told what is the caller's to know, the log has the rest."""

from __future__ import annotations

import grpc
from loguru import logger

from apibase.error_status import public_error
from apibase.errors import ServiceError, SidecarError


def tell(method: str, error: BaseException) -> ServiceError:
    """Return what the caller of `method` is told of `error`; whatever that leaves out is logged under the same id."""
    told = public_error(error)
    if told is error:
        return told
    to_log = logger.bind(error_id=told.metadata["error_id"]).opt(exception=error)
    if isinstance(error, SidecarError):
        to_log.warning("{} failed at the sidecar: {}", method, error)
    elif isinstance(error, grpc.aio.AioRpcError):
        to_log.warning("{} failed at another app: {}: {}", method, error.code().name, error.details())
    else:
        to_log.error("{} failed with an unexpected {}", method, type(error).__name__)
    return told
