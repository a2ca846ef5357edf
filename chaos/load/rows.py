"""The rows that a run plays, and where the data sets that `make setup` brings lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.load.impressions import ImpressionRow, read_impressions
from chaos.load.transactions import Purchase, read_transactions

IMPRESSIONS = tuple(Path("obp/dataset/obd/random") / name / f"{name}.csv" for name in ("all", "men", "women"))
TRANSACTIONS = Path("lifetimes/datasets/CDNOW_sample.txt")


@dataclass(frozen=True)
class Rows:
    impressions: tuple[ImpressionRow, ...]
    purchases: tuple[Purchase, ...]


def read_rows(
    impressions: Sequence[Path] | None, transactions: Path | None, cache: Path, limit: int | None = None
) -> Rows:
    """Read the files given, or the data sets under `cache`; of each file at most the first `limit` rows.

    Raises:
        BadInput: a file breaks a rule of its format.
    """
    files = tuple(impressions or ()) or tuple(cache / "datasets" / path for path in IMPRESSIONS)
    purchases = transactions or cache / "datasets" / TRANSACTIONS
    return Rows(read_impressions(files, limit), read_transactions(purchases, limit))
