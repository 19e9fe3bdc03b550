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

from forecasting.pipeline.fits import fit_ml, fit_statistical
from forecasting.pipeline.intake import freeze, plan, pull
from forecasting.pipeline.night import Deployment, Reference, Request, connect, load_customer
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
