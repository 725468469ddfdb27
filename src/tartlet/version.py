"""The version of this program; development builds say SNAPSHOT, as the original's do."""

__version__ = "0.1.0.dev0"

PRINTED_VERSION = "SNAPSHOT" if ".dev" in __version__ else __version__
"""What `tart --version` prints."""
