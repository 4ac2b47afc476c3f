"""The orders service: takes orders, has them paid at `payments`, tells how they stand."""
