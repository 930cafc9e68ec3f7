# The cloud service: CLOUD_JOURNAL (a postgresql:// URL, or a file on the volume for one small node), and TLS files or
# CLOUD_INSECURE=true. Queries and health pages stay on the container's loopback unless CLOUD_HTTP_HOST and
# CLOUD_INSECURE_LOCAL say otherwise. An application of one's own goes to /app, never to the volume.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY requirements/build.txt requirements/cloud.txt requirements/
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/build.txt \
    && python3 -m venv /opt/backhaul \
    && /opt/backhaul/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/cloud.txt
COPY pyproject.toml README.md LICENSE ./
COPY docs/logs.md docs/errors.md docs/
COPY common common
COPY cloud_service cloud_service
# The virtual environment keeps no pip: nothing can be installed into a running node.
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /opt/wheel . \
    && /opt/backhaul/bin/pip install --no-cache-dir --no-deps /opt/wheel/*.whl \
    && /opt/backhaul/bin/pip uninstall --yes --quiet pip

FROM ${BASE}
LABEL org.opencontainers.image.title="backhaul-cloud" \
      org.opencontainers.image.description="Durable event delivery between a gateway and the cloud: the cloud" \
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
    CLOUD_JOURNAL=/var/lib/backhaul/journal.db \
    CLOUD_GRPC_HOST=0.0.0.0
USER 10001:10001
WORKDIR /app
VOLUME /var/lib/backhaul
EXPOSE 7443 7480
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["cloud-service", "healthcheck"]
ENTRYPOINT ["cloud-service"]
CMD ["run"]
