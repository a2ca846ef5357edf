"""The control plane of one zone: knows every endpoint, probes it, and feeds Envoy and `xds:///` clients over ADS."""
