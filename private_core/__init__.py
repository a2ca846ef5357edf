"""The private zone: orders, payments, members, catalog, warehouse."""
