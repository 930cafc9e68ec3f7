# The edge service: one volume, three settings (EDGE_ID, EDGE_CLOUD, and TLS files or EDGE_INSECURE=true).
# The intake listens in plaintext on all of the container's addresses (EDGE_INSECURE_LOCAL): publish it on 127.0.0.1 of the
# gateway. An application of one's own goes to /app, never to the volume.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY requirements/build.txt requirements/edge.txt requirements/
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/build.txt \
    && python3 -m venv /opt/backhaul \
    && /opt/backhaul/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/edge.txt
COPY pyproject.toml README.md LICENSE ./
COPY docs/logs.md docs/errors.md docs/
COPY common common
COPY edge_service edge_service
# The virtual environment keeps no pip: nothing can be installed into a running edge.
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /opt/wheel . \
    && /opt/backhaul/bin/pip install --no-cache-dir --no-deps /opt/wheel/*.whl \
    && /opt/backhaul/bin/pip uninstall --yes --quiet pip

FROM ${BASE}
LABEL org.opencontainers.image.title="backhaul-edge" \
      org.opencontainers.image.description="Durable event delivery between a gateway and the cloud: the edge" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 backhaul \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/backhaul --shell /usr/sbin/nologin backhaul \
    && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/backhaul
# Published images of Python have no compiled standard library, and a container can write none: each health check would
# compile what it imports, two thirds of what it costs.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash \
    -x '/(site-packages|ensurepip|idlelib|lib2to3|pydoc_data|test|tests|tkinter|turtledemo)/' \
    "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=build /opt/backhaul /opt/backhaul
ENV PATH=/opt/backhaul/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    EDGE_JOURNAL=/var/lib/backhaul/journal.db \
    EDGE_HTTP_HOST=0.0.0.0 \
    EDGE_GRPC_HOST=0.0.0.0 \
    EDGE_INSECURE_LOCAL=true
USER 10001:10001
WORKDIR /app
VOLUME /var/lib/backhaul
EXPOSE 7580 7543
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["edge-service", "healthcheck"]
ENTRYPOINT ["edge-service"]
CMD ["run"]
