"""Fixtures of the pure core's tests."""

from __future__ import annotations

import pandas as pd
import pytest

from forecasting.config import Customer

from .learn_cases import build_customer, build_panel


@pytest.fixture
def customer() -> Customer:
    return build_customer()


@pytest.fixture
def panel() -> pd.DataFrame:
    return build_panel()
