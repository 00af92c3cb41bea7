# The relay as a small container with compiled modules, an unprivileged user and a read-only root file system.
#   docker build -t event-relay .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges -v event-relay-data:/data \
#     -p 127.0.0.1:8080:8080 -e RELAY__UPSTREAM__URL=https://... \
#     -v ./key:/run/secrets/key:ro -e RELAY__UPSTREAM__API_KEY_FILE=/run/secrets/key event-relay
# For amd64, arm64 and armv7 at once: docker buildx build --platform linux/amd64,linux/arm64,linux/arm/v7 .
# deploy/ contains files for compose and Kubernetes. For HEALTHCHECK, buildah and podman need --format docker.
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
# armv7 has no wheel of msgspec, so pip builds its locked source. gcc stays in this stage.
RUN if [ "$(uname -m)" = armv7l ]; then \
      apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi
# pip and the build tools have an environment of their own, which stays in this stage.
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/event-relay
ENV PATH=/build/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements.lock requirements-build.lock requirements-postgres.lock ./
# --build-arg POSTGRES=1 adds the driver of outbox.kind = "postgres".
ARG POSTGRES=
RUN pip install --require-hashes -r requirements-build.lock \
    && pip wheel --wheel-dir /wheels --no-build-isolation --require-hashes -r requirements.lock \
       ${POSTGRES:+-r requirements-postgres.lock}
COPY pyproject.toml README.md LICENSE config.example.toml ./
COPY relay ./relay
# The package contains links to unit, alerts and dashboard.
COPY deploy ./deploy
# The bytecode is not compared with its source, because the root file system is read-only. This halves the start time.
RUN pip wheel --wheel-dir /wheels --no-build-isolation --no-deps . \
    && pip --python /opt/event-relay/bin/python install --no-compile --no-index --find-links /wheels \
       "event-relay${POSTGRES:+[postgres]}" \
    && python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash /opt/event-relay

FROM ${PYTHON} AS root
# The relay calls no package manager. The slim images of Python contain no bytecode of the standard library.
# useradd would write the day of the build.
RUN find /usr \( -path '*-packages/pip*' -o -path '*/bin/pip*' -o -name '*.whl' -o -name ensurepip -o -name idlelib \) \
      -prune -exec rm -rf {} + \
    && echo 'event-relay:x:65532:' >> /etc/group && echo 'event-relay:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd \
    && install -d -o 65532 -g 65532 -m 0700 /data \
    && python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash -x '/(test|tests|pydoc_data|site-packages|dist-packages)/' \
       "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=build /opt/event-relay /opt/event-relay
# Defaults, which a configuration file overrides. Every command reads them, also `docker exec ... relay status`.
RUN mkdir /etc/event-relay && printf '%s\n' '[http]' 'listen = "0.0.0.0:8080"' '[udp]' 'listen = "0.0.0.0:8125"' \
      '[outbox]' 'path = "/data/outbox.db"' > /etc/event-relay/image-defaults.toml

# One layer, so that no layer contains a deleted file.
FROM scratch
COPY --from=root / /
ENV PATH=/opt/event-relay/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    RELAY_DEFAULTS_FILE=/etc/event-relay/image-defaults.toml
# The commit: --build-arg REVISION=$(git rev-parse HEAD)
ARG REVISION=
LABEL org.opencontainers.image.title="event-relay" \
      org.opencontainers.image.description="Store-and-forward sidecar for analytics events" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
VOLUME /data
EXPOSE 8080 8125/udp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["relay", "healthcheck"]
ENTRYPOINT ["relay"]
CMD ["run"]
