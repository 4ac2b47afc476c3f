"""The stand-in sidecar: Dapr's API in this process and in memory, as far as the contract suite holds it against the real one."""
