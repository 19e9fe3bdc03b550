"""The Forecasts pages as an Airflow plugin. Every task start imports this file: it must stay this light."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin


class ForecastPages(AirflowPlugin):
    """A page over the fleet in the navigation, and a customer's own page as a tab of its DAG."""

    name = "forecast_pages"
    # Relative: they work behind a base path. Airflow fills in {DAG_ID}.
    external_views = [  # noqa: RUF012 - as its base declares it
        {
            "name": "Forecasts",
            "href": "forecasts/",
            "destination": "nav",
            "url_route": "forecasts",
            "nav_top_level": True,
        },
        {"name": "Forecast", "href": "forecasts/dags/{DAG_ID}", "destination": "dag", "url_route": "forecast"},
    ]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The app, built where it is asked for: in the API server, and in no task."""
        from forecasts_ui.app import create_app

        return [{"app": create_app(), "url_prefix": "/forecasts", "name": "Forecasts"}]
