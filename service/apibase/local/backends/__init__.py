"""The embedded backends of a local stack."""

from apibase.local.backends.chosen import Backend, address_variables, to_embed

__all__ = ["Backend", "address_variables", "to_embed"]
