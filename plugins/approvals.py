"""The question to a person, in Airflow: an operator that asks, and a trigger that ends what was answered elsewhere.

Not a plugin: the DAG file and the triggerer import it where a customer's file says ``approval: required``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.triggers.hitl import HITLTrigger, HITLTriggerEventSuccessPayload
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.hitl import update_hitl_detail_response, upsert_hitl_detail
from airflow.triggers.base import TriggerEvent
from asgiref.sync import sync_to_async

__all__ = ["APPROVE", "REJECT", "Ask", "AskTrigger"]

APPROVE, REJECT = "Approve", "Reject"
LOOK_AGAIN = 15.0
"""Seconds after which a waiting question is looked up in the warehouse again."""
GRACE = timedelta(minutes=10)
"""How long after the question's time Airflow itself ends the task, where no triggerer does."""


class Ask(HITLOperator):
    """Show the question and wait for a person, in the triggerer: no slot is held.

    Airflow's own operator would wait without a trigger, and could be ended by nothing but an answer; this one ends
    within seconds when a newer challenger takes the question's place, when it is answered from a shell, or expires.
    """

    template_fields = (*HITLOperator.template_fields, "question")

    def __init__(self, *, customer_id: str, question: Any, **kwargs: Any) -> None:
        """Ask ``question``, which ``pipeline.approval.show`` gave."""
        reason = Param("", type="string", title="Reason", description="Goes into the audit.")
        shown = {"subject": f"A challenger of {customer_id}", "options": [APPROVE, REJECT], "defaults": REJECT}
        super().__init__(**shown, params={"reason": reason}, **kwargs)
        self.customer_id, self.question = customer_id, question

    def execute(self, context: Any) -> None:
        """Write the request down and let the triggerer wait."""
        self.subject, self.body = self.question["subject"], self.question["body"]
        until = datetime.fromisoformat(self.question["expires_at"])
        left = until - datetime.now(UTC)
        if left <= timedelta(0):
            raise AirflowSkipException("the question's time is over")
        ti = context["task_instance"].id
        upsert_hitl_detail(
            ti_id=ti,
            options=self.options,
            subject=self.subject,
            body=self.body,
            defaults=self.defaults,
            multiple=False,
            params=self.serialized_params,
            assigned_users=None,
        )
        trigger = AskTrigger(
            ti_id=ti,
            options=self.options,
            defaults=self.defaults,
            params=self.serialized_params,
            multiple=False,
            timeout_datetime=until,
            customer_id=self.customer_id,
            approval_id=self.question["approval_id"],
        )
        self.defer(trigger=trigger, method_name="execute_complete", timeout=left + GRACE)

    def validate_params_input(self, params_input: Mapping[str, Any]) -> None:
        """The form asks for a reason; an answer through the API that has none counts all the same, and says so."""


class AskTrigger(HITLTrigger):
    """Airflow's own trigger, which looks into the warehouse, too."""

    def __init__(self, *, customer_id: str, approval_id: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.customer_id, self.approval_id = customer_id, approval_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What the triggerer starts it with again."""
        mine = {"customer_id": self.customer_id, "approval_id": self.approval_id}
        return "approvals.AskTrigger", {**super().serialize()[1], **mine}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for an answer here or elsewhere, or for the end of the question's time."""
        looked = 0.0
        while True:
            if answered := await self._handle_response():
                yield answered
                return
            now = asyncio.get_running_loop().time()
            if now - looked >= LOOK_AGAIN:
                looked = now
                if closed := await self._closed():
                    yield await self._end(*closed)
                    return
            await asyncio.sleep(self.poke_interval)

    async def _closed(self) -> tuple[str, str] | None:
        """State and reason of a question that does not wait any more; a warehouse that is down is asked again."""
        try:
            return await asyncio.to_thread(_look_up, self.customer_id, self.approval_id)
        except Exception as error:  # the person can still answer; the next look may succeed
            self.log.warning("the warehouse was not asked: %s", error)
            return None

    async def _end(self, state: str, why: str) -> TriggerEvent:
        """Close the request in Airflow, by nobody, with what became of the question."""
        chosen, told = [APPROVE if state == "approved" else REJECT], {"reason": why}
        response = await sync_to_async(update_hitl_detail_response)(self.ti_id, chosen, told)
        return TriggerEvent(
            HITLTriggerEventSuccessPayload(
                chosen_options=chosen,
                params_input=told,
                responded_at=response.responded_at or datetime.now(UTC),
                responded_by_user=None,
                timedout=state == "expired",
            )
        )


def _look_up(customer_id: str, approval_id: int) -> tuple[str, str] | None:
    from forecasting import pipeline
    from forecasting.config import settings
    from forecasting.pipeline import approval

    os.umask(0o077)
    deployment = pipeline.connect(settings())
    try:
        asked = approval.standing(deployment, customer_id, approval_id)
    finally:
        deployment.engine.dispose()
    return None if asked.state == "waiting" else (asked.state, f"{asked.state} by {asked.who}: {asked.why}")
