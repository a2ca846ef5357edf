"""Apache Kafka on one machine: one KRaft node or a quorum of them, mTLS and TLS 1.3 on every listener."""
