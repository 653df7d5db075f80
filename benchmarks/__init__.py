"""Measuring and verifying: the benchmark registry and its runner, the hardware check and its ledger."""
