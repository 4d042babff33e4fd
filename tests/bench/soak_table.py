"""The table of a soak: what happened, what was lost, what grew.

The rows come from soak.py. Not here: which file they are in (page_tables.py).
"""

from rows import Row


def markdown(rows: list[Row]) -> str:
    """Write the summary as a Markdown table; the samples stay in the file."""
    (row,) = [row for row in rows if row["who"] == "summary"]
    outcomes = ", ".join(f"{n} {name}" for name, n in sorted(row["outcomes"].items()))
    lines = [
        "| what | figure |",
        "| --- | --- |",
        f"| ran | {row['minutes']:g} minutes, {row['daemons']} daemons, "
        f"{row['cores']} cores |",
        f"| releases of digits | {row['releases']}, one every "
        f"{row['release_every_s']:g} s |",
        f"| daemons killed | {row['daemon_kills']}, one every "
        f"{row['node_every_s']:g} s |",
        f"| gateway killed | {row['gateway_kills']} times, every "
        f"{row['gateway_every_s']:g} s |",
        f"| reports kept | {row['finished']} ({outcomes}) |",
        f"| releases handled whose report was lost, came twice or was not sent "
        f"| {row['lost']}, {row['doubled']}, {row['unsent']} |",
        f"| daemons without the newest release at the end | {row['newest_missing']}, "
        f"{row['settled_s']} s after the last kill |",
        f"| releases not finished by a daemon before the next | {row['overtaken']} |",
        f"| processes that ended by themselves | {row['ended_by_itself']} |",
    ]
    for who in ("gateway", "daemon"):
        grown = ", ".join(
            _slope(row[f"{who}_{field}_per_min"], unit)
            for field, unit in (("rss_mib", "MiB"), ("fds", "descriptors"))
        )
        most = f"{row[f'{who}_rss_mib_most']:.0f} MiB and {row[f'{who}_fds_most']}"
        lines.append(f"| {who}: growth a minute; most | {grown}; {most} |")
    lines.append(
        f"| disk of a node, at half time and most | {row['node_mib_at_half']:.2f} and "
        f"{row['node_mib_most']:.2f} MiB |"
    )
    lines.append(
        f"| disk of the cloud: most, for each release | {row['cloud_mib_most']:.2f} "
        f"MiB, {row['cloud_mib_per_release']:.2f} MiB |"
    )
    return "\n".join(lines)


def _slope(value: float | None, unit: str) -> str:
    return "not measured" if value is None else f"{value:+.2f} {unit}"
