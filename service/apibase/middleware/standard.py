"""What every app has, in the order that it has unless the settings say otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apibase.middleware.access_log import AccessLog
from apibase.middleware.app_token import AppToken
from apibase.middleware.callers import Callers
from apibase.middleware.chain import Chain, ordered
from apibase.middleware.deadline import Deadline
from apibase.middleware.errors import Errors
from apibase.middleware.limits import ConcurrencyLimit, RateLimit, SizeLimit
from apibase.middleware.metrics import Metrics
from apibase.middleware.tracing import Tracing
from apibase.middleware.validation import Validation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apibase.delivery import TopicDelivery
    from apibase.middleware.base import Middleware
    from apibase.observability.metrics import Metrics as Families
    from apibase.observability.tracing import Tracer
    from apibase.settings import Settings


def standard_chain(
    settings: Settings,
    topics: TopicDelivery,
    families: Families,
    tracer: Tracer | None,
    custom: Sequence[Middleware] = (),
) -> Chain:
    """Return the built-in middleware with the app's own innermost, or in the order that the settings name.

    Raises `ContractError` where that names what there is not.
    """
    built_in: list[Middleware] = [
        Tracing(tracer),
        Metrics(families),
        AccessLog(settings.access_log, settings.access_log_slow),
        AppToken(settings.app_api_token),
        Callers(),
        Errors(topics),
        Deadline(),
        RateLimit(settings.rate_limit, settings.rate_burst),
        ConcurrencyLimit(settings.concurrency_limit),
        SizeLimit(),
        Validation(),
    ]
    return Chain(ordered([*built_in, *custom], settings.middleware))
