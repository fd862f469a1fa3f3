# One image for everything: `docker run tidemill ask ...`, `... worker`, `... db upgrade`. See docker-compose.yml.
# What is not shared is in /data: `docker run -v tidemill:/data tidemill ask ...` keeps it for the next run.
FROM python:3.13-slim-trixie AS base

FROM base AS build
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1
WORKDIR /build
COPY requirements.lock requirements-image.lock ./
# uv itself comes from the lock of a checkout, all else from that of the image, which has every extra of a server.
# --no-build: wheels only, so no compiler is needed.
RUN sed -n '/^uv==/,/[^\\]$/p' requirements.lock > uv.txt \
    && pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore --require-hashes -r uv.txt
RUN uv venv --python /usr/local/bin/python /opt/tidemill \
    && uv pip install --python /opt/tidemill/bin/python --no-build --require-hashes -r requirements-image.lock
COPY . .
RUN uv pip install --python /opt/tidemill/bin/python --no-deps --build-constraints requirements.lock .

FROM base
# TLS trusts the system's certificates: without them every call would fail, so the build does.
RUN test -s /etc/ssl/certs/ca-certificates.crt \
    && useradd --uid 1000 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin tidemill \
    && install -d -o tidemill -g tidemill /data \
    && install -d -m 1777 /blobs
COPY --from=build /opt/tidemill /opt/tidemill
ENV PATH=/opt/tidemill/bin:$PATH HOME=/data TIDEMILL_HOME=/data PYTHONUNBUFFERED=1
VOLUME /data
USER 1000:1000
WORKDIR /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidemill"]
CMD ["worker"]
