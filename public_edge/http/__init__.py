"""The edge's HTTP front: RSGI routing, strict bodies and queries, problem documents, the TLS server."""
