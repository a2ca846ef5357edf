GRANT USAGE ON SCHEMA oauth TO isthmus_oauth;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA oauth TO isthmus_oauth;
REVOKE INSERT, UPDATE, DELETE ON oauth.alembic_version FROM isthmus_oauth;
