"""`takt config`: what a config amounts to, and what its keys mean.

Not here: the keys themselves (common.config) and their words
(deploy.runtime.config_keys).
"""

import json
from typing import Annotated

import typer

from deploy.cli.groups import VerbGroup
from deploy.cli.options import AsJson, Assign, Config, DataDir, Limit, Seed

app = typer.Typer(
    cls=VerbGroup,
    name="config",
    help="Say what a config amounts to, and what its keys mean.",
    no_args_is_help=True,
    add_completion=False,  # it is the whole command's
    rich_markup_mode=None,
)


@app.command()
def show(
    config: Config = "digits",
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> None:
    """List every key's value, and whether file, option or default gave it."""
    import tomllib

    from common.text import printable
    from deploy.cli.options import overrides_of
    from deploy.runtime.config_keys import effective
    from deploy.runtime.settings import load_run_config, read_shipped

    overrides, typed = overrides_of(data_dir, limit, seed, assign)
    settings, _ = load_run_config(config, overrides, typed=typed)
    names = {key: typed.get(key, "--set") for key in overrides}
    file = tomllib.loads(read_shipped(config, "configs")[1])
    found = list(effective(settings, file, names))
    if as_json:
        rows = [{"key": k, "value": v, "from": origin} for k, v, origin in found]
        typer.echo(json.dumps(rows, indent=1))
        return
    for key, value, origin in found:
        shown = "(none)" if value is None else json.dumps(value, ensure_ascii=False)
        typer.echo(printable(f"{key} = {shown}  # {origin}"))


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="For instance teacher.epochs.")],
) -> None:
    """Say what a key means, what it may hold, and its default."""
    from deploy.runtime.config_keys import explain_key

    for line in explain_key(key):
        typer.echo(line)
