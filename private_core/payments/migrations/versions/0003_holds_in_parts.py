"""Captures in parts, releases and expiry of holds; accounts that no payment may overdraw; keys that outlive records.

`account.side` is where an account's balance belongs. `account.overdraft` is how far one payment may take it to the
other side: 0 for all of them here, NULL would be without limit. A balance of everything together is not checked: its
row would be the one that every payment waits for, and no payment can overdraw what none of them overdraws alone.
"""

from alembic import op

from private_core.storage.expiry import CREATE_INDEX

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(CREATE_INDEX.format(schema="payments"))
    op.execute(
        """
        ALTER TABLE payments.payment
            ADD COLUMN released bigint NOT NULL DEFAULT 0 CHECK (released BETWEEN 0 AND authorized - captured),
            ADD COLUMN expires_time timestamptz NOT NULL DEFAULT now() + interval '7 days',
            DROP CONSTRAINT payment_state_check,
            ADD CONSTRAINT payment_state_check CHECK (
                state IN ('pending', 'authorized', 'captured', 'refunded', 'declined', 'voided', 'expired')
            )
        """
    )
    op.execute("ALTER TABLE payments.payment ALTER COLUMN expires_time DROP DEFAULT")
    op.execute("CREATE INDEX payment_expires ON payments.payment (expires_time) WHERE state = 'authorized'")
    op.execute(
        """
        ALTER TABLE payments.operation
            -- SHA-256 of the call's body: its key names this and nothing else for ever, also when the record is gone.
            ADD COLUMN body bytea,
            DROP CONSTRAINT operation_kind_check,
            ADD CONSTRAINT operation_kind_check CHECK (kind IN ('hold', 'capture', 'void', 'expire', 'refund'))
        """
    )
    op.execute("DROP INDEX payments.one_hold_one_capture")
    op.execute("CREATE UNIQUE INDEX one_hold ON payments.operation (payment_id) WHERE kind = 'hold'")
    op.execute(
        """
        CREATE UNIQUE INDEX one_at_the_hold ON payments.operation (payment_id)
        WHERE kind IN ('capture', 'void', 'expire') AND progress = 'open'
        """
    )
    op.execute("CREATE INDEX operation_by_payment ON payments.operation (payment_id)")
    _overdraft()


def _overdraft() -> None:
    op.execute(
        """
        ALTER TABLE payments.account
            ADD COLUMN side text CHECK (side IN ('debit', 'credit')),
            ADD COLUMN overdraft bigint DEFAULT 0 CHECK (overdraft >= 0)
        """
    )
    op.execute(
        """
        UPDATE payments.account SET side = CASE
            WHEN account IN ('holds:of-members', 'merchant:revenue') THEN 'credit' ELSE 'debit' END
        """
    )
    op.execute("ALTER TABLE payments.account ALTER COLUMN side SET NOT NULL")
    op.execute(
        """
        CREATE FUNCTION payments.refuse_overdraft() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            rule record;
            paid text;
            balance numeric;
        BEGIN
            SELECT side, overdraft INTO rule FROM payments.account WHERE account = NEW.account;
            IF rule.overdraft IS NULL THEN
                RETURN NULL;
            END IF;
            SELECT payment_id INTO paid FROM payments.operation WHERE operation_id = NEW.transfer_id;
            -- One at a time for each payment: the next statement then sees what the others have posted.
            PERFORM FROM payments.payment WHERE payment_id = paid FOR UPDATE;
            SELECT sum(posting.amount) INTO balance
            FROM payments.operation JOIN payments.posting ON posting.transfer_id = operation.operation_id
            WHERE operation.payment_id = paid AND posting.account = NEW.account AND posting.currency = NEW.currency;
            IF (CASE rule.side WHEN 'debit' THEN balance ELSE -balance END) < -rule.overdraft THEN
                RAISE EXCEPTION 'payment % overdraws the account %', paid, NEW.account
                    USING ERRCODE = 'check_violation', CONSTRAINT = 'no_overdraft';
            END IF;
            RETURN NULL;
        END $$
        """
    )
    # At commit, as the sum of a transfer: what one posting takes, another may have brought.
    op.execute(
        """
        CREATE CONSTRAINT TRIGGER no_overdraft AFTER INSERT ON payments.posting
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION payments.refuse_overdraft()
        """
    )
