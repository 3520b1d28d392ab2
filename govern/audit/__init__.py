"""Audit: what a forget operation leaves for others to check.

records      frozen dataclasses, strict reading, RFC 8785, JSON Schema
statement    the in-toto Statement: every field of a report
measured     the part of it that has thresholds and what was measured
disclosure   keyed hashes, and the names behind them
verdict      thresholds and measurements -> PASSED, WARNED or FAILED
signing      Ed25519 keys, DSSE envelopes
ledger       append-only log with signed tree heads
log          the ledger as people read it, with proofs of inclusion and consistency
report_file  REPORT.json
opened       a report, opened, with what there is to hold it against
verify       re-checks a report against the files, offline, without torch: verify_record,
             verify_checkpoint, verify_manifest
report       the HTML page that a person reads
portfolio    the HTML page over a ledger
"""
