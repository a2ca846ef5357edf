"""One certificate authority per zone and the agent that keeps every process of the zone in fresh leaves."""
