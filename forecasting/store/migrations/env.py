"""Alembic's door: runs the revisions on the connection it is handed, in the caller's transaction."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from forecasting.store.tables import SCHEMA, metadata


def _run(connection: sa.Connection) -> None:
    connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=SCHEMA,
        include_schemas=True,
        include_name=lambda name, kind, parents: kind != "schema" or name == SCHEMA,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is None:
    raise SystemExit("run migrations by `forecasting migrate`: it holds the lock that keeps two from running at once")
_run(given)
