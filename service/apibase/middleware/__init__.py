"""The chain: what every call passes on its way to its handler, and back."""

from apibase.middleware.base import Middleware, middleware
from apibase.middleware.call import CALLS, DELIVERIES, EVERY, RPCS, Call, Kind, MessageHook, Proceed, Target

__all__ = [
    "CALLS",
    "DELIVERIES",
    "EVERY",
    "RPCS",
    "Call",
    "Kind",
    "MessageHook",
    "Middleware",
    "Proceed",
    "Target",
    "middleware",
]
