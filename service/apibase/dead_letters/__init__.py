"""Dead letters: written, archived, listed and replayed."""

from apibase.dead_letters.letters import (
    CLOUD_EVENT,
    CODE,
    EVERYTHING,
    EXTENSIONS,
    HANDLER,
    PUBSUB,
    REASON,
    REDACTED,
    REPLAY,
    TOPIC,
    DeadLetters,
    Death,
    finite,
)

__all__ = [
    "CLOUD_EVENT",
    "CODE",
    "EVERYTHING",
    "EXTENSIONS",
    "HANDLER",
    "PUBSUB",
    "REASON",
    "REDACTED",
    "REPLAY",
    "TOPIC",
    "DeadLetters",
    "Death",
    "finite",
]
