"""The rule against overdrafts is held once for a transfer, and no longer once for each of its postings."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # At commit all postings of a transaction are there, and the last one of a transfer answers for all of them. Only of
    # this very transaction: what others add at the same time is not seen here, and is theirs to answer for.
    op.execute(
        """
        CREATE OR REPLACE FUNCTION payments.refuse_overdraft() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            paid text;
            over text;
        BEGIN
            IF EXISTS (
                SELECT FROM payments.posting WHERE transfer_id = NEW.transfer_id AND posting_id > NEW.posting_id
                AND xmin = pg_current_xact_id()::xid
            ) THEN
                RETURN NULL;
            END IF;
            SELECT payment_id INTO paid FROM payments.operation WHERE operation_id = NEW.transfer_id;
            -- One at a time for each payment: the next statement then sees what the others have posted.
            PERFORM FROM payments.payment WHERE payment_id = paid FOR UPDATE;
            SELECT account INTO over FROM (
                SELECT posting.account, sum(posting.amount) AS balance
                FROM payments.operation JOIN payments.posting ON posting.transfer_id = operation.operation_id
                WHERE operation.payment_id = paid GROUP BY posting.account, posting.currency
            ) AS kept JOIN payments.account USING (account)
            WHERE account IN (SELECT account FROM payments.posting WHERE transfer_id = NEW.transfer_id)
                AND (CASE side WHEN 'debit' THEN balance ELSE -balance END) < -overdraft
            LIMIT 1;
            IF FOUND THEN
                RAISE EXCEPTION 'payment % overdraws the account %', paid, over
                    USING ERRCODE = 'check_violation', CONSTRAINT = 'no_overdraft';
            END IF;
            RETURN NULL;
        END $$
        """
    )
