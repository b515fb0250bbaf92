# CPU only. Build it with
#   docker build --build-arg SMALLHOLD_TORCH_INDEX=<an index of PyTorch's CPU wheels> --tag smallhold .
# The image holds neither weights nor documents: both lie in volumes. docs/operations.md has the commands.

# By tag, so that security fixes of the base arrive with the next build. Pin a digest where builds must be repeatable.
FROM python:3.11-slim-bookworm AS base

FROM base AS build
# Versions are left to Debian: a point release removes the old ones from its archive.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ make ninja-build \
    && rm -rf /var/lib/apt/lists/*

# portable runs on every x86-64 CPU since 2013. native is quicker, and runs only on CPUs like the builder's.
ARG LLAMA_BUILD=portable
ARG SMALLHOLD_TORCH_INDEX=""
WORKDIR /build

# The long part first, from what seldom changes. The cache keeps pip's downloads and the compiled wheel between builds.
COPY Makefile requirements.lock ./
COPY scripts/ scripts/
RUN --mount=type=cache,target=/root/.cache \
    make dependencies VENV=/opt/smallhold LLAMA_BUILD="$LLAMA_BUILD" TORCH=cpu

COPY LICENSE README.md pyproject.toml ./
COPY configs/ configs/
COPY eval/ eval/
COPY indexer/ indexer/
COPY rag/ rag/
RUN --mount=type=cache,target=/root/.cache \
    make package VENV=/opt/smallhold LLAMA_BUILD="$LLAMA_BUILD" TORCH=cpu COPY=yes


FROM base
LABEL org.opencontainers.image.title="smallhold" \
      org.opencontainers.image.description="Answers from your documents with a small local model, with citations" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# OpenMP, which llama.cpp is linked to; the other libraries bring their own.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 smallhold \
    && useradd --system --uid 10001 --gid smallhold --no-create-home --home-dir /var/lib/smallhold smallhold \
    && install --directory --owner=smallhold --group=smallhold /var/lib/smallhold /var/cache/smallhold

COPY --from=build /opt/smallhold /opt/smallhold

# Weights in the one volume, the index in the other: nothing else is written, so the image runs with --read-only.
ENV PATH=/opt/smallhold/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SMALLHOLD_CACHE=/var/cache/smallhold \
    SMALLHOLD_INDEX__DIR=/var/lib/smallhold/index \
    SMALLHOLD_SERVER__KEYS=/var/lib/smallhold/keys.json \
    TMPDIR=/var/cache/smallhold
VOLUME ["/var/cache/smallhold", "/var/lib/smallhold"]
WORKDIR /var/lib/smallhold
USER 10001:10001
EXPOSE 8080

# Ready once model and index are loaded. Past any proxy that the environment names.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-c", \
    "from urllib.request import *; build_opener(ProxyHandler({})).open('http://127.0.0.1:8080/ready', timeout=4)"]

# All addresses of the container, so that an API key is needed; `docker run --publish` decides what reaches it.
ENTRYPOINT ["smallhold"]
CMD ["serve", "--host", "0.0.0.0"]
