"""Proofs of possession that were used, and the key of the nonces they must bring."""

import sqlalchemy as sa
from alembic import op

revision = "gateway_0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "gateway"


def upgrade() -> None:
    op.create_table(
        "proofs",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        schema=SCHEMA,
    )
    op.create_index("proofs_by_expiry", "proofs", ["expires_at"], schema=SCHEMA)
    op.create_table(
        "nonce_key",
        sa.Column("one", sa.SmallInteger, sa.CheckConstraint("one = 1"), primary_key=True),
        sa.Column("key", sa.LargeBinary, nullable=False),
        schema=SCHEMA,
    )


def downgrade() -> None:
    op.drop_table("nonce_key", schema=SCHEMA)
    op.drop_table("proofs", schema=SCHEMA)
