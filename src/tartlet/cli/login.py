"""`tart login`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from tartlet.cli.wiring import App
from tartlet.cli.words import Verb
from tartlet.errors import InvalidArgument, UserError

if TYPE_CHECKING:
    from tartlet.image.credentials.secret import Credentials

KEYRING, DOCKER = "keyring", "docker"
_UNATTENDED = "give --username and --password-stdin to log in without a terminal"
_MOST_BYTES = 32_000
"""Of a password that comes through standard input."""


@click.command("login", cls=Verb)
@click.argument("host", metavar="<host>", help="Registry, with its port if it has one: ghcr.io, 127.0.0.1:5000.")
@click.option("--username", metavar="<username>", help="User name; together with --password-stdin.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--insecure", is_flag=True, help="Ask the registry over HTTP.")
@click.option("--no-validate", is_flag=True, help="Keep the credentials without asking the registry about them.")
@click.option(
    "--store",
    metavar="<store>",
    type=click.Choice([KEYRING, DOCKER]),
    default=KEYRING,
    help="Where to keep them: in the system's keyring, or where Docker keeps its own.",
)
@click.pass_obj
def command(
    app: App,
    host: str,
    *,
    username: str | None,
    password_stdin: bool,
    insecure: bool,
    no_validate: bool,
    store: str,
) -> None:
    """Log in to a registry."""
    if (username is None) == password_stdin:
        raise InvalidArgument("--username and --password-stdin need each other", "give both of them, or none")
    app.collect_garbage()

    import anyio

    from tartlet.image.registry.addresses import api_of
    from tartlet.image.sign_in import CredentialStore, check_store, log_in

    kept = CredentialStore(store)
    api_of(host, insecure=insecure)
    check_store(kept)
    credentials = _credentials(host, username)

    async def work() -> str | None:
        return await log_in(host, credentials, store=kept, validate=not no_validate, insecure=insecure)

    first = anyio.run(work)
    if first:
        click.echo(f"other credentials for {host}, in the {first}, are used before these", err=True)


def _credentials(host: str, username: str | None) -> Credentials:
    from tartlet.cli.terminal import asked, asked_secretly
    from tartlet.image.credentials.secret import Credentials

    if username is not None:
        return Credentials(username, _piped())
    name = asked(f"User name for {host}: ", _UNATTENDED)
    return Credentials(name, asked_secretly("Password: ", _UNATTENDED))


def _piped() -> str:
    """Standard input as a whole, without the line ends that `echo` puts behind it."""
    content = sys.stdin.buffer.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise UserError(f"a password of more than {_MOST_BYTES} bytes is too long")
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError as exc:
        raise UserError("the password on standard input is no UTF-8 text") from exc
