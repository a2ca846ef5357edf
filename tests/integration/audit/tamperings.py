"""What whoever owns the database may do to the log: around leaf 14, or from a later one on."""

from msgspec.structs import replace

from tests.integration.audit.kept_log import BATCH, COLUMNS, LEAVES, Log, record


def altered(log: Log) -> None:
    log.sql(f"UPDATE audit.record SET data_subject = 'member-99' WHERE sequence = {log.sequence(14)}")


def altered_beyond_what_a_record_holds(log: Log) -> None:
    log.sql(
        "ALTER TABLE audit.record DROP CONSTRAINT record_decision_check",
        f"UPDATE audit.record SET decision = 7 WHERE sequence = {log.sequence(14)}",
    )


def altered_with_its_column(log: Log) -> None:
    changed = replace(log.row(14), data_subject="member-99").leaf_hash().hex()
    log.sql(
        f"UPDATE audit.record SET data_subject = 'member-99', leaf_hash = '\\x{changed}'"
        f" WHERE sequence = {log.sequence(14)}"
    )


def altered_column(log: Log) -> None:
    log.sql(f"UPDATE audit.record SET leaf_hash = sha256('x') WHERE sequence = {log.sequence(14)}")


def altered_leaf(log: Log) -> None:
    log.sql("UPDATE audit.leaf SET leaf_hash = sha256('x') WHERE leaf_index = 14")


def removed(log: Log) -> None:
    log.sql(f"DELETE FROM audit.record WHERE sequence = {log.sequence(14)}")


def removed_leaf(log: Log) -> None:
    log.sql("DELETE FROM audit.leaf WHERE leaf_index = 14")


def removed_with_its_leaf(log: Log) -> None:
    log.sql(
        f"DELETE FROM audit.record WHERE sequence = {log.sequence(14)}",
        "DELETE FROM audit.leaf WHERE leaf_index = 14",
    )


def swapped(log: Log) -> None:
    first, second = log.sequence(14), log.sequence(15)
    update = "UPDATE audit.record SET sequence = {} WHERE sequence = {}"
    log.sql(
        "ALTER TABLE audit.record ALTER sequence DROP IDENTITY",
        update.format(-1, first),
        update.format(first, second),
        update.format(second, -1),
    )


def swapped_leaves(log: Log) -> None:
    first, second = log.sequence(14), log.sequence(15)
    update = "UPDATE audit.leaf SET record_sequence = {} WHERE leaf_index = {}"
    log.sql(update.format(-1, 14), update.format(first, 15), update.format(second, 14))


def inserted(log: Log) -> None:
    """A copy of another row, in a gap as any aborted transaction leaves one: of leaf 3, before leaf 30."""
    log.one("SELECT nextval('audit.record_sequence_seq')")
    log.write(record(LEAVES))
    log.sign()
    log.sql(
        f"INSERT INTO audit.record (sequence, {COLUMNS}) OVERRIDING SYSTEM VALUE SELECT {log.sequence(LEAVES) - 1},"
        f" gen_random_uuid(), {COLUMNS.partition(', ')[2]} FROM audit.record WHERE sequence = {log.sequence(3)}"
    )


def altered_everywhere(log: Log) -> None:
    """The row with all that is stored about it, but for the roots that are signed."""
    altered_with_its_column(log)
    log.sql(
        "UPDATE audit.leaf SET leaf_hash = (SELECT leaf_hash FROM audit.record WHERE sequence = record_sequence)"
        " WHERE leaf_index = 14"
    )


def cut_rows(log: Log) -> None:
    log.sql(f"DELETE FROM audit.record WHERE sequence >= {log.sequence(25)}")


def cut_rows_and_leaves(log: Log) -> None:
    log.sql(
        f"DELETE FROM audit.record WHERE sequence >= {log.sequence(25)}",
        "DELETE FROM audit.leaf WHERE leaf_index >= 25",
    )


def told_anew(log: Log) -> None:
    """Another story from leaf 20 on, signed with the true key by somebody who thinks that nobody kept the first one."""
    log.sql(
        f"DELETE FROM audit.record WHERE sequence >= {log.sequence(20)}",
        "DELETE FROM audit.leaf WHERE leaf_index >= 20",
        "DELETE FROM audit.checkpoint WHERE tree_size > 20",
    )
    log.checkpoints.unlink()
    log.write(*(record(number) for number in range(BATCH + 5)))
    log.sign()


def forked(log: Log) -> None:
    handed_out = log.file.notes()
    told_anew(log)
    for note in handed_out:
        log.file.append(note)
