"""The command line of daprd, as Go's pflag reads it: every flag is known, and those that mean something here are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SWITCHES = frozenset({
    "build-info", "disable-builtin-k8s-secret-store", "enable-api-logging", "enable-app-health-check", "enable-metrics",
    "enable-mtls", "enable-profiling", "log-as-json", "version", "wait",
})  # fmt: skip
_HEEDED = frozenset({
    "app-channel-address", "app-health-probe-interval", "app-id", "app-port", "app-protocol", "dapr-grpc-port", "dapr-http-port",
    "dapr-listen-addresses", "enable-app-health-check", "fault", "log-as-json", "log-level", "max-body-size", "resources-path",
    "unix-domain-socket", "version",
})  # fmt: skip
_PASSED_OVER = frozenset({
    "actors-disseminate-timeout", "allowed-origins", "app-health-check-path", "app-health-probe-timeout", "app-health-threshold",
    "app-max-concurrency", "build-info", "components-path", "config", "control-plane-address", "control-plane-namespace",
    "control-plane-trust-domain", "dapr-block-shutdown-duration", "dapr-graceful-shutdown-seconds",
    "dapr-internal-grpc-listen-address", "dapr-internal-grpc-port", "dapr-public-listen-address", "dapr-public-port",
    "disable-builtin-k8s-secret-store", "disable-init-endpoints", "enable-api-logging", "enable-metrics", "enable-mtls",
    "enable-profiling", "hot-reload-reconcile-interval", "log-file", "metrics-listen-address", "metrics-port", "mode",
    "placement-host-address", "profile-port", "read-buffer-size", "scheduler-host-address", "scheduler-job-streams",
    "sentry-address", "sentry-request-jwt-audiences", "wait",
})  # fmt: skip
_UNITS = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}
_QUANTITY = re.compile(r"(\d+)(k|M|G|Ki|Mi|Gi)?")
_TRUE, _FALSE = {"1", "t", "T", "TRUE", "true", "True"}, {"0", "f", "F", "FALSE", "false", "False"}


class FlagError(ValueError):
    """A command line that daprd would not take either."""


@dataclass
class DaprdFlags:
    """A command line: values by flag, and the flags that mean nothing here."""

    values: dict[str, list[str]] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, words: list[str]) -> DaprdFlags:
        """Read the words of a command line. Raises `FlagError`."""
        flags = cls()
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if not word.startswith("--") or word == "--":
                raise FlagError(f"{word!r} is no flag of daprd")
            name, given, value = word[2:].partition("=")
            if name not in _HEEDED | _PASSED_OVER:
                raise FlagError(f"unknown flag: --{name}")
            if not given and name in _SWITCHES:
                value = "true"
            elif not given:
                if not rest:
                    raise FlagError(f"flag needs an argument: --{name}")
                value = rest.pop(0)
            flags._keep(name, value)
        return flags

    def _keep(self, name: str, value: str) -> None:
        if name in _SWITCHES and value not in _TRUE | _FALSE:
            raise FlagError(f"--{name}: {value!r} is neither true nor false")
        if name in _HEEDED:
            self.values.setdefault(name, []).append(value)
        else:
            self.passed_over.append(name)

    def text(self, name: str, default: str = "") -> str:
        """Return a flag's value; the last one where it is given twice."""
        return self.values.get(name, [default])[-1]

    def texts(self, name: str) -> list[str]:
        """Return the values of a flag that may be given several times, or once with commas."""
        return [part for value in self.values.get(name, []) for part in value.split(",") if part]

    def number(self, name: str, default: int) -> int:
        """Return a flag's value as a number. Raises `FlagError`."""
        text = self.text(name, str(default))
        if not text.isdecimal():
            raise FlagError(f"--{name}: {text!r} is no number")
        return int(text)

    def switch(self, name: str) -> bool:
        """Return whether a switch is on."""
        return self.text(name, "false") in _TRUE

    def bytes(self, name: str, default: int) -> int:
        """Return a resource quantity (`4Mi`) as bytes. Raises `FlagError`."""
        text = self.text(name, str(default))
        found = _QUANTITY.fullmatch(text)
        if found is None:
            raise FlagError(f"--{name}: {text!r} is no quantity, such as 4Mi")
        return int(found[1]) * _UNITS[found[2] or ""]
