# The image of every node: `docker build -t REGISTRY/rushes:0.1.0 .`; with GPUs `--build-arg GPU=1`.
# Weights of the bundled profile are inside; others are brought by `rushes models warm` to the volume at /data.
FROM python:3.11-slim-bookworm

# libgomp for ctranslate2 and torch on slim images, wget for KubeRay's probes.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 make wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home rushes \
    && install -d -o rushes -g rushes /opt/rushes /data /store /tmp/ray

WORKDIR /opt/rushes
USER rushes

# The environment changes less often than the code.
COPY --chown=rushes:rushes requirements.lock pyproject.toml README.md Makefile ./
COPY --chown=rushes:rushes cluster cluster
COPY --chown=rushes:rushes actors actors
COPY --chown=rushes:rushes jobs jobs
COPY --chown=rushes:rushes serve serve
ARG GPU=
# From the lock, hash by hash; `make install` compiles the bytecode.
RUN export UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1 \
    && make install \
    && if [ -n "$GPU" ]; then .venv/bin/uv pip install --quiet --python .venv/bin/python \
         --constraint requirements.lock -e '.[gpu]'; fi

ENV PATH=/opt/rushes/.venv/bin:$PATH \
    HOME=/home/rushes \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_worker_niceness=0 \
    RUSHES_DATA_DIR=/data/rushes \
    HF_HOME=/data/huggingface

VOLUME /data
CMD ["rushes", "--help"]
