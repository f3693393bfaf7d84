"""The choice of the network interface; tests/test_hosts.py tests it with several hosts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dist_ft.distributed import network_interfaces
from tests.conftest import ENVIRONMENT


def test_only_own_addresses_are_local():
    assert network_interfaces.is_local("127.0.0.1")
    assert not network_interfaces.is_local("192.0.2.1")  # reserved for documentation
    assert not network_interfaces.is_local("no-such-host.invalid")


def test_no_interface_is_chosen_without_other_hosts_or_an_address():
    assert network_interfaces.interface_to(["127.0.0.1"]) == ""
    assert network_interfaces.interface_to(["no-such-host.invalid"]) == ""


def test_the_interface_with_a_route_to_the_host_is_chosen():
    isolated = ["unshare", "--net", "sh", "-c"]
    setup = (
        "ip link add net0 type bridge && ip address add 10.77.0.1/24 dev net0 label net0:1"
        ' && ip link set net0 up && exec "$@"'
    )
    if subprocess.run([*isolated, setup, "sh", "true"], capture_output=True).returncode:
        pytest.skip("making a network interface needs root and iproute2")
    program = (
        "from dist_ft.distributed import network_interfaces\n"
        "print(network_interfaces.interface_to(['10.77.0.1', '10.77.0.2']))"
    )
    words = [*isolated, setup, "sh", sys.executable, "-c", program]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "net0\n", done.stderr
