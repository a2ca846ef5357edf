"""The bridge's peers from Maven Central, in the same run, on the same broker and the same database."""
