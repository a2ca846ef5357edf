GRANT USAGE ON SCHEMA members TO isthmus_members;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA members TO isthmus_members;
-- Who was here, what they consented to and whom they were taken for is never removed; consents are only ever added to.
REVOKE DELETE ON members.member, members.merge FROM isthmus_members;
REVOKE UPDATE, DELETE ON members.consent FROM isthmus_members;
-- The region of a store is said once.
REVOKE UPDATE, DELETE ON members.residence FROM isthmus_members;
REVOKE INSERT, UPDATE, DELETE ON members.alembic_version FROM isthmus_members;
