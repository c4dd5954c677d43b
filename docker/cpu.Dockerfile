# Plasticine on CPU.
#   docker build -f docker/cpu.Dockerfile -t plasticine .
#   docker run --rm -v "$PWD:/workspace" -u "$(id -u):$(id -g)" plasticine env=classic budget=smoke
# Run folders and mlflow.db appear in the mounted folder.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends git libegl1 libgl1 libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/plasticine
# torch first and alone, so that a change of the source does not fetch it again. PIP_EXTRA may hold options for
# this one step, e.g. where your site keeps CPU builds.
COPY constraints.txt ./
ARG PIP_EXTRA=""
RUN pip install --no-cache-dir ${PIP_EXTRA} "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY plasticine plasticine
COPY conf conf
COPY launchers launchers
COPY sweeps sweeps
RUN pip install --no-cache-dir -c constraints.txt '.[dmc]'

ENV MUJOCO_GL=egl HOME=/tmp
WORKDIR /workspace
ENTRYPOINT ["plasticine-run"]
CMD ["--help"]
