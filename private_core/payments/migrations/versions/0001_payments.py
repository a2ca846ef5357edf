"""Payments, what was asked of the provider, and the books."""

from alembic import op

from private_core.storage.idempotency import CREATE_TABLE

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(CREATE_TABLE.format(schema="payments"))
    op.execute(
        """
        CREATE TABLE payments.payment (
            payment_id text PRIMARY KEY,
            order_id text NOT NULL,
            member_id text NOT NULL DEFAULT '',
            state text NOT NULL CHECK (state IN ('pending', 'authorized', 'captured', 'refunded', 'declined')),
            currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
            authorized bigint NOT NULL CHECK (authorized >= 0),
            captured bigint NOT NULL DEFAULT 0,
            refunded bigint NOT NULL DEFAULT 0,
            -- Asked of the provider and not answered yet. Two refunds at once cannot take more than there is.
            refunding bigint NOT NULL DEFAULT 0,
            source_time timestamptz NOT NULL,
            created_time timestamptz NOT NULL DEFAULT now(),
            CHECK (captured BETWEEN 0 AND authorized),
            CHECK (refunded >= 0 AND refunding >= 0 AND refunded <= captured AND refunding <= captured - refunded)
        )
        """
    )
    op.execute(
        """
        CREATE UNIQUE INDEX one_live_payment ON payments.payment (order_id)
        WHERE state IN ('pending', 'authorized', 'captured')
        """
    )
    op.execute("CREATE INDEX payment_by_order ON payments.payment (order_id, payment_id DESC)")
    op.execute(
        """
        CREATE TABLE payments.operation (
            -- Also the idempotency key at the provider.
            operation_id text PRIMARY KEY,
            payment_id text NOT NULL REFERENCES payments.payment,
            kind text NOT NULL CHECK (kind IN ('hold', 'capture', 'refund')),
            progress text NOT NULL DEFAULT 'open' CHECK (progress IN ('open', 'done', 'declined')),
            amount bigint NOT NULL CHECK (amount >= 0),
            provider_id text,
            created_time timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute(
        """
        CREATE UNIQUE INDEX one_hold_one_capture ON payments.operation (payment_id, kind)
        WHERE kind IN ('hold', 'capture') AND progress <> 'declined'
        """
    )
    _books()
    _rules_of_the_books()


def _books() -> None:
    op.execute(
        """
        CREATE TABLE payments.account (
            account text PRIMARY KEY,
            meaning text NOT NULL
        )
        """
    )
    op.execute(
        """
        INSERT INTO payments.account VALUES
            ('holds:at-provider', 'what the provider holds for us'),
            ('holds:of-members', 'whose money it is that is held'),
            ('provider:receivable', 'what the provider owes us'),
            ('merchant:revenue', 'what was sold'),
            ('merchant:refunds', 'what was given back')
        """
    )
    op.execute(
        """
        CREATE TABLE payments.transfer (
            transfer_id text PRIMARY KEY REFERENCES payments.operation,
            kind text NOT NULL,
            source_time timestamptz NOT NULL,
            created_time timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute(
        """
        CREATE TABLE payments.posting (
            posting_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            transfer_id text NOT NULL REFERENCES payments.transfer,
            account text NOT NULL REFERENCES payments.account,
            currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
            -- Debits are positive, credits negative.
            amount bigint NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX posting_by_transfer ON payments.posting (transfer_id)")


def _rules_of_the_books() -> None:
    op.execute(
        """
        CREATE FUNCTION payments.require_zero_sum() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NOT EXISTS (SELECT FROM payments.posting WHERE transfer_id = NEW.transfer_id) THEN
                RAISE EXCEPTION 'transfer % has no postings', NEW.transfer_id USING ERRCODE = 'check_violation';
            END IF;
            IF EXISTS (
                SELECT FROM payments.posting WHERE transfer_id = NEW.transfer_id
                GROUP BY currency HAVING sum(amount) <> 0
            ) THEN
                RAISE EXCEPTION 'transfer % does not sum to zero', NEW.transfer_id USING ERRCODE = 'check_violation';
            END IF;
            RETURN NULL;
        END $$
        """
    )
    # At commit, when all postings of a transfer are there. On both tables, so that neither a transfer without
    # postings nor a posting added later gets by.
    for table in ("transfer", "posting"):
        op.execute(
            f"""
            CREATE CONSTRAINT TRIGGER zero_sum AFTER INSERT ON payments.{table}
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION payments.require_zero_sum()
            """
        )
    op.execute(
        """
        CREATE FUNCTION payments.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the books are only ever added to: % of % is refused', TG_OP, TG_TABLE_NAME
                USING ERRCODE = 'insufficient_privilege', HINT = 'post a transfer that reverses the wrong one';
        END $$
        """
    )
    for table in ("transfer", "posting"):
        op.execute(
            f"""
            CREATE TRIGGER only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON payments.{table}
            FOR EACH STATEMENT EXECUTE FUNCTION payments.refuse_change()
            """
        )


def downgrade() -> None:
    op.execute(
        "DROP TABLE payments.posting, payments.transfer, payments.account, payments.operation, payments.payment,"
        " payments.idempotency"
    )
    op.execute("DROP FUNCTION payments.require_zero_sum, payments.refuse_change")
