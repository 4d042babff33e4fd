"""The upper half of report.html: what came of the run.

Each section is a function from a result to HTML; one of which nothing was
measured is an empty string. Costs and fine print are in `deploy/report/page_costs.py`.
"""

from deploy.report.charts import (
    Bar,
    BarRow,
    Series,
    bar_rows,
    curves,
    escape,
    hue,
    wilson,
)
from deploy.report.page_blocks import card, fact_list, legend
from deploy.report.result import NodeResult, RunResult, find_autoattack
from deploy.report.wording import describe, percent


def header(result: RunResult) -> str:
    """Open the page: which run, what came of it."""
    ok = result.status == "ok"
    facts = [("threat model", f"{result.threat.norm}, eps {result.threat.eps:.4g}")]
    if result.dataset is not None:
        data = result.dataset
        facts.insert(
            0,
            (
                "data",
                f"{data.name}: {data.num_train:,} to learn, {data.num_test:,} to test",
            ),
        )
    if result.release is not None:
        facts.append(("release", f"{result.release.channel} v{result.release.version}"))
    if "total" in result.timings_s:
        facts.append(("took", f"{result.timings_s['total']:.0f} s"))
    error = ""
    if result.error is not None:
        error = (
            f'<p class="card"><b>Exit code {result.error.code}:</b> '
            f"{escape(result.error.message)}</p>"
        )
    return (
        '<header><div class="eyebrow"><span class="brand">takt</span>'
        f"<code>{escape(result.run_id)}</code>"
        f'<span class="chip {"good" if ok else "bad"}">{result.status}</span></div>'
        f"<h1>{escape(result.verdict)}</h1>{fact_list(facts)}</header>{error}"
    )


def scoreboard(result: RunResult) -> str:
    """Draw robust and clean accuracy of the teacher and of each student."""
    baselines = {baseline.name: baseline for baseline in result.baselines or ()}
    rows = []
    teacher = result.teacher
    aa = find_autoattack(teacher.robust) if teacher else None
    if teacher is not None and aa is not None:
        bar = Bar(
            aa.accuracy,
            "teacher",
            tick=teacher.clean_accuracy,
            span=wilson(aa.accuracy, aa.num_images),
        )
        rows.append(
            BarRow(
                "teacher",
                _size(teacher.architecture, teacher.num_parameters),
                (bar,),
                f"{percent(aa.accuracy)} % robust",
                (f"{percent(teacher.clean_accuracy)} % clean", f"n = {aa.num_images}"),
            )
        )
    for index, node in enumerate(result.nodes):
        found = node.autoattack
        if found is None or node.student is None:
            continue
        bars = [_accuracy_bar(node, hue(index))]
        details = [f"{percent(node.clean_accuracy)} % clean", f"n = {found.num_images}"]
        other = baselines.get(node.name)
        if other is not None and other.autoattack is not None:
            bars.append(_accuracy_bar(other, hue(index), hatched=True))
            details.append(f"PGD-AT {percent(other.autoattack.accuracy)} % robust")
        rows.append(
            BarRow(
                node.name,
                _size(node.student.architecture, node.student.num_parameters),
                tuple(bars),
                f"{percent(found.accuracy)} % robust",
                tuple(details),
            )
        )
    if not rows:
        return ""
    first = next((n.autoattack for n in result.nodes if n.autoattack), aa)
    swatches = [
        ('<i class="s0"></i>', "robust accuracy"),
        ('<i class="mark"></i>', "clean accuracy"),
        ('<i class="span"></i>', "95 % interval of the robust accuracy"),
    ]
    if baselines:
        swatches.insert(1, ('<i class="hatched s0"></i>', "PGD-AT, same CPU-seconds"))
    note = f"{describe(first)} a student." if first else ""
    if aa is not None:
        note += f" Teacher: {aa.num_images} images."
    return card(
        "How robust",
        f"{note} Bars run from 0 to 100 %.",
        legend(swatches) + bar_rows(rows),
    )


def _size(architecture: str, num_parameters: int) -> str:
    return f"{architecture}, {num_parameters:,} parameters"


def _accuracy_bar(node: NodeResult, style: str, *, hatched: bool = False) -> Bar:
    found = node.autoattack
    if found is None:
        raise AssertionError("only called where AutoAttack was measured")
    return Bar(
        found.accuracy,
        style,
        hatched=hatched,
        tick=node.clean_accuracy,
        span=wilson(found.accuracy, found.num_images),
    )


def learning(result: RunResult) -> str:
    """Draw robust accuracy against the node's CPU-seconds."""
    series = []
    lines = [(node, False) for node in result.nodes]
    order = [node.name for node in result.nodes]
    lines += [(b, True) for b in result.baselines or () if b.name in order]
    for node, dashed in lines:
        points = [
            (point.cpu_s, point.robust_accuracy)
            for point in node.curve
            if point.robust_accuracy is not None
        ]
        if points:
            label = f"{node.name} {node.method}" if dashed else node.name
            index = order.index(node.name)
            series.append(Series(label, hue(index), points, dashed, index))
    if not series:
        return ""
    summary = "Robust accuracy on the validation split: " + ", ".join(
        f"{s.name} ends at {percent(s.points[-1][1])} % after {s.points[-1][0]:.1f} "
        "CPU-seconds"
        for s in series
    )
    own = [e for node in result.nodes for e in node.robust if e.attack != "autoattack"]
    measured = f" ({describe(own[0])})" if own else ""
    picture = curves(
        series,
        x_label="CPU-seconds of training at the node",
        y_label="robust accuracy, %",
        summary=summary,
    )
    note = (
        "Each node's own measurements while it learns, on its validation split"
        f"{measured}. AutoAttack, above, is the stronger attack."
    )
    if any(s.dashed for s in series):
        note += " Dashed: the same student trained by PGD-AT, without a teacher."
    return card("How fast", note, f"<figure>{picture}</figure>")
