# An image for training: dist_ft, MXNet and Horovod (MPI and Gloo) on Debian, without a compiler and without root.
#
#   docker build -t dist_ft .                                  # CPU
#   docker build -t dist_ft:cu112 --build-arg MXNET=cu112 .    # with CUDA 11.8 and NCCL, for drivers from 450.80 on
#
#   docker run --rm dist_ft                                    # prints the settings of dist_ft.train
#   docker run --rm -v "$PWD:/work" --shm-size 1g dist_ft python -m dist_ft.train --data food5
#   docker run --rm -v "$PWD:/work" --shm-size 1g --gpus all dist_ft:cu112 /dist_ft/launch/local.sh --data food5
#
# Commands start in /work, where data, runs and weights are mounted. It belongs to user 1000; for another user, add
# --user "$(id -u):$(id -g)" -e HOME=/work. NCCL and MPI need more shared memory than Docker's 64 MB: --shm-size or
# --ipc host. For several hosts, run /dist_ft/launch/sshd.sh with --network host on all but the first one; for
# Kubernetes use launch/mpijob.yaml. Build it with BuildKit, the default since Docker 23.0, which skips the stages of
# the other variants.

# cpu, cu112, or cu100 for a single GPU whose driver is too old for cu112.
ARG MXNET=cpu

# CUDA 10.0, cuDNN 7 and NCCL for cu100. NVIDIA has deleted its images of CUDA 10: name a registry that still has it.
ARG CUDA_10_0=nvidia/cuda:10.0-cudnn7-runtime-ubuntu18.04

# ---- base images ----------------------------------------------------------------------------------------------------

FROM python:3.11-slim-bookworm AS base-cpu

# NVIDIA's Python packages contain CUDA; the host provides the driver, on Google Kubernetes Engine in this folder.
FROM base-cpu AS base-cu112
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64

FROM ${CUDA_10_0} AS cuda-10.0

FROM base-cpu AS base-cu100
COPY --from=cuda-10.0 /usr/local/cuda-10.0/lib64/ /usr/local/cuda-10.0/lib64/
COPY --from=cuda-10.0 /usr/lib/x86_64-linux-gnu/libcudnn.so.7 /usr/lib/x86_64-linux-gnu/libnccl.so.2 \
    /usr/local/cuda-10.0/lib64/
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/usr/local/cuda-10.0/lib64:/usr/local/nvidia/lib64

# ---- compilers, and the extras to install ---------------------------------------------------------------------------

FROM base-cpu AS compiler-cpu
ARG DEBIAN_FRONTEND=noninteractive
ENV EXTRAS="cpu horovod board"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libopenmpi-dev make openmpi-bin \
    && rm -rf /var/lib/apt/lists/*

# Debian's nvcc is from CUDA 11.8, which supports GCC up to version 11. The package includes the driver's library, which
# MXNet for CUDA needs at import, also without a GPU.
FROM base-cu112 AS compiler-cu112
ARG DEBIAN_FRONTEND=noninteractive
ENV EXTRAS="cu112 horovod board" CC=gcc-11 CXX=g++-11 OMPI_CC=gcc-11 OMPI_CXX=g++-11
RUN sed -i 's/^Components: main$/& contrib non-free/' /etc/apt/sources.list.d/debian.sources \
    && apt-get update \
    && apt-get install --yes --no-install-recommends g++-11 libopenmpi-dev make nvidia-cuda-toolkit openmpi-bin \
    && rm -rf /var/lib/apt/lists/*

# CUDA 10.0 needs an older compiler than Debian has, so this variant has no Horovod.
FROM base-cu100 AS compiler-cu100
ENV EXTRAS="cu100 board"

# ---- environment ----------------------------------------------------------------------------------------------------

# Only files that affect the environment are copied, so that other changes do not rebuild it. The cache mount keeps
# Horovod's wheel and pip's downloads.
FROM compiler-${MXNET} AS build
WORKDIR /dist_ft
COPY README.md pyproject.toml setup.py ./
COPY launch/install.sh launch/build_horovod.sh launch/
COPY dist_ft/__init__.py dist_ft/compat.py dist_ft/
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache launch/install.sh $EXTRAS

# ---- final image ----------------------------------------------------------------------------------------------------

FROM base-${MXNET}
ARG DEBIAN_FRONTEND=noninteractive

LABEL org.opencontainers.image.title="dist_ft" \
      org.opencontainers.image.description="Fine-tunes an image classifier with MXNet Gluon and Horovod" \
      org.opencontainers.image.licenses="Apache-2.0"

# MXNet needs libgomp1 and libquadmath0; launch/mpijob.yaml uses pkill from procps. Host keys are removed, since all
# containers would share them: launch/sshd.sh creates a key at each start.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        libgomp1 libquadmath0 openmpi-bin openssh-client openssh-server procps tini \
    && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
    && useradd --uid 1000 --create-home --shell /bin/bash mpiuser \
    && install --directory --owner=mpiuser --group=mpiuser /work

WORKDIR /dist_ft
COPY --from=build /dist_ft/.venv .venv
COPY LICENSE setup.py ./
COPY launch launch
COPY food5 food5
COPY dist_ft dist_ft
RUN .venv/bin/python -m compileall -q dist_ft

ENV PATH=/dist_ft/.venv/bin:$PATH PYTHONUNBUFFERED=1
USER 1000
WORKDIR /work
EXPOSE 2222

# Takes a few seconds on one core.
HEALTHCHECK --interval=5m --timeout=1m --start-period=1m CMD ["python", "-m", "dist_ft.doctor"]

# As process 1, tini forwards signals and reaps orphaned ranks.
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "dist_ft.train", "--help"]
