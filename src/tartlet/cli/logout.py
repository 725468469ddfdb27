"""`tart logout`."""

from __future__ import annotations

import click

from tartlet.cli.login import DOCKER, KEYRING
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("logout", cls=Verb)
@click.argument("host", metavar="<host>", help="Registry, with its port if it has one.")
@click.option(
    "--store",
    metavar="<store>",
    type=click.Choice([KEYRING, DOCKER]),
    default=KEYRING,
    help="Where they are kept: in the system's keyring, or where Docker keeps its own.",
)
@click.pass_obj
def command(app: App, host: str, *, store: str) -> None:
    """Forget the credentials of a registry.

    That there are none is no mistake.
    """
    app.collect_garbage()

    import anyio

    from tartlet.image.sign_in import CredentialStore, log_out

    async def work() -> str | None:
        return await log_out(host, store=CredentialStore(store))

    left = anyio.run(work)
    if left:
        click.echo(f"there still are credentials for {host} in the {left}", err=True)
