"""The table of what admission costs: the gateway beside a bare grpc.aio server.

The rows come from gateway_bench.py. Not here: which file they are in (page_tables.py).
"""

from rows import Row


def markdown(rows: list[Row]) -> str:
    """Write the rows as a Markdown table, and a line that gives it meaning."""
    lines = [
        "| server | what | rate | server's CPU | share of bare's rate |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row["what"] == "calls":
            what = f"small calls, {row['in_flight']} at a time"
            rate, cpu = f"{row['per_s']:,.0f} calls/s", f"{row['cpu_ms']:.2f} ms a call"
        else:
            what = f"file, messages of {row['message_bytes'] // 1024:,} KiB"
            rate, cpu = f"{row['per_s']:.0f} MiB/s", f"{row['cpu_ms']:.2f} ms a MiB"
        lines.append(
            f"| {row['server']} | {what} | {rate} | {cpu} | {row['share']:.2f} "
            f"({row['share_least']:.2f} to {row['share_most']:.2f}) |"
        )
    meaning = (
        f"Medians of {rows[0]['rounds']} rounds; the share is the median of each "
        "round's ratio (least to most), of a file to bare's best message size. Mutual "
        "TLS; server and client pinned to a core each."
    )
    return "\n".join([*lines, "", meaning])
