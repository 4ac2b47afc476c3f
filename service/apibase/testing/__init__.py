"""What the tests of a service need: doubles of what is around it, and faults on request."""
