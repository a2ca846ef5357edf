GRANT USAGE ON SCHEMA catalog TO isthmus_catalog;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA catalog TO isthmus_catalog;
REVOKE INSERT, UPDATE, DELETE ON catalog.alembic_version FROM isthmus_catalog;
