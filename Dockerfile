# The worker's image: pinned packages, a user of its own, nothing written but what goes to Kafka.
FROM python:3.12.8-slim-bookworm AS build
WORKDIR /src
COPY requirements/runtime.txt requirements/
RUN python -m venv /opt/auditgap && /opt/auditgap/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime.txt
COPY pyproject.toml README.md ./
COPY streams streams
COPY schemas schemas
COPY connectors connectors
RUN /opt/auditgap/bin/pip install --no-cache-dir --no-deps .

FROM python:3.12.8-slim-bookworm
COPY --from=build /opt/auditgap /opt/auditgap
RUN useradd --system --no-create-home auditgap
USER auditgap
ENV PATH=/opt/auditgap/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
ENTRYPOINT ["auditgap"]
CMD ["worker"]
