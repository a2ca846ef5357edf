GRANT USAGE ON SCHEMA gateway TO isthmus_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA gateway TO isthmus_gateway;
REVOKE INSERT, UPDATE, DELETE ON gateway.alembic_version FROM isthmus_gateway;
