"""Cut The Complete Journey down to some products: one file of till lines per day. Rows are chosen, never changed.

python examples/grocery/cut.py --transactions transactions.parquet --products products.parquet
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

REGULAR, INTERMITTENT, DEAD, NEWBORN = 240, 40, 15, 15
"""Products of each kind."""
NOT_UNITS = ("FUEL", "MISCELLANEOUS")
"""Departments whose quantities are not units; their busiest products stay, for a declared rule to leave them out."""
ODD, NAMELESS = 6, 2
"""Products of each such department, and products that the product list does not know."""
DEAD_SINCE, BORN_AFTER = pd.Timestamp("2017-07-01"), pd.Timestamp("2017-08-01")
COLUMNS = (
    "transaction_timestamp",
    "store_id",
    "product_id",
    "department",
    "basket_id",
    "quantity",
    "sales_value",
    "retail_disc",
    "coupon_disc",
    "coupon_match_disc",
)
ZONE = "America/New_York"
"""Where the tills stand. The timestamps have no zone and are UTC: only so do the shops' nights stay where they are
when the clocks change."""


def chosen_products(lines: pd.DataFrame) -> list[int]:
    """Products by weeks with a sale, then lines: the busiest, some now and then, some that ended, some just begun."""
    sold = lines[(lines["quantity"] > 0) & lines["department"].notna() & ~lines["department"].isin(NOT_UNITS)]
    week = sold["transaction_timestamp"].dt.to_period("W")
    life = (
        sold.assign(week=week)
        .groupby("product_id")
        .agg(
            weeks=("week", "nunique"),
            lines=("week", "size"),
            first=("transaction_timestamp", "min"),
            last=("transaction_timestamp", "max"),
        )
    )
    life = life.reset_index().sort_values(["weeks", "lines", "product_id"], ascending=[False, False, True])
    dead = life[life["last"] < DEAD_SINCE].head(DEAD)
    newborn = life[life["first"] >= BORN_AFTER].head(NEWBORN)
    rare = life[life["weeks"].between(25, 40)]
    every = len(rare) // INTERMITTENT
    kinds = [life.head(REGULAR), rare.iloc[::every].head(INTERMITTENT), dead, newborn]
    odd = [_busiest(lines[lines["department"] == department], ODD) for department in NOT_UNITS]
    nameless = _busiest(lines[lines["department"].isna()], NAMELESS)
    return sorted({*pd.concat(kinds)["product_id"], *odd[0], *odd[1], *nameless})


def _busiest(lines: pd.DataFrame, count: int) -> list[int]:
    size = lines.groupby("product_id").size().rename("lines").reset_index()
    return list(size.sort_values(["lines", "product_id"], ascending=[False, True])["product_id"].head(count))


def write_days(lines: pd.DataFrame, into: Path) -> None:
    """Write ``sales_<local day>.parquet`` for every day with a line, rows in their order."""
    local = lines["transaction_timestamp"].dt.tz_localize("UTC").dt.tz_convert(ZONE).dt.strftime("%Y-%m-%d")
    for day, rows in lines.groupby(local.to_numpy(), sort=True):
        table = pa.Table.from_pandas(rows[list(COLUMNS)], preserve_index=False).replace_schema_metadata(None)
        pq.write_table(
            table.cast(_narrow(table.schema)),
            into / f"sales_{day}.parquet",
            compression="zstd",
            compression_level=19,
            use_dictionary=["department", "store_id"],
            write_statistics=False,
            write_page_checksum=True,
            store_schema=False,
        )


def _narrow(schema: pa.Schema) -> pa.Schema:
    """The same with texts of plain length: a day's file does not need 64-bit offsets."""
    return pa.schema([pa.field(f.name, pa.string() if f.name == "department" else f.type) for f in schema])


def main() -> None:
    """Write the folder ``sales``."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--transactions", type=Path, required=True, help="original till lines")
    options.add_argument("--products", type=Path, required=True, help="original product list")
    options.add_argument("--into", type=Path, default=Path(__file__).parent / "sales", help="folder that is written to")
    asked = options.parse_args()
    products = pd.read_parquet(asked.products, columns=["product_id", "department"])
    lines = pd.read_parquet(asked.transactions).merge(products, on="product_id", how="left", validate="many_to_one")
    asked.into.mkdir(exist_ok=True)
    write_days(lines[lines["product_id"].isin(chosen_products(lines))], asked.into)


if __name__ == "__main__":
    main()
