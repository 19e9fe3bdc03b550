"""The night's stages, in order: each reads by reference, asks ``learn`` to decide, writes, returns a reference.

Storage is handled here, and only here do data, learn and store meet. A stage takes and returns small JSON-able mappings
(Airflow's XComs); frames go through ``store.work``. Whatever a stage needs of the customer it reads from the run's
frozen configuration, never from the YAML again. A retried stage changes nothing that stands.

=================  ===================  ======================================================================
module             stages               leaves behind
=================  ===================  ======================================================================
``intake``         pull, freeze, plan   frozen configuration, raw rows, contract result, snapshot, plan
``fits``           fit_statistical,     score frame, forecast frames, status of each series; booster
                   fit_ml
``publication``    select, promote,     version, decision, published run
                   publish
``watch``          monitor, late        actuals, scores; a missed deadline in the audit log
=================  ===================  ======================================================================

Not stages of the night: ``approval``, a person's word on a challenger that won; ``charge``, a person's own acts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from forecasting.pipeline.night import Deployment, Reference, Request, connect, load_customer

if TYPE_CHECKING:
    from forecasting.pipeline.fits import fit_ml, fit_statistical
    from forecasting.pipeline.intake import freeze, plan, pull
    from forecasting.pipeline.publication import promote, publish, select
    from forecasting.pipeline.watch import late, monitor

__all__ = [
    "Deployment",
    "Reference",
    "Request",
    "connect",
    "fit_ml",
    "fit_statistical",
    "freeze",
    "late",
    "load_customer",
    "monitor",
    "plan",
    "promote",
    "publish",
    "pull",
    "select",
]


_STAGES = {
    "fits": ("fit_ml", "fit_statistical"),
    "intake": ("freeze", "plan", "pull"),
    "publication": ("promote", "publish", "select"),
    "watch": ("late", "monitor"),
}


def __getattr__(name: str) -> Any:
    """A stage, with what it imports, when it is asked for: a rollback waits for no library that it never uses."""
    for module, stages in _STAGES.items():
        if name in stages:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
