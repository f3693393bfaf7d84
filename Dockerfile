# An image that trains: dist_ft, MXNet and Horovod (MPI and Gloo) on Debian, without a compiler and without root.
#
#   docker build -t dist_ft .                                  # for the CPU
#   docker build -t dist_ft:cu112 --build-arg MXNET=cu112 .    # CUDA 11.8 and NCCL within; a driver from 450.80 on
#
#   docker run --rm dist_ft                                    # all settings of dist_ft.train
#   docker run --rm -v "$PWD:/work" --shm-size 1g dist_ft python -m dist_ft.train --data food5
#   docker run --rm -v "$PWD:/work" --shm-size 1g --gpus all dist_ft:cu112 /dist_ft/launch/local.sh --data food5
#
# Data, runs and weights are the host's: /work is the folder that commands start in. It belongs to user 1000; for
# another one, --user "$(id -u):$(id -g)" -e HOME=/work. NCCL and MPI want more shared memory than Docker's 64 MB:
# --shm-size, or --ipc host. Of several hosts all but the first run /dist_ft/launch/sshd.sh, on --network host;
# launch/mpijob.yaml has that for Kubernetes. It takes BuildKit, Docker's own since 23.0, to build: it leaves out the
# stages that a variant does not need.

# cpu, cu112, or cu100 for one GPU whose driver is too old for cu112.
ARG MXNET=cpu

# CUDA 10.0, cuDNN 7 and NCCL for cu100. NVIDIA has deleted its images of CUDA 10: name a registry that kept this one.
ARG CUDA_10_0=nvidia/cuda:10.0-cudnn7-runtime-ubuntu18.04

# ---- what each variant stands on ------------------------------------------------------------------------------------

FROM python:3.11-slim-bookworm AS base-cpu

# CUDA comes with NVIDIA's Python packages; only the driver is the host's. Google's Kubernetes puts it into that folder.
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

# ---- what each variant is compiled with, and the extras that launch/install.sh is to take ---------------------------

FROM base-cpu AS compiler-cpu
ARG DEBIAN_FRONTEND=noninteractive
ENV EXTRAS="cpu horovod board"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libopenmpi-dev make openmpi-bin \
    && rm -rf /var/lib/apt/lists/*

# Debian's nvcc is that of CUDA 11.8, which takes compilers up to 11. It brings the driver's library, without which
# MXNet for CUDA cannot be imported where no GPU is.
FROM base-cu112 AS compiler-cu112
ARG DEBIAN_FRONTEND=noninteractive
ENV EXTRAS="cu112 horovod board" CC=gcc-11 CXX=g++-11 OMPI_CC=gcc-11 OMPI_CXX=g++-11
RUN sed -i 's/^Components: main$/& contrib non-free/' /etc/apt/sources.list.d/debian.sources \
    && apt-get update \
    && apt-get install --yes --no-install-recommends g++-11 libopenmpi-dev make nvidia-cuda-toolkit openmpi-bin \
    && rm -rf /var/lib/apt/lists/*

# No compiler of today's Debian is old enough for CUDA 10.0, so there is no Horovod.
FROM base-cu100 AS compiler-cu100
ENV EXTRAS="cu100 board"

# ---- /dist_ft/.venv -------------------------------------------------------------------------------------------------

# Horovod's wheel and what pip fetched stay in the builder's cache, and a change of ours elsewhere than here compiles
# nothing anew.
FROM compiler-${MXNET} AS build
WORKDIR /dist_ft
COPY setup.py ./
COPY launch/install.sh launch/
COPY dist_ft/__init__.py dist_ft/compat.py dist_ft/
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache launch/install.sh $EXTRAS

# ---- the image ------------------------------------------------------------------------------------------------------

FROM base-${MXNET}
ARG DEBIAN_FRONTEND=noninteractive

LABEL org.opencontainers.image.title="dist_ft" \
      org.opencontainers.image.description="Fine-tunes an image classifier with MXNet Gluon and Horovod" \
      org.opencontainers.image.licenses="Apache-2.0"

# libgomp1 and libquadmath0 are MXNet's, procps has the pkill of launch/mpijob.yaml. A host's key is made when it
# starts: one in the image would be everybody's.
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

# A few seconds of one core.
HEALTHCHECK --interval=5m --timeout=1m --start-period=1m CMD ["python", "-m", "dist_ft.doctor"]

# As process 1, tini hands signals on and buries orphaned ranks.
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "dist_ft.train", "--help"]
