"""Names of images in registries: `host[:port]/namespace[:tag]` or `host[:port]/namespace@sha256:hex`.

The grammar is one pass over the text without a regular expression: it knows the position of what it does not
understand, and importing it costs next to nothing, because every command asks whether a word is local or remote.
"""

from __future__ import annotations

from tartlet.errors import UserError

_PORT_COLON = "%3A"
"""How the colon before a port stands in the cache's folder names."""

_ALGORITHM = "sha256"
_HEX = frozenset("0123456789abcdef")


_FORM = "write it as HOST[:PORT]/NAMESPACE[:TAG] or HOST[:PORT]/NAMESPACE@sha256:DIGEST"


class BadImageName(UserError):
    """A text that is no image name."""

    def __init__(self, text: str, position: int, expected: str) -> None:
        found = f"{text[position - 1]!r}" if position <= len(text) else "the end"
        super().__init__(
            f"{text!r} is not an image name: {expected} expected at position {position}, found {found}",
            "leave out the scheme" if "://" in text else _FORM,
        )
        self.text = text
        self.position = position
        """Where the text stops making sense; the first character is 1, the end is one past the last."""


class ImageName:
    """An image in a registry, by tag or by digest. A value: equal, ordered and hashed by its parts.

    Ordered by host, then namespace, then tags before digests, then their text.
    """

    __slots__ = ("digest", "host", "namespace", "tag")

    host: str
    """As typed, with the port: `127.0.0.1:5000`."""

    namespace: str
    """The repository inside the registry: `org/image`."""

    tag: str | None
    digest: str | None
    """`sha256:` and 64 lower-case hex digits. Exactly one of tag and digest is set."""

    def __init__(self, host: str, namespace: str, *, tag: str | None = None, digest: str | None = None) -> None:
        if (tag is None) == (digest is None):
            raise ValueError("an image name has either a tag or a digest")
        for field, value in (("host", host), ("namespace", namespace), ("tag", tag), ("digest", digest)):
            object.__setattr__(self, field, value)

    def __setattr__(self, field: str, value: object) -> None:
        raise AttributeError(f"an image name cannot be changed: {field}")

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """The image that `text` names; without tag and digest the tag is `latest`. Raises BadImageName."""
        return parse(text)

    @property
    def reference(self) -> str:
        """What names the manifest inside the repository: the tag or the digest."""
        return self.tag if self.tag is not None else str(self.digest)

    @property
    def repository(self) -> str:
        """The name without tag or digest."""
        return f"{self.host}/{self.namespace}"

    @property
    def cache_folder(self) -> str:
        """The repository's folder below the image cache, relative: `127.0.0.1%3A5000/org/image`."""
        return f"{host_folder(self.host)}/{self.namespace}"

    @property
    def cache_path(self) -> str:
        """The folder (by digest) or link (by tag) of this image below the image cache, relative."""
        return f"{self.cache_folder}/{self.reference}"

    def at_digest(self, digest: str) -> ImageName:
        """The same repository's image with this digest."""
        return ImageName(self.host, self.namespace, digest=digest)

    def __str__(self) -> str:
        mark = ":" if self.tag is not None else "@"
        return f"{self.host}/{self.namespace}{mark}{self.reference}"

    def __repr__(self) -> str:
        return f"ImageName({str(self)!r})"

    def _key(self) -> tuple[str, str, bool, str]:
        return (self.host, self.namespace, self.digest is not None, self.reference)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, ImageName) else NotImplemented

    def __lt__(self, other: ImageName) -> bool:
        return self._key() < other._key()

    def __le__(self, other: ImageName) -> bool:
        return self._key() <= other._key()

    def __gt__(self, other: ImageName) -> bool:
        return self._key() > other._key()

    def __ge__(self, other: ImageName) -> bool:
        return self._key() >= other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def parse(text: str) -> ImageName:
    """The image that `text` names; without tag and digest the tag is `latest`. Raises BadImageName.

    Stricter than the original in two points: a digest has 64 lower-case hex digits and a port is at most 65535.
    """
    name = _scan(text)
    _, colon, port = name.host.partition(":")
    if colon and int(port) > 65535:
        raise BadImageName(text, name.host.index(":") + 2, "a port up to 65535")
    if name.digest is not None:
        digits_at = len(text) - len(name.digest) + len(_ALGORITHM) + 1
        _check_hex(text, digits_at)
    return name


