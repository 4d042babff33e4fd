"""A gateway and daemons that are killed again and again: what is lost, what grows.

    .venv/bin/python tests/bench/soak.py --minutes 60 --daemons 20

Every release of digits is published while daemons follow: each is pulled, distilled and
reported for real. A daemon is killed every 30 s and the gateway every 5 minutes, both
without a warning, and started again. At the end no more is published or killed, and the
daemons have time to finish. Then every release that a daemon handled must have its
report in the fleet's database, once, and the newest must be finished by every daemon.
A node handles the release that its channel has when it looks: one that was overtaken by
the next is counted apart. Memory, descriptors and disk are sampled all along: growth is
the slope within the lives of a process, its first 90 s left out. The row and its
samples go to results/soak.json; soak_table.py writes the page's table.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import mean

from rows import Row, write_rows
from soak_site import Member, Site, mib_below

from cloud.fleet.database import Fleet, sqlite_url

ROWS = Path(__file__).parent / "results" / "soak.json"
TICK_S, SAMPLE_S = 0.5, 10.0
GATEWAY_BACK_S, NODE_BACK_S = 2.0, 1.0  # Ray Serve takes about two seconds
WARM_UP_S = 90.0  # of a process, in which it imports and its pools fill
SETTLE_S = 900.0  # most that the daemons may take to finish


class Schedule:
    """What is due at which time, in seconds since the start."""

    def __init__(self, **every_s: float) -> None:
        """Have each thing due after its first period."""
        self._every_s = every_s
        self._next_s = dict(every_s)

    def due(self, now_s: float) -> list[str]:
        """Return what is due, once for each period."""
        found = [name for name, at_s in self._next_s.items() if at_s <= now_s]
        for name in found:
            self._next_s[name] = now_s + self._every_s[name]
        return found


class Soak:
    """One soak: the site, what happened to it, and what was seen."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        """Begin with the first release."""
        self.site = site
        self.samples: list[Row] = []
        self.versions = [site.publish(0)]
        self._rng = rng
        self._began = time.monotonic()
        self._back_s: dict[str, float] = {}  # when a killed process starts again
        self._lives: Counter[str] = Counter()

    @property
    def now_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began

    def tick(self, due: Sequence[str]) -> None:
        """Do what is due; start again what was killed; look at every node."""
        if "release" in due:
            self.versions.append(self.site.publish(len(self.versions)))
        if "node" in due:
            self._kill(self._rng.choice(self.site.nodes), NODE_BACK_S)
        if "gateway" in due:
            self._kill(self.site.gateway, GATEWAY_BACK_S)
        for member in (self.site.gateway, *self.site.nodes):
            is_due = self.now_s >= self._back_s.get(member.name, 0.0)
            if not member.is_running() and is_due:
                member.start()
                self._lives[member.name] += 1
        for node in self.site.nodes:
            node.look()
        if "sample" in due:
            self._sample()

    def _kill(self, member: Member, back_s: float) -> None:
        member.kill()
        self._back_s[member.name] = self.now_s + back_s

    def _sample(self) -> None:
        at_s = round(self.now_s, 1)
        for member in (self.site.gateway, *self.site.nodes):
            usage = member.usage()
            if usage is not None:
                life = self._lives[member.name]
                found = {"rss_mib": round(usage.rss_mib, 2), "fds": usage.num_fds}
                row = {"t_s": at_s, "who": member.name, "life": life, **found}
                self.samples.append({**row, "threads": usage.num_threads})
        cloud_mib = mib_below(self.site.storage.root)
        nodes = [mib_below(node.state.root) for node in self.site.nodes]
        disk = {"cloud_mib": round(cloud_mib, 2), "node_mib": round(max(nodes), 2)}
        releases = len(self.versions)
        self.samples.append({"t_s": at_s, "who": "disk", "releases": releases, **disk})

    def is_settled(self) -> bool:
        """Tell whether every daemon has finished the newest release and said so."""
        newest = self.versions[-1]
        return all(
            node.look().version == newest and not node.num_unsent()
            for node in self.site.nodes
        )

    def outcome(self) -> Row:
        """Compare what the nodes handled with what the gateway has kept."""
        with closing(Fleet(sqlite_url(self.site.storage.fleet))) as fleet:
            reports = Counter((r.node, r.report.version) for r in fleet.reports())
            outcomes = Counter(r.report.outcome for r in fleet.reports())
        handled = {
            (node.name, version) for node in self.site.nodes for version in node.handled
        }
        wanted = {(n.name, v) for n in self.site.nodes for v in self.versions}
        newest = {(n.name, self.versions[-1]) for n in self.site.nodes}
        members = (self.site.gateway, *self.site.nodes)
        return {
            "releases": len(self.versions),
            "finished": len(reports),
            "overtaken": len(wanted - set(reports)),
            "newest_missing": len(newest - set(reports)),
            "lost": len(handled - set(reports)),
            "doubled": sum(count - 1 for count in reports.values()),
            "unsent": sum(node.num_unsent() for node in self.site.nodes),
            "outcomes": dict(outcomes),
            "daemon_kills": sum(node.num_kills for node in self.site.nodes),
            "gateway_kills": self.site.gateway.num_kills,
            "ended_by_itself": sum(len(m.ended_by_itself) for m in members),
        }


def slope_per_min(samples: Sequence[Row], field: str) -> float | None:
    """Fit one slope to all lives of a process, each about its own mean (least squares).

    Args:
        samples: of one process or several.
        field: what may grow.

    Returns:
        Units a minute; None: no life was long enough.
    """
    lives: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for sample in samples:
        lives[sample["who"], sample["life"]].append(sample)
    above = below = 0.0
    for life in lives.values():
        warm = [s for s in life if s["t_s"] >= life[0]["t_s"] + WARM_UP_S]
        if len(warm) < 3:
            continue
        mid_t, mid = mean(s["t_s"] for s in warm), mean(s[field] for s in warm)
        above += sum((s["t_s"] - mid_t) * (s[field] - mid) for s in warm)
        below += sum((s["t_s"] - mid_t) ** 2 for s in warm)
    return 60 * above / below if below else None


def growth(samples: Sequence[Row]) -> Row:
    """Summarise memory, descriptors and disk: slopes, and the most at any moment."""
    found: Row = {}
    gateway = [s for s in samples if s["who"] == "gateway"]
    daemons = [s for s in samples if s["who"].startswith("node-")]
    for who, mine in (("gateway", gateway), ("daemon", daemons)):
        for field in ("rss_mib", "fds", "threads"):
            slope = slope_per_min(mine, field)
            found[f"{who}_{field}_per_min"] = None if slope is None else round(slope, 4)
            found[f"{who}_{field}_most"] = max(s[field] for s in mine)
    disk = [s for s in samples if s["who"] == "disk"]
    half = disk[len(disk) // 2]
    found["node_mib_at_half"], found["node_mib_most"] = (
        half["node_mib"],
        max(s["node_mib"] for s in disk),
    )
    first, last = disk[0], disk[-1]
    releases = max(1, last["releases"] - first["releases"])
    per_release = (last["cloud_mib"] - first["cloud_mib"]) / releases
    found["cloud_mib_most"] = max(s["cloud_mib"] for s in disk)
    found["cloud_mib_per_release"] = round(per_release, 3)
    return found


def run(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Run a soak; return its row, and its samples."""
    with ExitStack() as stack:
        site = Site(folder, options.daemons, epochs=options.epochs)
        stack.callback(site.stop)
        soak = Soak(site, random.Random(options.seed))
        periods = {
            "release": options.release_every_s,
            "node": options.kill_node_every_s,
            "gateway": options.kill_gateway_every_s,
        }
        schedule = Schedule(**periods, sample=SAMPLE_S)
        while soak.now_s < 60 * options.minutes:
            soak.tick(schedule.due(soak.now_s))
            time.sleep(TICK_S)
        ended_s = soak.now_s
        schedule = Schedule(sample=SAMPLE_S)
        while not soak.is_settled() and soak.now_s < ended_s + SETTLE_S:
            soak.tick(schedule.due(soak.now_s))
            time.sleep(TICK_S)
        row = {
            "who": "summary",
            "minutes": round(ended_s / 60, 1),
            "settled_s": round(soak.now_s - ended_s),
            "daemons": options.daemons,
            "cores": len(os.sched_getaffinity(0)),
            "epochs": options.epochs,
            **{f"{name}_every_s": period for name, period in periods.items()},
            **soak.outcome(),
            **growth(soak.samples),
        }
        return [row, *soak.samples]


def failures(row: Row) -> list[str]:
    """List what a soak must not have."""
    nothing = ("newest_missing", "lost", "doubled", "unsent", "ended_by_itself")
    return [f"{name}: {row[name]}, expected 0" for name in nothing if row[name]]


def main() -> int:
    """Make the rows anew; fail where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--daemons", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5, help="of each distillation")
    parser.add_argument("--release-every-s", type=float, default=120.0)
    parser.add_argument("--kill-node-every-s", type=float, default=30.0)
    parser.add_argument("--kill-gateway-every-s", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0, help="of who is killed")
    parser.add_argument("--work", type=Path, help="kept; else a folder that is removed")
    parser.add_argument("--out", type=Path, default=ROWS)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.work
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        rows = run(options, folder)
    write_rows(options.out, rows)
    print(rows[0])
    found = failures(rows[0])
    print("\n".join(found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
