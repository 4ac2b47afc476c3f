"""Events that were handled before: how they are recognised, and how one is claimed before it is handled."""