def looks_remote(text: str) -> bool:
    """Whether `text` is meant as an image name and not as the name of a local VM.

    True also for the few names that have the form of one but that `parse` then refuses with a better message.
    """
    if "/" not in text:
        return False
    try:
        _scan(text)
    except BadImageName:
        return False
    return True


def is_digest(text: str) -> bool:
    """Whether `text` is `sha256:` and 64 lower-case hex digits, and so is safe to use as a file name."""
    algorithm, _, digits = text.partition(":")
    return algorithm == _ALGORITHM and len(digits) == 64 and _HEX.issuperset(digits)


def host_folder(host: str) -> str:
    """A registry's folder below the image cache."""
    return host.replace(":", _PORT_COLON)


def from_cache(folder: str, entry: str, *, is_link: bool) -> ImageName:
    """The name of what lies below the image cache: `folder` relative to it, `entry` a tag's link or a digest's folder.

    Raises BadImageName when it is not the place of an image.
    """
    return parse(f"{folder}{':' if is_link else '@'}{entry}".replace(_PORT_COLON, ":"))


def _scan(text: str) -> ImageName:
    end = _words(text, 0, ".-", "a host name")
    _check_labels(text, end)
    if text[end : end + 1] == ":":
        end = _digits(text, end + 1)
    _expect(text, end, "/", "'/'")
    host, start = text[:end], end + 1
    while True:
        end = _words(text, end + 1, "._-", "a namespace", may_end_with_separator=True)
        if text[end : end + 1] != "/":
            break
    namespace = text[start:end]
    if end == len(text):
        return ImageName(host, namespace, tag="latest")
    if text[end] == ":":
        return ImageName(host, namespace, tag=_to_the_end(text, end + 1, "._-", "a tag"))
    _expect(text, end, "@", "'/', ':', '@' or the end")
    return ImageName(host, namespace, digest=_digest(text, end + 1))


def _digest(text: str, start: int) -> str:
    digits_at = start + len(_ALGORITHM) + 1
    if not text.startswith(f"{_ALGORITHM}:", start):
        raise BadImageName(text, start + 1, f"'{_ALGORITHM}:'")
    _to_the_end(text, digits_at, "", "a digest")
    return text[start:]


def _check_hex(text: str, start: int) -> None:
    for position in range(start, start + 64):
        if text[position : position + 1] not in _HEX:
            raise BadImageName(text, position + 1, "a digest of 64 lower-case hex digits")
    if len(text) > start + 64:
        raise BadImageName(text, start + 65, "the end after 64 hex digits")


def _check_labels(text: str, end: int) -> None:
    """A host's separators stand between letters and digits; `_words` has seen to all but nothing else is left."""
    if end < len(text) and text[end] not in ":/":
        raise BadImageName(text, end + 1, "'.', ':' or '/'")


def _words(text: str, at: int, separators: str, what: str, *, may_end_with_separator: bool = False) -> int:
    """Past the letters and digits from `at` on, which single separators part."""
    while True:
        start = at
        while at < len(text) and text[at].isascii() and text[at].isalnum():
            at += 1
        if at == start:
            raise BadImageName(text, at + 1, f"{what} (letters and digits)")
        if at == len(text) or text[at] not in separators:
            return at
        at += 1
        if may_end_with_separator and (at == len(text) or text[at] in "/:@"):
            return at


def _to_the_end(text: str, start: int, separators: str, what: str) -> str:
    end = _words(text, start, separators, what)
    if end != len(text):
        raise BadImageName(text, end + 1, f"the rest of {what}")
    return text[start:]


def _digits(text: str, at: int) -> int:
    start = at
    while at < len(text) and text[at] in "0123456789":
        at += 1
    if at == start:
        raise BadImageName(text, at + 1, "a port number")
    return at


def _expect(text: str, at: int, character: str, expected: str) -> None:
    if text[at : at + 1] != character:
        raise BadImageName(text, at + 1, expected)
