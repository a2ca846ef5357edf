GRANT USAGE ON SCHEMA audit
    TO isthmus_orders, isthmus_payments, isthmus_members, isthmus_catalog, isthmus_warehouse, isthmus_oauth,
    isthmus_gateway, isthmus_bridge_inbound, isthmus_bridge_outbound, isthmus_audit;
GRANT SELECT ON audit.alembic_version
    TO isthmus_orders, isthmus_payments, isthmus_members, isthmus_catalog, isthmus_warehouse, isthmus_oauth,
    isthmus_gateway, isthmus_bridge_inbound, isthmus_bridge_outbound, isthmus_audit;
-- Rooms add records and see none. The id is compared with those that are there, so that a repeat is one record.
GRANT INSERT, SELECT (record_id) ON audit.record
    TO isthmus_orders, isthmus_payments, isthmus_members, isthmus_catalog, isthmus_warehouse, isthmus_oauth,
    isthmus_gateway, isthmus_bridge_inbound, isthmus_bridge_outbound, isthmus_audit;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA audit
    TO isthmus_orders, isthmus_payments, isthmus_members, isthmus_catalog, isthmus_warehouse, isthmus_oauth,
    isthmus_gateway, isthmus_bridge_inbound, isthmus_bridge_outbound, isthmus_audit;
-- The log's own process reads all of it, gives leaves and signs. It changes nothing either, and removes what a removal has taken.
GRANT SELECT ON audit.record, audit.leaf, audit.checkpoint, audit.cosignature, audit.removal, audit.removed TO isthmus_audit;
GRANT INSERT ON audit.leaf, audit.checkpoint, audit.cosignature, audit.removal, audit.removed TO isthmus_audit;
GRANT DELETE ON audit.record TO isthmus_audit;
-- Whoever removes asks whether its clock is believed. What was newest is moved back or on by the log's own process alone.
GRANT EXECUTE ON FUNCTION audit.believe
    TO isthmus_orders, isthmus_payments, isthmus_members, isthmus_warehouse, isthmus_bridge_inbound, isthmus_audit;
GRANT SELECT, UPDATE ON audit.retention_clock TO isthmus_audit;
