"""Apache Kafka on one machine: a single KRaft node, mTLS and TLS 1.3 on both its listeners."""
