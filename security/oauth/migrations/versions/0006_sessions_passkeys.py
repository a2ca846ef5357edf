"""Sessions in browsers, remembered consents, passkeys, and by which methods a sign-in was made."""

import sqlalchemy as sa
from alembic import op

revision = "oauth_0006"
down_revision = "oauth_0005"
branch_labels = None
depends_on = None

SCHEMA = "oauth"


def upgrade() -> None:
    member = sa.ForeignKey(f"{SCHEMA}.accounts.member_id")
    op.create_table(
        "sessions",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("member_id", sa.Text, member, nullable=False),
        sa.Column("signed_in_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("context", sa.Text, nullable=False),
        sa.Column("methods", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        schema=SCHEMA,
    )
    op.create_index("sessions_by_member", "sessions", ["member_id"], schema=SCHEMA)
    op.create_index("sessions_by_expiry", "sessions", ["expires_at"], schema=SCHEMA)
    op.create_table(
        "consents",
        sa.Column("member_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.accounts.member_id"), primary_key=True),
        sa.Column("client_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.clients.client_id"), primary_key=True),
        sa.Column("scopes", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
    )
    op.create_table(
        "passkeys",
        sa.Column("credential_id", sa.LargeBinary, primary_key=True),
        sa.Column("member_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.accounts.member_id"), nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("sign_count", sa.BigInteger, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
    )
    op.create_index("passkeys_by_member", "passkeys", ["member_id"], schema=SCHEMA)
    for table in ("codes", "families", "device_codes"):
        op.add_column(table, sa.Column("methods", sa.Text, nullable=False, server_default="pwd"), schema=SCHEMA)
        op.execute(f"UPDATE {SCHEMA}.{table} SET methods = 'pwd otp mfa' WHERE context <> ''")  # noqa: S608


def downgrade() -> None:
    for table in ("device_codes", "families", "codes"):
        op.drop_column(table, "methods", schema=SCHEMA)
    for table in ("passkeys", "consents", "sessions"):
        op.drop_table(table, schema=SCHEMA)
