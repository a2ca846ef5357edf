GRANT USAGE ON SCHEMA orders TO isthmus_orders;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA orders TO isthmus_orders;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA orders FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orders.end_reservation(text, boolean) TO isthmus_orders;
-- The one thing of this schema that another room may use.
GRANT USAGE ON SCHEMA orders TO isthmus_payments;
GRANT EXECUTE ON FUNCTION orders.follow_payment(text, text) TO isthmus_payments;
REVOKE INSERT, UPDATE, DELETE ON orders.alembic_version FROM isthmus_orders;
