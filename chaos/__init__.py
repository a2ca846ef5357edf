"""Load, faults, checkers and reports: how failover is proven."""
