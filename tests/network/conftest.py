"""Networks of their own for the tests of this folder."""

from namespaces import inside_private_network, private_network

__all__ = ["inside_private_network", "private_network"]
