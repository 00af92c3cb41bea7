# The relay as a sidecar: slim, compiled, not root, and fit for a read-only root file system.
# Build:  docker build -t relay .
# Run:    docker run --read-only -v relay-data:/data -p 127.0.0.1:8080:8080 -p 127.0.0.1:8125:8125/udp \
#           -e RELAY__UPSTREAM__URL=https://... -v ./key:/run/secrets/key:ro \
#           -e RELAY__UPSTREAM__API_KEY_FILE=/run/secrets/key relay
ARG PYTHON=python:3.13-slim
FROM ${PYTHON} AS build
WORKDIR /src
RUN python -m venv /opt/relay
COPY requirements.lock ./
RUN /opt/relay/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY relay ./relay
RUN /opt/relay/bin/pip install --no-cache-dir --no-deps . \
    && /opt/relay/bin/python -m compileall -q /opt/relay \
    && /opt/relay/bin/pip uninstall -q -y pip

FROM ${PYTHON}
RUN groupadd --system --gid 65532 relay && useradd --system --uid 65532 --gid relay --no-create-home relay \
    && install -d -o relay -g relay -m 0700 /data
COPY --from=build /opt/relay /opt/relay
ENV PATH=/opt/relay/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    RELAY__OUTBOX__PATH=/data/outbox.db \
    RELAY__HTTP__LISTEN=0.0.0.0:8080 \
    RELAY__UDP__LISTEN=0.0.0.0:8125
USER relay
VOLUME /data
EXPOSE 8080 8125/udp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["relay", "healthcheck"]
ENTRYPOINT ["relay"]
CMD ["run"]
