# noiseward in a container, for a CPU by default. For CUDA:
#   docker build -t noiseward:cuda --build-arg TORCH=https://download.pytorch.org/whl/cu128 .
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

ARG TORCH=https://download.pytorch.org/whl/cpu
ARG EXTRAS=lora,ray,studio,chat

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    HF_HOME=/app/.cache/huggingface

# KubeRay's probes call wget.
RUN apt-get update && apt-get install -y --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/*

COPY constraints.txt /tmp/
# Alone and first, from the index that is named, so that the rest finds it installed.
RUN pip install -c /tmp/constraints.txt --index-url "${TORCH}" torch

COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install -c /tmp/constraints.txt "/src[${EXTRAS}]" && rm -rf /src /tmp/constraints.txt

RUN useradd --create-home --uid 1000 noiseward && mkdir -p /app/runs && chown -R noiseward /app
USER 1000
WORKDIR /app
ENTRYPOINT ["noiseward"]
CMD ["--help"]
