# syntax=docker/dockerfile:1
# The app (`python -m deploy app`), without TorchServe, Java and torch. Build it from the checkout's root:
#   docker build -f deploy/Dockerfile.app -t hate-app .
#   docker run --read-only --tmpfs /tmp:size=1g -p 127.0.0.1:8080:8080 \
#     -v "$PWD/model_store:/srv/model_store:ro" hate-app --workers 2
# Options of the app follow the image's name. `docker kill -s HUP` reloads the archive; `docker stop -t 310` waits for
# what was accepted. To pin the base image by digest and build reproducibly: see deploy/Dockerfile.
ARG PYTHON=3.11.13-slim-bookworm

FROM python:${PYTHON} AS packages
# Makes the bytecode independent of the files' dates (checked by hash).
ARG SOURCE_DATE_EPOCH=315532800
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv
COPY deploy/requirements/app.txt /build/
RUN pip --python /opt/venv/bin/python install --no-deps --only-binary :all: --require-hashes --requirement /build/app.txt

FROM python:${PYTHON}
# By default, no archive.
ARG ARCHIVE=model_store/.gitkeep
LABEL org.opencontainers.image.title="hate-speech-archive app" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=packages /opt/venv /opt/venv
COPY handler /srv/handler/
COPY common /srv/common/
COPY deploy /srv/deploy/
RUN python -m compileall -q --invalidation-mode checked-hash /srv
COPY ${ARCHIVE} /srv/model_store/
# The root file system may be read-only. Archives are unpacked below /tmp: mount it as tmpfs, which counts as memory.
ENV PYTHONDONTWRITEBYTECODE=1 PATH=/opt/venv/bin:$PATH
USER 10001:10001
WORKDIR /srv
EXPOSE 8080
# /ready: 503 until all models are warm, and while it stops. With --tls-certificate, add "--tls".
HEALTHCHECK --interval=10s --timeout=15s --start-period=300s CMD ["/opt/venv/bin/python", "-m", "deploy.app.probe"]
ENTRYPOINT ["/opt/venv/bin/python", "-m", "deploy", "app", "--host", "0.0.0.0", "--archive", "/srv/model_store/hate.mar"]
