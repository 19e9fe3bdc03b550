"""Cut the two invoice files of Online Retail down to some stock codes. Rows are chosen, never changed.

python examples/gifts/cut.py --first year_2009_2010.parquet --second year_2010_2011.parquet
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

REGULAR, INTERMITTENT, DEAD, NEWBORN = 130, 40, 20, 20
"""Stock codes of each kind."""
PRODUCT = r"\d{5}[A-Za-z]{0,2}"
"""What the code of something that can be put into a parcel looks like."""
OTHER = ("ADJUST", "AMAZONFEE", "B", "BANK CHARGES", "C2", "CRUK", "D", "DOT", "M", "POST", "S", "TEST001", "m")
"""Codes that are no products: postage, fees, discounts, bad debt, tests."""
DEAD_SINCE, BORN_AFTER = pd.Timestamp("2011-06-01"), pd.Timestamp("2011-07-01")
FIRST = {"code": "StockCode", "day": "InvoiceDate", "invoice": "Invoice", "price": "Price", "quantity": "Quantity"}
SECOND = FIRST | {"invoice": "InvoiceNo", "price": "UnitPrice"}


def chosen_codes(first: pd.DataFrame, second: pd.DataFrame) -> list[str]:
    """Codes by days with a sale: the busiest, some that sell now and then, some that ended, some just begun."""
    years = [_named(first, FIRST), _named(second, SECOND)]
    sold = pd.concat(years)
    plain = sold["code"].str.fullmatch(PRODUCT) & ~sold["invoice"].str.startswith("C")
    sold = sold[plain & (sold["quantity"] > 0) & (sold["price"] > 0)]
    life = sold.assign(day=sold["day"].dt.normalize()).groupby("code")["day"].agg(["nunique", "min", "max"])
    life = life.reset_index().sort_values(["nunique", "code"], ascending=[False, True], ignore_index=True)
    dead = life[life["max"] < DEAD_SINCE].head(DEAD)
    newborn = life[life["min"] >= BORN_AFTER].head(NEWBORN)
    rest = life[(life["max"] >= DEAD_SINCE) & (life["min"] < BORN_AFTER)]
    rare = rest[rest["nunique"].between(40, 150)]
    every = len(rare) // INTERMITTENT
    kinds = [rest.head(REGULAR), rare.iloc[::every].head(INTERMITTENT), dead, newborn]
    return sorted(set(pd.concat(kinds)["code"]))


def _named(year: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    return year[list(columns.values())].set_axis(list(columns), axis=1)


def cut(source: Path, target: Path, codes: set[str]) -> None:
    """Copy the rows whose stock code is among ``codes``, however it is spelled, in their order and types."""
    table = pq.read_table(source)
    code = table["StockCode"].to_pandas()
    kept = code.isin(OTHER) | code.str.upper().isin(codes)
    table = table.filter(kept.to_numpy()).replace_schema_metadata(None)
    pq.write_table(table, target, compression="zstd", compression_level=19, write_page_checksum=True)


def main() -> None:
    """Write year_2009_2010.parquet and year_2010_2011.parquet."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--first", type=Path, required=True, help="original of 2009-12-01..2010-12-09")
    options.add_argument("--second", type=Path, required=True, help="original of 2010-12-01..2011-12-09")
    options.add_argument("--into", type=Path, default=Path(__file__).parent, help="folder that is written to")
    asked = options.parse_args()
    codes = {code.upper() for code in chosen_codes(pd.read_parquet(asked.first), pd.read_parquet(asked.second))}
    cut(asked.first, asked.into / "year_2009_2010.parquet", codes)
    cut(asked.second, asked.into / "year_2010_2011.parquet", codes)


if __name__ == "__main__":
    main()
