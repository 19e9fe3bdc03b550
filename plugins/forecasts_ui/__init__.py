"""The Forecasts pages: a FastAPI app inside Airflow's API server that reads the warehouse and changes nothing."""
