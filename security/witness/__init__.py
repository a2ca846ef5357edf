"""A witness: cosigns the audit log's checkpoints as long as each grew out of the one before (C2SP tlog-witness)."""
