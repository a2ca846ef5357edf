GRANT USAGE ON SCHEMA outbox
    TO isthmus_orders, isthmus_payments, isthmus_catalog, isthmus_warehouse, isthmus_bridge_outbound;
GRANT INSERT ON outbox.event TO isthmus_orders, isthmus_payments, isthmus_catalog;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA outbox TO isthmus_orders, isthmus_payments, isthmus_catalog;
-- Who takes what was told, and removes it then.
GRANT SELECT, DELETE ON outbox.event TO isthmus_warehouse, isthmus_bridge_outbound;
