"""`takt models`: which models a config may name, and what each costs.

Not here: building and measuring (common.models, deploy.selection.model_facts).
"""

from typing import Annotated

import typer

from deploy.cli.groups import VerbGroup
from deploy.cli.options import AsJson

app = typer.Typer(
    cls=VerbGroup,
    name="models",
    help="Say which models a config may name, and what each costs.",
    no_args_is_help=True,
    add_completion=False,  # it is the whole command's
    rich_markup_mode=None,
)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List all models that can be named here: takt's, torchvision's, packages'."""
    from deploy.runtime.terminal import make_console
    from deploy.selection.model_facts import list_models

    list_models(as_json=as_json, console=make_console())


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="As a config names it.")],
    channels: Annotated[
        int, typer.Option(min=1, max=16, help="Of the images: 1 grey, 3 colour.")
    ] = 3,
    image_size: Annotated[
        int, typer.Option(min=8, max=256, help="Their height and width.")
    ] = 32,
    classes: Annotated[int, typer.Option(min=2, max=10000, help="How many.")] = 10,
    batch_size: Annotated[
        int, typer.Option(min=2, help="Of the training step that is measured.")
    ] = 64,
    as_json: AsJson = False,
) -> None:
    """Check a model and measure it: parameters, multiply-adds, bytes, memory."""
    from deploy.selection.model_facts import show_model

    show_model(
        name,
        in_channels=channels,
        image_size=image_size,
        num_classes=classes,
        batch_size=batch_size,
        as_json=as_json,
    )
