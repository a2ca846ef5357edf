"""xDS resources compiled from the contract and the endpoints, in xDS's own JSON form, checked as it is parsed."""
