"""Where results live: the warehouse (PostgreSQL) and the registry (MLflow). It knows nothing of sources or models."""
