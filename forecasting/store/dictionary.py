"""The data dictionary, read from the comments in the database itself, so that page and warehouse cannot differ."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["data_dictionary"]

_COLUMNS = sa.text(
    """
SELECT c.relname, CASE c.relkind WHEN 'v' THEN 'view' WHEN 'p' THEN 'table, a partition per customer' ELSE 'table' END,
    obj_description(c.oid, 'pg_class'), a.attname, format_type(a.atttypid, NULL), a.attnotnull,
    col_description(c.oid, a.attnum)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = to_regnamespace('forecasting') AND c.relkind IN ('r', 'p', 'v')
    AND c.relname <> 'alembic_version'
ORDER BY c.relkind = 'v', c.relname, a.attnum"""
)
_HEAD = """# The warehouse: data dictionary

Generated from the comments in the database: schema `forecasting`. A customer's own schema holds its partitions of
`forecast`, `actual`, `score` and `quarantine`, views `forecast_current`, `forecast_history` and `forecast_accuracy`
over them with the keys under the customer's own names, and views `feed_day` and `model_history` (a row
per version). Customers' roles see their own rows only."""


def data_dictionary(engine: sa.Engine) -> str:
    """Every table and view of the fleet's schema in Markdown: columns, types, meanings."""
    lines = [_HEAD]
    last = None
    with engine.connect() as connection:
        for name, kind, comment, column, type_, required, meaning in connection.execute(_COLUMNS):
            if name != last:
                lines += ["", f"## {name}", "", f"{kind.capitalize()}. {comment}", ""]
                lines += ["| column | type | null | meaning |", "|---|---|---|---|"]
                last = name
            null = "" if required or kind == "view" else "yes"
            lines.append(f"| {column} | {type_} | {null} | {str(meaning).replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"
