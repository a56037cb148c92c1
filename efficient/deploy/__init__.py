"""Deploy: compressed networks as files that other programs read."""

from efficient.deploy.network_file import read_network, write_network

__all__ = ["read_network", "write_network"]
