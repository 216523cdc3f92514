# The canonical image: the four packages composed, serving server.app:app on $PORT (7860) as uid 1000.
# `docker build -t llmserve-env . && docker run --rm -p 7860:7860 llmserve-env`; server/Dockerfile is its mirror.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv
# First what comes from elsewhere: a change of the source alone leaves this layer as it is.
COPY packages/llmserve-sim/pyproject.toml /src/packages/llmserve-sim/
COPY packages/llmserve-client/pyproject.toml /src/packages/llmserve-client/
COPY packages/llmserve-agents/pyproject.toml /src/packages/llmserve-agents/
COPY packages/llmserve-server/pyproject.toml /src/packages/llmserve-server/
COPY scripts/requirements.py /src/scripts/
# The test suites that two dependencies ship inside their packages are 60 MB that nothing imports.
RUN python /src/scripts/requirements.py "llmserve-server[postgres]" > /src/requirements \
    && pip --python /opt/venv/bin/python install --requirement /src/requirements \
    && rm -rf /opt/venv/lib/python3.11/site-packages/pandas/tests /opt/venv/lib/python3.11/site-packages/numba/tests
COPY packages /src/packages
RUN pip --python /opt/venv/bin/python install --no-deps /src/packages/llmserve-* \
    && pip --python /opt/venv/bin/python check
# The kernel, compiled for any processor of this architecture: the first step of a fresh container takes no compiler.
ENV NUMBA_CACHE_DIR=/opt/kernel-cache NUMBA_CPU_NAME=generic
COPY scripts/precompile.py /src/scripts/
RUN /opt/venv/bin/python /src/scripts/precompile.py && /opt/venv/bin/python /src/scripts/precompile.py --check

FROM python:3.11-slim
RUN useradd --uid 1000 --create-home llmserve
COPY --from=build /opt/venv /opt/venv
COPY --from=build --chown=1000:1000 /opt/kernel-cache /opt/kernel-cache
WORKDIR /app
COPY README.md openenv.yaml ./
COPY server server
COPY weights weights
COPY scripts/entrypoint.sh /usr/local/bin/entrypoint
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PORT=7860 \
    NUMBA_CACHE_DIR=/opt/kernel-cache \
    NUMBA_CPU_NAME=generic \
    GRADIO_ANALYTICS_ENABLED=False
USER 1000
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health', timeout=4)"]
ENTRYPOINT ["entrypoint"]
CMD ["python", "-m", "server.app"]
