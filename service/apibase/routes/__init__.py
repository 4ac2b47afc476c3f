"""Routes: what can reach an app, and the handler of each."""

from apibase.routes.route import Handler, Headers, Incoming, JobRoute, Reader, Route, TopicRoute
from apibase.routes.table import RouteTable, contract_reader
from apibase.routes.topics import DEFAULT_PATH, GENERIC_EVENT_TYPE

__all__ = [
    "DEFAULT_PATH",
    "GENERIC_EVENT_TYPE",
    "Handler",
    "Headers",
    "Incoming",
    "JobRoute",
    "Reader",
    "Route",
    "RouteTable",
    "TopicRoute",
    "contract_reader",
]
