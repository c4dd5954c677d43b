# Plasticine on one NVIDIA GPU: networks on the device, environments on the CPU. docs/docker.md
#   docker build -f docker/gpu.Dockerfile -t plasticine-gpu .
#   docker run --rm --gpus all -v "$PWD:/workspace" -u "$(id -u):$(id -g)" plasticine-gpu compute=gpu env=classic
# CUDA comes with torch, as pip packages; the host has the driver and the NVIDIA container toolkit.
FROM python:3.11.13-slim-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# All Debian packages are those of this day; empty: of today.
ARG DEBIAN_SNAPSHOT=20251101T000000Z
COPY docker/debian_snapshot.sh /opt/plasticine/docker/
RUN sh /opt/plasticine/docker/debian_snapshot.sh "${DEBIAN_SNAPSHOT}"
# A C compiler: torch.compile builds kernels with it (compute.compile=true).
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc git libc6-dev libegl1 libgl1 libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/plasticine
# torch first and alone, so that a change of the source does not fetch it again. Its version is in constraints.txt;
# TORCH_INDEX says which build of it. Empty: pip's own, which has the CUDA libraries.
COPY constraints.txt ./
ARG TORCH_INDEX=
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
# What the NVIDIA container toolkit hands in: the driver, and EGL for rendering.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
USER 1000
WORKDIR /workspace
HEALTHCHECK --interval=60s --timeout=30s CMD ["plasticine", "--help"]
ENTRYPOINT ["plasticine-run"]
CMD ["--help"]
