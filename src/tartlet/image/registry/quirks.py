"""Where single registries differ from what the standard lets one expect."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

_DOCKER_HUB = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}

_MB = 1_000_000


def http_host(host: str) -> str:
    """The host that answers for a registry's name: Docker Hub is known by another one."""
    return _DOCKER_HUB.get(host, host)


def chunk_size(host: str, asked: int) -> int:
    """The bytes of one request of a chunked upload that a registry takes; 0 for the whole blob in one request.

    GitHub takes less than 4 MB, Google no chunks at all, Amazon at least 5 MiB except for the last one.
    """
    name = host.partition(":")[0].lower()
    size = asked
    if name == "ghcr.io":
        size = min(asked, 4 * _MB - 1)
    elif name == "gcr.io" or name.endswith((".gcr.io", ".pkg.dev")):
        size = 0
    elif ".dkr.ecr." in name and asked > 0:
        size = max(asked, 5 * 1024 * 1024 + 1)
    if size != asked:
        log.info("%s does not take chunks of %d bytes; using %s", host, asked, size or "one request for each blob")
    return size
