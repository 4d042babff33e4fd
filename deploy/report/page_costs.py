"""The lower half of report.html: what the run cost and how it was measured.

Each section is a function from a result to HTML, see `deploy/report/page_findings.py`.
"""

from collections.abc import Iterable

from common.release import Evaluation
from deploy.report.charts import Bar, BarRow, bar_rows, escape, hue
from deploy.report.page_blocks import card, fact_list, pair
from deploy.report.result import RunResult
from deploy.report.table import human_bytes
from deploy.report.wording import describe, percent

CONTENT_NAMES = {
    "soft_labels": "soft labels",
    "deltas": "adversarial deltas",
    "adv_labels": "soft labels of these",
    "boundary_points": "boundary points",
    "margins": "margins",
}
STATE_CHIPS = {"promoted": "good", "trained": "good", "kept": "warn"}


def roster(result: RunResult) -> str:
    """List every node with its caps and costs."""
    if not result.nodes:
        return ""
    heads = ["node", "caps", "held by", "pulled", "CPU-s", "of which attack"]
    heads += ["peak memory", "state"]
    rows = []
    for node in (*result.nodes, *(result.baselines or ())):
        label = node.name if node in result.nodes else f"{node.name} {node.method}"
        profile, cpu = node.profile, node.cpu_s
        held = ""
        if node.cap is not None:
            kind = "hard" if node.cap.hard else "soft"
            style = "good" if node.cap.hard else "warn"
            held = f'{escape(node.cap.method)} <span class="chip {style}">{kind}</span>'
        peak = ""
        if node.peak_memory_mib is not None:
            peak = f"{node.peak_memory_mib:.0f} MiB"
        cells = [
            f"{profile.cpus:g} CPU, {profile.memory_mib} MiB, "
            f"{profile.bandwidth_kib_s} KiB/s",
            held,
            "" if node.pulled_bytes is None else human_bytes(node.pulled_bytes),
            "" if cpu.distil is None else f"{cpu.distil:.1f}",
            "" if cpu.attack is None else f"{cpu.attack:.1f}",
            peak,
            f'<span class="chip {STATE_CHIPS.get(node.state, "bad")}">'
            f"{escape(node.state)}</span>",
        ]
        columns = zip(heads[1:], cells, strict=True)
        tds = "".join(
            f'<td data-label="{name}"{"" if cell else " class=none"}>'
            f"<span>{cell}</span></td>"
            for name, cell in columns
        )
        rows.append(f'<tr><th scope="row">{escape(label)}</th>{tds}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = (
        f'<div class="scroll"><table class="roster"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    return card("The nodes", "What each was given and what it used.", table)


def release_and_memory(result: RunResult) -> str:
    """Draw bytes per sample of the release, and memory peaks under their caps."""
    cards = []
    if result.release is not None:
        release = result.release
        most = max(release.bytes_per_sample.values(), default=1.0)
        rows = [
            BarRow(
                CONTENT_NAMES.get(content, content),
                "",
                (Bar(each / most, "s0"),),
                f"{each:.1f} B",
                (human_bytes(each * release.num_samples),),
            )
            for content, each in sorted(
                release.bytes_per_sample.items(), key=lambda item: _order(item[0])
            )
        ]
        note = (
            f"Bytes per sample of each content, {release.num_samples:,} samples, "
            f"{human_bytes(release.bytes)} in all. A node pulls only what its method "
            "reads."
        )
        cards.append(card("What the release costs", note, bar_rows(rows)))
    rows = [
        BarRow(
            node.name,
            f"cap {node.profile.memory_mib} MiB",
            (Bar(node.peak_memory_mib / node.profile.memory_mib, hue(index)),),
            f"{node.peak_memory_mib:.0f} MiB",
            (f"{100 * node.peak_memory_mib / node.profile.memory_mib:.0f} % of it",),
        )
        for index, node in enumerate(result.nodes)
        if node.peak_memory_mib is not None
    ]
    if rows:
        note = "Peak of the capped distillation; the full track is the node's cap."
        cards.append(card("Memory under its cap", note, bar_rows(rows)))
    return pair(cards)


def _order(content: str) -> tuple[int, str]:
    names = list(CONTENT_NAMES)
    return names.index(content) if content in names else len(names), content


def time_and_method(result: RunResult) -> str:
    """Draw where the time went; say on what and how it was measured."""
    cards = []
    phases = {k: v for k, v in result.timings_s.items() if k != "total"}
    if phases:
        most = max(*phases.values(), 1e-9)
        rows = [
            BarRow(name, "", (Bar(seconds / most, "teacher"),), f"{seconds:.1f} s")
            for name, seconds in phases.items()
        ]
        total = result.timings_s.get("total", sum(phases.values()))
        note = f"Wall-clock seconds of each phase; {total:.1f} s in all."
        cards.append(card("Where the time went", note, bar_rows(rows)))
    listed = "".join(f"<li>{escape(note)}</li>" for note in _notes(result))
    cards.append(card("How it was measured", "", f'<ul class="notes">{listed}</ul>'))
    return pair(cards)


def _notes(result: RunResult) -> Iterable[str]:
    yield (
        "Clean accuracy is of the whole test split. AutoAttack (the authors' package) "
        "ran after training, outside the nodes' caps, on the first images of that "
        "split, at a low priority beside other work."
    )
    yield (
        "CPU-seconds are those of the node's own training, its attack included; "
        "importing and measuring are not in them."
    )
    yield (
        "The 95 % interval is Wilson's, from the number of images alone. It knows "
        "nothing of the spread between seeds: this is one run with one seed."
    )
    if any(node.cap is not None and not node.cap.hard for node in result.nodes):
        yield (
            "Soft caps are held by a watchdog that measures and stops the process, "
            "not by the kernel: a short excess is possible."
        )
    if result.baselines:
        yield (
            "The PGD-AT baseline trains the same student on the same data with the "
            "same seed for the CPU-seconds that the node's distillation took."
        )


def fine_print(result: RunResult) -> str:
    """List the machine and every evaluation with its flags; close the page."""
    machine = result.machine
    facts = [
        ("cores", str(machine.cores)),
        ("memory", f"{machine.memory_mib:,} MiB"),
        ("GPU", machine.gpu or "none used"),
        ("Python", machine.python),
        ("torch", machine.torch or ""),
        ("Ray", machine.ray or ""),
        ("takt", result.takt_version),
    ]
    if result.dataset is not None:
        facts.append(("data fingerprint", result.dataset.fingerprint[:16]))
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td data-label="attack">{escape(describe(e))}, seed {e.seed}</td>'
        f'<td data-label="accuracy">{percent(e.accuracy)} %</td>'
        f'<td data-label="flags">{escape(", ".join(e.flags) or "none")}</td></tr>'
        for name, robust in _everything(result)
        for e in robust
    )
    table = ""
    if rows:
        head = "<th>model</th><th>attack</th><th>accuracy</th><th>flags</th>"
        table = (
            "<details><summary>Every robust accuracy, with its flags</summary>"
            f'<div class="scroll"><table class="roster"><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div></details>"
        )
    body = fact_list([(key, value) for key, value in facts if value]) + table
    return (
        card("The machine", "", body)
        + '<footer>All figures are from <a href="result.json">result.json</a>; logs '
        'are in <a href="logs/">logs/</a>, students in <a href="students/">students/'
        "</a>.</footer>"
    )


def _everything(result: RunResult) -> Iterable[tuple[str, tuple[Evaluation, ...]]]:
    if result.teacher is not None:
        yield "teacher", result.teacher.robust
    for node in result.nodes:
        yield node.name, node.robust
    for baseline in result.baselines or ():
        yield f"{baseline.name} {baseline.method}", baseline.robust
