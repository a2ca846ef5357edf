GRANT USAGE ON SCHEMA payments TO isthmus_payments;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA payments TO isthmus_payments;
-- The books are only ever added to, and their accounts are made by migrations.
REVOKE UPDATE, DELETE ON payments.transfer, payments.posting FROM isthmus_payments;
REVOKE INSERT, UPDATE, DELETE ON payments.account FROM isthmus_payments;
REVOKE INSERT, UPDATE, DELETE ON payments.alembic_version FROM isthmus_payments;
