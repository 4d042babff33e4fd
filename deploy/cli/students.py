"""`takt evaluate`, `takt export`, `takt fit`: one student at a time, outside a run.

Not here: the work itself (deploy.evaluation, deploy.export, deploy.selection).
"""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.groups import VerbGroup
from deploy.cli.long_verbs import long_verb, open_display
from deploy.cli.options import (
    AsJson,
    Assign,
    Config,
    DataDir,
    Limit,
    Seed,
    expand,
    settings_of,
)

app = typer.Typer(cls=VerbGroup, add_completion=False, rich_markup_mode=None)

ModelFile = Annotated[
    Path, typer.Argument(callback=expand, help="A .safetensors file of takt.")
]


@app.command()
@long_verb
def evaluate(
    model: ModelFile,
    attack: Annotated[str, typer.Option(help="autoattack or pgd.")] = "autoattack",
    images: Annotated[
        int, typer.Option(min=1, help="How many test images are attacked.")
    ] = 500,
    eps: Annotated[
        str | None, typer.Option(help='Such as "8/255"; default: what it trained on.')
    ] = None,
    data_dir: DataDir = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the attack.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure clean and robust accuracy of a saved teacher or student."""
    from deploy.evaluation.single import evaluate_model, parse_eps

    evaluate_model(
        model,
        attack=attack,
        num_images=images,
        eps=None if eps is None else parse_eps(eps),
        data_dir=data_dir,
        seed=seed,
        as_json=as_json,
        display=open_display(),
    )


@app.command()
@long_verb
def export(
    student: ModelFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=expand, help="The file to write.")
    ],
    to: Annotated[str, typer.Option(help="onnx or onnx-int8.")] = "onnx",
    images: Annotated[
        int, typer.Option(min=1, help="Test images that it has to answer.")
    ] = 1000,
    attacked: Annotated[
        int, typer.Option(min=1, help="Of these, so many are attacked.")
    ] = 200,
    max_clean_drop: Annotated[
        float,
        typer.Option(min=0, help="Clean accuracy it may lose: percentage points."),
    ] = 0.5,
    max_robust_drop: Annotated[
        float, typer.Option(min=0, help="The same of its robust accuracy.")
    ] = 1.0,
    data_dir: DataDir = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the attacks.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Write a student as an ONNX file, unless that answers worse."""
    from common.export.bounds import Bounds
    from deploy.export import export_student

    export_student(
        student,
        out,
        to=to,
        num_images=images,
        num_attacked=attacked,
        bounds=Bounds(clean=max_clean_drop / 100, robust=max_robust_drop / 100),
        data_dir=data_dir,
        seed=seed,
        as_json=as_json,
        display=open_display(),
    )


@app.command()
@long_verb
def fit(
    memory_mib: Annotated[int, typer.Option(min=1, help="The node's memory cap.")],
    cpu_s: Annotated[
        float, typer.Option(help="CPU-seconds that the training may take.")
    ],
    config: Config = "digits",
    release: Annotated[
        Path | None,
        typer.Option(
            callback=expand, help="A pulled release's folder, in the place of a config."
        ),
    ] = None,
    data_dir: DataDir = None,
    limit: Limit = None,
    seed: Seed = None,
    assign: Assign = None,
    cpus: Annotated[float, typer.Option(help="The node's CPU cap, in cores.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Pick the largest student whose training fits a node, by measuring steps."""
    from deploy.runtime.terminal import make_console
    from deploy.selection.student import (
        caps_of,
        select_student,
        subject_of_config,
        subject_of_release,
    )

    profile = caps_of(cpus=cpus, memory_mib=memory_mib, cpu_s=cpu_s)
    if release is not None:
        subject = subject_of_release(release.absolute(), data_dir)
    else:
        settings, _ = settings_of(config, data_dir, limit, seed, assign)
        subject = subject_of_config(settings)
    select_student(
        subject,
        profile,
        cpu_s=cpu_s,
        as_json=as_json,
        console=make_console(),
        display=open_display(),
    )
