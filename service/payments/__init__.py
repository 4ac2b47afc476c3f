"""The payments service: an idempotent ledger of payments in front of a payment provider."""
