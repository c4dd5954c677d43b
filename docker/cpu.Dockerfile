# Plasticine on CPU, with all environments and what an MLflow server on PostgreSQL needs. docs/docker.md
#   docker build -f docker/cpu.Dockerfile -t plasticine .
#   docker run --rm -v "$PWD:/workspace" -u "$(id -u):$(id -g)" plasticine env=classic budget=smoke
# Run folders and mlflow.db appear in the mounted folder.
FROM python:3.11.13-slim-bookworm AS plasticine
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# All Debian packages are those of this day; empty: of today.
ARG DEBIAN_SNAPSHOT=20251101T000000Z
COPY docker/debian_snapshot.sh /opt/plasticine/docker/
RUN sh /opt/plasticine/docker/debian_snapshot.sh "${DEBIAN_SNAPSHOT}"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git libegl1 libgl1 libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/plasticine
# torch first and alone, so that a change of the source does not fetch it again. Its version is in constraints.txt;
# TORCH_INDEX says which build of it: this one has no CUDA libraries. Empty: pip's own.
COPY constraints.txt ./
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY plasticine plasticine
COPY conf conf
COPY launchers launchers
COPY sweeps sweeps
# hadolint ignore=DL3013
RUN pip install --no-cache-dir -c constraints.txt '.[dmc,ale,procgen,craftax,server]'

RUN useradd --create-home --uid 1000 plasticine && install -d -o plasticine -g plasticine /workspace /data
# A home that any user may write, as -u may name one that the image does not know.
ENV MUJOCO_GL=egl HOME=/tmp PYTHONUNBUFFERED=1 MLFLOW_DISABLE_TELEMETRY=true
USER 1000
WORKDIR /workspace
HEALTHCHECK --interval=60s --timeout=30s CMD ["plasticine", "--help"]
ENTRYPOINT ["plasticine-run"]
CMD ["--help"]

# A SLURM of one node in a container, to try things on: docker build --target slurm ...
FROM plasticine AS slurm
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge \
    && rm -rf /var/lib/apt/lists/*
COPY tests/slurm/cluster.py docker/slurm_node.sh /opt/plasticine/docker/
USER 1000
ENV SLURM_CONF=/tmp/slurm/slurm.conf
HEALTHCHECK --interval=10s --timeout=10s --start-period=20s CMD ["timeout", "5", "scontrol", "ping"]
ENTRYPOINT ["bash", "/opt/plasticine/docker/slurm_node.sh"]
CMD ["sleep", "infinity"]

# What `docker build` makes if nothing is said.
FROM plasticine
