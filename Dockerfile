# One image for every component: the command says which. Same locks as `make demo`; runs as an ordinary user.
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libgomp1 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /srv/forecasting forecasting

WORKDIR /srv/forecasting/app
COPY requirements.lock requirements-uv.lock ./
RUN pip install --no-cache-dir --require-hashes --no-deps --requirement requirements-uv.lock \
    && uv pip sync --system --no-cache --require-hashes --compile-bytecode requirements.lock

COPY forecasting forecasting
COPY dags dags
COPY plugins plugins
COPY data_contracts data_contracts
COPY examples examples
COPY pyproject.toml ./
RUN python -m compileall -q forecasting \
    && mkdir -p /srv/forecasting/state \
    && chown -R forecasting:forecasting /srv/forecasting/state

ENV PYTHONPATH=/srv/forecasting/app \
    PYTHONUNBUFFERED=1 \
    FORECASTING_ROOT=/srv/forecasting/app \
    FORECASTING_HOME=/srv/forecasting/state \
    AIRFLOW_HOME=/srv/forecasting/state/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/srv/forecasting/app/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/srv/forecasting/app/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__API__ENABLE_SWAGGER_UI=False \
    DO_NOT_TRACK=1 \
    DVC_NO_ANALYTICS=1 \
    GX_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    SCARF_ANALYTICS=false \
    SCARF_NO_ANALYTICS=true

USER forecasting
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "forecasting", "--help"]
