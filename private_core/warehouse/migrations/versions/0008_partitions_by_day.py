"""Rows lie in a partition for each day of their landing, so that a day goes as a whole when it has been kept for long
enough; whether an event has landed is told by its id in a table beside it.

PostgreSQL keeps a key unique within one partition only, unless the partition follows from the key. The time of landing
does not follow from an event's id, so the ids are a table of their own, partitioned by their hash.
"""

from alembic import op
from sqlalchemy import text

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = ("impression", "click", "content_view", "content_receipt", "spool_ledger")
# Smaller indexes, each with a vacuum of its own.
ID_PARTITIONS = 4
AHEAD_DAYS = 2
VIEWS = ("doubled_row", "content_reach", "content_delivery", "attributed_purchase", "traffic", "counted_click")


def upgrade() -> None:
    connection = op.get_bind()
    # A view keeps to the table that it was made of, whatever that is called later.
    definitions = [
        (name, connection.execute(text(f"SELECT pg_get_viewdef('warehouse.{name}'::regclass)")).scalar_one())
        for name in VIEWS
    ]
    for name in VIEWS:
        op.execute(f"DROP VIEW warehouse.{name}")
    op.execute(_OPEN_DAYS)
    op.execute(_DROP_DAY)
    op.execute(_FORGET)
    for table in TABLES:
        _partition(table)
    for name, definition in reversed(definitions):
        op.execute(text(f"CREATE VIEW warehouse.{name} AS {definition}".replace(":", "\\:")))


def _partition(table: str) -> None:
    op.execute(f"""
        ALTER TABLE warehouse.{table} RENAME TO {table}_before;
        CREATE TABLE warehouse.{table} (LIKE warehouse.{table}_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
            PARTITION BY RANGE (landed_time);
        CREATE TABLE warehouse.{table}_id (
            event_id uuid PRIMARY KEY,
            landed_day date NOT NULL DEFAULT (clock_timestamp() AT TIME ZONE 'UTC')::date
        ) PARTITION BY HASH (event_id);
        CREATE INDEX ON warehouse.{table}_id USING brin (landed_day);
    """)
    for number in range(ID_PARTITIONS):
        op.execute(f"""
            CREATE TABLE warehouse.{table}_id_{number} PARTITION OF warehouse.{table}_id
                FOR VALUES WITH (MODULUS {ID_PARTITIONS}, REMAINDER {number})
        """)
    # Takes what lands on a day that nobody has opened: landing never waits for that.
    op.execute(f"""
        CREATE TABLE warehouse.{table}_other PARTITION OF warehouse.{table} DEFAULT;
        CREATE INDEX ON warehouse.{table} USING brin (accepted_time);
    """)
    if table == "click":
        op.execute("""
            CREATE INDEX ON warehouse.click (impression_id, accepted_time, event_id);
            CREATE INDEX ON warehouse.click (accepted_time);
        """)
    if table == "spool_ledger":
        op.execute("CREATE INDEX ON warehouse.spool_ledger (minute)")
    op.execute(f"""
        SELECT warehouse.open_days('{table}',
            coalesce((SELECT min(landed_time) FROM warehouse.{table}_before), clock_timestamp()), {AHEAD_DAYS});
        INSERT INTO warehouse.{table} SELECT * FROM warehouse.{table}_before;
        INSERT INTO warehouse.{table}_id SELECT event_id, (landed_time AT TIME ZONE 'UTC')::date
            FROM warehouse.{table}_before;
        DROP TABLE warehouse.{table}_before;
        CREATE TRIGGER forget AFTER DELETE ON warehouse.{table}
            REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION warehouse.forget();
    """)  # noqa: S608


# The owner's functions: the inward bridge may open days and let days go, and cannot change a table otherwise. Who waits
# for a table's readers holds up those who come after, and so does not wait for long.
_OPEN_DAYS = """
    CREATE FUNCTION warehouse.open_days(wanted name, since timestamptz, ahead integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '2s' AS $$
    DECLARE
        day date := since::date;
        part name;
    BEGIN
        -- Workers start at once. The number is this function's own.
        PERFORM pg_advisory_xact_lock(4717318403);
        IF NOT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = ('warehouse.' || wanted)::regclass) THEN
            RAISE invalid_parameter_value USING MESSAGE = wanted || ' has no days';
        END IF;
        WHILE day <= clock_timestamp()::date + ahead LOOP
            part := wanted || to_char(day, '_YYYYMMDD');
            IF to_regclass('warehouse.' || part) IS NULL THEN
                EXECUTE format('CREATE TABLE warehouse.%I (LIKE warehouse.%I INCLUDING ALL)', part, wanted);
                EXECUTE format('LOCK TABLE warehouse.%I IN ACCESS EXCLUSIVE MODE', wanted || '_other');
                EXECUTE format(
                    'WITH moved AS (DELETE FROM warehouse.%I WHERE landed_time >= %L AND landed_time < %L RETURNING *)'
                    ' INSERT INTO warehouse.%I SELECT * FROM moved', wanted || '_other', day, day + 1, part);
                -- Other than CREATE TABLE ... PARTITION OF, this lets rows land meanwhile.
                EXECUTE format('ALTER TABLE warehouse.%I ATTACH PARTITION warehouse.%I FOR VALUES FROM (%L) TO (%L)',
                    wanted, part, day, day + 1);
            END IF;
            day := day + 1;
        END LOOP;
    END $$;
"""
_DROP_DAY = """
    CREATE FUNCTION warehouse.drop_day(wanted name, before timestamptz, OUT day date, OUT landed bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '2s' AS $$
    DECLARE
        part name;
    BEGIN
        SELECT relname, to_date(right(relname, 8), 'YYYYMMDD') INTO part, day
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = ('warehouse.' || wanted)::regclass AND relname ~ '_[0-9]{8}$'
            AND to_date(right(relname, 8), 'YYYYMMDD') + 1 <= before
        ORDER BY 2 LIMIT 1;
        IF part IS NOT NULL THEN
            -- Nothing lands on a day that is over. Only the end of it keeps readers and writers waiting.
            EXECUTE format('SELECT count(*) FROM warehouse.%I', part) INTO landed;
            EXECUTE format('DROP TABLE warehouse.%I', part);
        END IF;
    END $$;
"""
# A row that somebody deletes by hand can land again; one that goes with its day can not.
_FORGET = """
    CREATE FUNCTION warehouse.forget() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        EXECUTE format('DELETE FROM warehouse.%I WHERE event_id IN (SELECT event_id FROM gone)',
            TG_TABLE_NAME || '_id');
        RETURN NULL;
    END $$;
"""
