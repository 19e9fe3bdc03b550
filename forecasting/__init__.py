"""Nightly batch forecasts of retail sales, one customer at a time. The flow reads data → learn → store."""
