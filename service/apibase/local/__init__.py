"""The local stack: Dapr, its backends and the apps of a topology, run and ended on one machine."""
