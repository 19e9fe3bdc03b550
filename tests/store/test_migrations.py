"""The migrations build what the code declares, and say what everything means."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from forecasting.store import dictionary, tables, warehouse


def differences(engine: sa.Engine) -> list[object]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    options = {
        "include_schemas": True,
        "include_name": lambda name, kind, parents: kind != "schema" or name == tables.SCHEMA,
        "include_object": lambda thing, name, kind, reflected, other: name != "alembic_version",
        "compare_type": True,
        "compare_server_default": True,
    }
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata)


def test_migrations_build_the_tables_the_code_declares(engine: sa.Engine) -> None:
    assert differences(engine) == []


def test_migrations_go_down_to_nothing_and_up_again(empty_url: str) -> None:
    warehouse.migrate(empty_url)
    engine = warehouse.connect(empty_url)
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(warehouse._MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with engine.connect() as connection:
        left = sa.text(
            "SELECT relname FROM pg_class WHERE relnamespace = 'forecasting'::regnamespace AND relkind <> 'i'"
        )
        assert connection.execute(left).scalars().all() == ["alembic_version"]
    warehouse.migrate(empty_url)
    assert differences(engine) == []
    engine.dispose()


def test_several_may_migrate_at_once(empty_url: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(warehouse.migrate, [empty_url] * 3))
    engine = warehouse.connect(empty_url)
    assert warehouse._revision(engine) == warehouse._newest_revision()
    engine.dispose()


def test_every_table_view_and_column_says_what_it_means(engine: sa.Engine, customer: object) -> None:
    silent = sa.text(
        """
        SELECT c.oid::regclass || coalesce('.' || a.attname, '')
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE (n.nspname = 'forecasting' OR n.nspname LIKE 'shop%') AND c.relkind IN ('r', 'p', 'v')
          AND c.relname <> 'alembic_version'
          AND (obj_description(c.oid, 'pg_class') IS NULL OR col_description(c.oid, a.attnum) IS NULL)
        """
    )
    with engine.connect() as connection:
        assert connection.execute(silent).scalars().all() == []


def test_every_small_table_is_under_row_security_and_every_view_asks_as_its_reader(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        secured = sa.text(
            "SELECT relname FROM pg_class WHERE relnamespace = 'forecasting'::regnamespace AND relrowsecurity"
        )
        assert set(connection.execute(secured).scalars()) == {table.name for table in tables.ROW_SECURED}
        open_views = sa.text(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'v' AND relnamespace::regnamespace::text NOT IN "
            "('pg_catalog', 'information_schema') AND NOT coalesce('security_invoker=true' = ANY (reloptions), false)"
        )
        assert connection.execute(open_views).scalars().all() == []


@pytest.mark.parametrize("table", tables.metadata.sorted_tables, ids=lambda table: table.name)
def test_the_data_dictionary_names_every_table(engine: sa.Engine, table: sa.Table) -> None:
    text = dictionary.data_dictionary(engine)
    assert f"## {table.name}" in text
    assert all(f"| {column.name} |" in text for column in table.c)
