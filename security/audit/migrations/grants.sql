GRANT USAGE ON SCHEMA audit TO isthmus_orders, isthmus_payments;
GRANT SELECT ON audit.alembic_version TO isthmus_orders, isthmus_payments;
-- Rooms add records and see none. The id is compared with those that are there, so that a repeat is one record.
GRANT INSERT, SELECT (record_id) ON audit.record TO isthmus_orders, isthmus_payments;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA audit TO isthmus_orders, isthmus_payments;
