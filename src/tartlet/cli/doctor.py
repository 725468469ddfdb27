"""`tart doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from tartlet.cli.candidates import files, local_vms
from tartlet.cli.output import json_text
from tartlet.cli.wiring import App
from tartlet.cli.words import Verb


@click.command("doctor", cls=Verb)
@click.argument("name", metavar="<name>", required=False, help="VM to look at more closely.", shell_complete=local_vms)
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@click.option(
    "--bundle",
    metavar="<path>",
    type=click.Path(path_type=Path),
    shell_complete=files,
    help="Also write an archive of logs and configurations, secrets removed, to attach to a bug report.",
)
@click.pass_context
def command(ctx: click.Context, name: str | None, *, as_json: bool, bundle: Path | None) -> None:
    """Show what this machine offers, and what stands in the way.

    The exit code is 1 when there is a problem, and 0 when all is well or only could be better.
    """
    from tartlet.vm.doctor import Verdict, examine

    app: App = ctx.obj
    # Not the collected store: left-overs are to be seen here, not swept away.
    findings = examine(app.uncollected_store, name)
    if as_json:
        click.echo(
            json_text(
                [{"Topic": one.topic, "Verdict": one.verdict, "Text": one.text, "Hint": one.hint} for one in findings]
            )
        )
    else:
        for one in findings:
            click.echo(f"{one.verdict:8}{one.topic}: {one.text}")
            if one.hint:
                click.echo(f"{'':8}{one.hint}")
    if bundle is not None:
        from tartlet.vm.bundle import write_bundle

        store = app.uncollected_store
        write_bundle(bundle, store, findings, store.all() if name is None else [store.find(name)])
        click.echo(f"wrote {bundle}; look through it before you share it", err=True)
    ctx.exit(1 if any(one.verdict is Verdict.PROBLEM for one in findings) else 0)
