"""The table of PGD's speed: takt's attack beside those of other libraries."""

from collections.abc import Sequence

from rows import Row


def markdown(rows: Sequence[Row]) -> str:
    """Write the rows as a Markdown table, and a line that gives it meaning."""
    libraries = list(dict.fromkeys(row["library"] for row in rows))
    places = list(dict.fromkeys((row["model"], row["images"]) for row in rows))
    heads = [f"{library}, steps a CPU-s" for library in libraries]
    heads += [f"takt's speed over {name}" for name in libraries if name != "takt"]
    lines = [
        f"| model | images | {' | '.join(heads)} |",
        f"| --- | --- |{' ---: |' * len(heads)}",
    ]
    for place in places:
        own = {
            row["library"]: row
            for row in rows
            if (row["model"], row["images"]) == place
        }
        cells = [f"{own[name]['steps_per_cpu_s']:.0f}" for name in libraries]
        cells += [
            f"{own[name]['speed_of_takt']:.2f}" for name in libraries if name != "takt"
        ]
        lines.append(f"| {' | '.join((*place, *cells))} |")
    versions = ", ".join(
        sorted({f"{r['library']} {r['version']}" for r in rows if r["version"]})
    )
    meaning = (
        f"Medians of {rows[0]['rounds']} runs of each in turns, one thread, batches of "
        f"{rows[0]['batch_size']}, torch {rows[0]['torch']}; {versions}."
    )
    return "\n".join([*lines, "", meaning])
