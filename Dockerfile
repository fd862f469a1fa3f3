# One image for everything: `docker run tidemill ask ...`, `... worker`, `... db upgrade`. See docker-compose.yml.
FROM python:3.13-slim-trixie AS base

FROM base AS build
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1
WORKDIR /build
COPY pyproject.toml requirements.lock ./
# requirements.lock also holds what tests need, so it is a constraint here: uv takes versions and hashes from it, where
# pip would refuse to. uv itself is taken from the lock first. --no-build: wheels only, so no compiler is needed.
RUN sed -n '/^uv==/,/[^\\]$/p' requirements.lock > uv.txt \
    && pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore --require-hashes -r uv.txt
RUN uv venv --python /usr/local/bin/python /opt/tidemill \
    && uv pip install --python /opt/tidemill/bin/python --no-build -c requirements.lock -r pyproject.toml --extra parquet --extra heif
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
USER 1000:1000
WORKDIR /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidemill"]
CMD ["worker"]
