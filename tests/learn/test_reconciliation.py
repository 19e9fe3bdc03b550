"""Reconciliation: what the levels of a hierarchy say is brought together, and adds up."""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.learn import reconciliation

from .learn_cases import build_customer

IDS = ["A/1", "A/2", "A/3", "B/1", "B/2"]


@pytest.fixture
def nodes():
    return reconciliation.groupings(IDS, build_customer())


def summing(nodes):
    return np.vstack([np.equal.outer(np.arange(len(node.ids)), node.of).astype(float) for node in nodes])


def test_forecasts_that_add_up_are_left_alone(nodes):
    bottom = np.random.default_rng(0).random((5, 3)) * 10
    y_hat = np.vstack([bottom, summing(nodes) @ bottom])
    np.testing.assert_allclose(reconciliation.reconcile(y_hat, nodes, np.arange(1.0, 6.0)), bottom)


def test_it_is_weighted_least_squares_in_closed_form(nodes):
    """Against the textbook's matrix: (S' W⁻¹ S)⁻¹ S' W⁻¹ y_hat."""
    random = np.random.default_rng(1)
    variance = random.random(5) + 0.5
    upper = summing(nodes)
    y_hat = np.vstack([random.random((5, 4)) * 10, random.random((len(upper), 4)) * 30 + 20])
    whole = np.vstack([np.eye(5), upper])
    weight = np.diag(1 / np.concatenate([variance, upper @ variance]))
    expected = np.linalg.solve(whole.T @ weight @ whole, whole.T @ weight @ y_hat)
    assert (expected > 0).all()
    np.testing.assert_allclose(reconciliation.reconcile(y_hat, nodes, variance), expected, rtol=1e-6)


def test_a_series_without_variance_keeps_its_forecast_and_none_falls_below_zero(nodes):
    y_hat = np.vstack([np.ones((5, 1)), np.zeros((3, 1))])
    variance = np.array([1.0, np.nan, 0.0, 1.0, 1.0])
    got = reconciliation.reconcile(y_hat, nodes, variance)
    assert got[1, 0] == got[2, 0] == 1.0
    assert (got >= 0).all()
    assert got[0, 0] < 1.0


def test_without_a_hierarchy_nothing_is_moved():
    y_hat = np.arange(10.0).reshape(5, 2)
    np.testing.assert_array_equal(reconciliation.reconcile(y_hat, [], np.ones(5)), y_hat)


def test_a_reconciliation_that_does_not_end_is_told(nodes, monkeypatch, caplog):
    y_hat = np.random.default_rng(2).random((len(IDS) + sum(len(node.ids) for node in nodes), 1))
    reconciliation.reconcile(y_hat, nodes, np.arange(1.0, 6.0))
    assert caplog.text == ""
    monkeypatch.setattr(reconciliation, "_TRIES", 1)
    reconciliation.reconcile(y_hat, nodes, np.arange(1.0, 6.0))
    assert "step 1: series and aggregates are not within 1e-08 after 1 tries" in caplog.text
