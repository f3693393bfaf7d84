# shellcheck shell=bash
# shellcheck disable=SC2154    # install.sh sets venv, work and log
# Functions of install.sh that build Horovod from source, patched, and cache the wheel.

patches=iface.names    # local version of the patched Horovod, 0.28.1+iface.names (see patch_horovod)

# Prints the kind and version of the MPI that Horovod will be linked with, for example openmpi-4.1.4.
mpi_version() {
    local output
    command -v mpicxx >/dev/null || { echo nompi; return; }
    output=$(mpicxx --showme:version 2>/dev/null || mpicxx -v 2>&1 || true)
    case $output in
        *'Open MPI '*) output=${output#*Open MPI }; echo "openmpi-${output%% *}" ;;
        *'MPICH version '*) output=${output#*MPICH version }; echo "mpich-${output%%[!0-9.]*}" ;;
        *) echo "mpi-$(echo "$output" | cksum | cut -d ' ' -f 1)" ;;
    esac
}

# gpu_operations MXNET: prints the library that Horovod uses on GPUs; NCCL for CUDA 11, whose packages include it.
gpu_operations() {
    case $1 in
        mxnet-cu112==*) echo "${HOROVOD_GPU_OPERATIONS-NCCL}" ;;
        *) echo "${HOROVOD_GPU_OPERATIONS-}" ;;
    esac
}

# wheel_key MXNET HOROVOD MPI: prints a folder name made of everything that the compiled wheel depends on.
wheel_key() {
    local mxnet=$1 horovod=$2 mpi=$3 gpu
    gpu=$(gpu_operations "$mxnet")
    "$venv/bin/python" -c '
import platform, sys
print("cp%d%d" % sys.version_info[:2], *sys.argv[1:], platform.machine(), "-".join(platform.libc_ver()), sep="_")
' "${mxnet/==/-}" "${horovod/==/-}+$patches" "$mpi" ${gpu:+"$gpu"}
}

# NVIDIA's package contains libnccl.so.2 without the name that linkers look for. At run time MXNet loads it.
find_nccl() {
    local nccl=("$venv"/lib/python3.*/site-packages/nvidia/nccl)
    [ -d "${nccl[0]}" ] || return 0
    mkdir "$work/nccl"
    ln -s "${nccl[0]}/lib/libnccl.so.2" "$work/nccl/libnccl.so"
    export HOROVOD_NCCL_INCLUDE=${nccl[0]}/include HOROVOD_NCCL_LIB=$work/nccl HOROVOD_NCCL_LINK=SHARED
}

# Fixes two bugs of Horovod 0.28.1. First, the Gloo context of a process set, and so of every run, listens on the
# address that the host name resolves to instead of on horovodrun's interface: a segmentation fault if the name does not
# resolve, and no connection from other hosts if it is 127.0.1.1, as on Debian. Second, a broadcast and its name are
# freed as soon as it has finished, while the calling thread may still log the name: an occasional segmentation fault.
# Copy the name instead.
patch_horovod() {
    local gloo=$1/horovod/common/gloo/gloo_context.cc mxnet=$1/horovod/mxnet/mpi_ops.cc
    local line='  gloo_iface_ = global_context.gloo_iface_;' name='ops_param->op_names\[0\]'
    sed -i "/::InitializeForProcessSet(/,/^}/ s/^  attr device_attr;/$line\n&/" "$gloo"
    sed -i "s/$name/std::string(&)/" "$mxnet"
    grep -qxF "$line" "$gloo" && [ "$(grep -c "std::string($name)" "$mxnet")" = 4 ]
}

# check_compilers MXNET
check_compilers() {
    command -v "${CXX:-g++}" >/dev/null ||
        die "Horovod needs a C++ compiler, but ${CXX:-g++} is not installed: apt-get install g++"
    command -v make >/dev/null || die "Horovod needs make, which is not installed: apt-get install make"
    [[ $1 != *-cu* ]] || command -v nvcc >/dev/null ||
        die "Horovod for $1 needs nvcc: install the CUDA toolkit, or omit the horovod extra (see $0)"
    [[ $venv != *[[:space:]]* ]] || die "Horovod cannot be built in '$venv': set VENV to a path without spaces"
}

# build_horovod HOROVOD MPI GPU: builds the wheel in $work.
build_horovod() {
    local horovod=$1 mpi=$2 gpu=$3 source=$work/${1/==/-} jobs free_gib
    jobs=$(nproc)
    free_gib=$(awk '/MemAvailable/ { print int($2 / 2^20) + 1 }' /proc/meminfo)
    [ "$jobs" -le "$free_gib" ] || jobs=$free_gib

    # cmake 4 rejects Gloo's CMakeLists.txt.
    step "downloading cmake" "$venv/bin/pip" install --target "$work/cmake" 'cmake<4'
    step "downloading Horovod" "$venv/bin/pip" download --no-deps --no-binary :all: --no-build-isolation \
        --dest "$work" "$horovod"
    tar -xzf "$source.tar.gz" -C "$work"
    patch_horovod "$source" || die "the patches for Horovod do not match the source of $horovod"
    sed -i 's/"-O2" "-O3"/"-O2 -g" "-O3"/' "$source/CMakeLists.txt"    # no debug symbols: a third less time
    [ "$gpu" != NCCL ] || find_nccl
    progress='^\[' step "compiling Horovod" env \
        MAKEFLAGS="-j${JOBS:-$jobs}" \
        HOROVOD_CMAKE="$work/cmake/cmake/data/bin/cmake" \
        HOROVOD_LOCAL_VERSION=$patches \
        HOROVOD_WITH_MXNET=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITH_GLOO=1 \
        "HOROVOD_WITH$([ "$mpi" != nompi ] || echo OUT)_MPI=1" ${gpu:+"HOROVOD_GPU_OPERATIONS=$gpu"} \
        "$venv/bin/pip" wheel -v --no-cache-dir --no-deps --no-build-isolation --wheel-dir "$work" "$source"
}

# Installs a wheel of Horovod and loads its library.
try_wheel() {
    "$venv/bin/pip" install --force-reinstall --no-deps "$1" &&
        "$venv/bin/python" -c 'import dist_ft, horovod.mxnet as hvd; assert hvd.gloo_built()'
} >>"$log" 2>&1

# install_horovod CACHE HOROVOD MPI GPU: installs a wheel from the folder CACHE, or builds one and stores it there.
install_horovod() {
    local cache=$1 horovod=$2 mpi=$3 gpu=$4 wheel
    for wheel in "$cache"/*.whl; do
        [ ! -e "$wheel" ] || ! try_wheel "$wheel" || { echo "Horovod installed from $wheel"; return; }
    done
    build_horovod "$horovod" "$mpi" "$gpu"
    wheel=$(echo "$work"/horovod-*.whl)
    try_wheel "$wheel" || die "Horovod was built but cannot be imported: see the end of $log"
    if { mkdir -p "$cache" && cp "$wheel" "$cache/.$$" && mv "$cache/.$$" "$cache/${wheel##*/}"; } 2>/dev/null; then
        echo "Horovod's wheel is cached as $cache/${wheel##*/}"
    else
        echo "Horovod's wheel could not be cached in $cache"
    fi
}
