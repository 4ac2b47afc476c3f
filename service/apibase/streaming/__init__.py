"""Subscriptions of topics that are known only at run time, over a stream from the sidecar."""

from apibase.streaming.subscription import StreamingSubscription

__all__ = ["StreamingSubscription"]
