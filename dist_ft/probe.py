"""What `dist_ft.doctor --hosts` runs on each host over ssh: it answers requests in lines of JSON.

It takes them from its standard input, and ends with that. What is broken on the host is an answer
like any other.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

from dist_ft import __version__, host, link, network

MARK = "dist_ft.probe "  # begins each answer: a login shell may have said things before


def clock() -> dict[str, float]:
    received = time.time()
    return {"received": received, "replied": time.time()}


def facts(data: str, out: str, names: list[str]) -> dict[str, Any]:
    """All that is compared between the hosts; names: what each of them is called."""
    folder = next(path for path in (Path(out), *Path(out).absolute().parents) if path.exists())
    shared = Path("/dev/shm")
    return {
        "versions": dict(_versions()),
        "code": code(Path(__file__).parent),
        "images": _images(data),
        "cores": host.usable_cores(),
        "gpus": _num_gpus(),
        "shared_mb": shutil.disk_usage(shared).free / 1e6 if shared.exists() else 0.0,
        "disk_mb": shutil.disk_usage(folder).free / 1e6 if os.access(folder, os.W_OK) else 0.0,
        "folder": str(folder),
        "interfaces": network.interfaces(),
        "addresses": {name: network.address_of(name) for name in names},
    }


def code(package: Path) -> str:
    """Changes with any module of a package; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    for name, version in (("MXNet", _mxnet), ("numpy", _numpy), ("Horovod", _horovod)):
        try:
            yield name, version()
        except Exception as error:  # whatever an import of a broken installation ends with
            yield name, f"missing ({_told(error)})"
    yield "dist_ft", __version__


def _mxnet() -> str:
    import mxnet

    return mxnet.__version__


def _numpy() -> str:
    import numpy

    return numpy.__version__


def _horovod() -> str:
    from dist_ft import runtime

    built = runtime.horovod_build()
    if built is None:
        raise ImportError("not installed for MXNet")
    return built


def _num_gpus() -> int:
    try:
        import mxnet

        return mxnet.context.num_gpus()
    except Exception:  # as in _versions, which tells it
        return 0


def _images(data: str) -> dict[str, Any]:
    """What the data set is, or the reason why it cannot be read."""
    try:
        from dist_ft import facts
        from dist_ft.data.folder import scan

        folder = scan(data)
        return {**facts.of_images(folder), "classes": len(folder.classes)}
    except Exception as error:  # of the data, or of the imports
        return {"error": _told(error)}


def _told(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def listen(interface: str, token: str) -> dict[str, Any]:
    address = network.interfaces()[interface]
    return {"address": address, "port": link.listen(address, token)}


def measure(address: str, port: int, token: str) -> dict[str, Any]:
    try:
        return link.measure(address, port, token)._asdict()
    except OSError as error:
        return {"error": _told(error)}


REQUESTS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (clock, facts, listen, measure)}


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        answer = REQUESTS[request.pop("ask")](**request)
        print(MARK + json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
