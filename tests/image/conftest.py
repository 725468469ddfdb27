"""A registry for the tests of this folder."""

from registry_fixtures import before, no_waiting, registry_host, repository

__all__ = ["before", "no_waiting", "registry_host", "repository"]
