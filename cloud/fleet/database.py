"""Heartbeats and reports of the nodes, kept in a database (SQLAlchemy).

The gateway uses a file of SQLite. Values from nodes are validated: `cloud.fleet.bounds`
has cut or refused every number and string before it is kept, and each node has a
bounded number of rows. Reports are written at once; heartbeats are gathered, the newest
of each node, and written together by `flush`. A process that is killed loses those
since the last flush, and each node soon sends another. Not here: who a node is
(`cloud.gateway.authorization`), and what is made of its values (deploy.report).
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from cloud.fleet.bounds import checked_heartbeat, checked_report
from common.clock import Clock, utc_now
from common.errors import ConfigError, StorageError
from common.pb.takt_pb2 import HeartbeatRequest, ReportRequest

KEEP_REPORTS = 200  # of each node


class _Utc(sa.TypeDecorator[datetime]):
    """A time in UTC, also where the database keeps no zone (SQLite)."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(
        self, value: datetime | None, dialect: sa.Dialect
    ) -> datetime | None:
        return value.replace(tzinfo=UTC) if value and not value.tzinfo else value


_TABLES = sa.MetaData()
_NODES = sa.Table(
    "nodes",
    _TABLES,
    sa.Column("node", sa.String(63), primary_key=True),
    sa.Column("first_seen", _Utc, nullable=False),
    sa.Column("last_seen", _Utc, nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("message", sa.String(512), nullable=False),
)
_REPORTS = sa.Table(
    "reports",
    _TABLES,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("node", sa.String(63), nullable=False, index=True),
    sa.Column("time", _Utc, nullable=False),
    sa.Column("channel", sa.String(63), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("student", sa.String(63), nullable=False),
    sa.Column("architecture", sa.String(128), nullable=False),
    sa.Column("method", sa.String(32), nullable=False),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("clean_accuracy", sa.Float),  # NULL: not measured
    sa.Column("robust_accuracy", sa.Float),  # of the report's first evaluation
    sa.Column("cpu_s", sa.Float, nullable=False),  # distillation
    sa.Column("pulled_bytes", sa.BigInteger, nullable=False),
    # The whole report; the columns above are for queries.
    sa.Column("body", sa.LargeBinary, nullable=False),
)

_WHOLE_REPORTS = sa.select(_REPORTS.c.node, _REPORTS.c.time, _REPORTS.c.body)


@dataclass(frozen=True)
class NodeRow:
    """A node's last heartbeat; times are UTC."""

    node: str
    first_seen: datetime
    last_seen: datetime
    state: str
    version: int
    progress: float
    message: str


@dataclass(frozen=True)
class ReportRow:
    """One report as it came, after the checks."""

    node: str
    time: datetime
    report: ReportRequest


class Fleet:
    """The nodes and their reports; safe to use from several threads."""

    def __init__(self, url: str, *, clock: Clock = utc_now) -> None:
        """Open the database and make its tables if they are missing.

        Args:
            url: of SQLAlchemy, e.g. "sqlite:////var/lib/takt/fleet.sqlite"; see
                `sqlite_url`.
            clock: the wall clock, UTC.

        Raises:
            ConfigError: the URL is not one, or its driver is not installed.
            StorageError: the database cannot be opened, or is of another takt.
        """
        self._clock = clock
        # Heartbeats that are not written yet, and what kept the last flush from it.
        self._gathered: dict[str, dict[str, Any]] = {}
        self._failure = ""
        self._gathering = threading.Lock()
        self._flushing = threading.Lock()
        self._name = url.rpartition("@")[2]  # without a password
        try:
            self._engine = sa.create_engine(url)
        except (SQLAlchemyError, ImportError) as e:
            raise ConfigError(
                f"database URL for {self._name!r} does not work: {e}; expected for "
                'instance "sqlite:////path/fleet.sqlite"'
            ) from e
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
        with self._storage("open") as connection:
            _TABLES.create_all(connection)
            missing = _missing_columns(connection)
        if missing:
            raise StorageError(
                f"the fleet's database {self._name} is of another takt: it lacks "
                f"{', '.join(missing)}; move the file away, a new one is made, or use "
                "the takt that wrote it"
            )

    def close(self) -> None:
        """Write the heartbeats that were gathered, and close the connections.

        Raises:
            StorageError: the database fails; the connections are closed.
        """
        try:
            self.flush()
        finally:
            self._engine.dispose()

    def check(self) -> None:
        """Take the right to write, as a heartbeat does, and write nothing.

        Raises:
            StorageError: the database fails.
        """
        with self._storage("write") as connection:
            _put_nodes(connection, {})

    def heartbeat(self, node: str, beat: HeartbeatRequest) -> None:
        """Take a node's newest heartbeat; `flush` writes it. Does not wait.

        Raises:
            BadRequestError: a number in it is impossible.
            StorageError: the database failed when heartbeats were last written.
        """
        row = checked_heartbeat(beat)
        values: dict[str, Any] = {
            "last_seen": self._clock(),
            "state": row.state,
            "version": row.version,
            "progress": row.progress,
            "message": row.message,
        }
        with self._gathering:
            if self._failure:
                raise StorageError(self._failure)
            first_seen = self._gathered.get(node, values).get("first_seen")
            values["first_seen"] = first_seen or values["last_seen"]
            self._gathered[node] = values

    def flush(self) -> None:
        """Write the heartbeats that were gathered, in one transaction.

        Where the database fails they are kept for the next flush, and no further ones
        are taken until one succeeds.

        Raises:
            StorageError: the database fails.
        """
        with self._flushing:
            with self._gathering:
                rows, self._gathered = self._gathered, {}
            if not rows and not self._failure:
                return
            try:
                with self._storage("write") as connection:
                    _put_nodes(connection, rows)
            except StorageError as e:
                with self._gathering:
                    self._gathered = {**rows, **self._gathered}
                    self._failure = str(e)
                raise
            self._failure = ""

    def report(self, node: str, report: ReportRequest) -> None:
        """Keep a report; the node's oldest go when it has many.

        A report that is equal to the node's last is the same one sent again, its
        answer having been lost: it is kept once.

        Raises:
            BadRequestError: a number in it is impossible.
            StorageError: the database fails.
        """
        row = checked_report(report)
        now = self._clock()
        with self._storage("write") as connection:
            body = row.SerializeToString(deterministic=True)
            newest = _REPORTS.c.id.desc()
            last = sa.select(_REPORTS.c.body).where(_REPORTS.c.node == node)
            if connection.scalar(last.order_by(newest).limit(1)) == body:
                return
            connection.execute(
                sa.insert(_REPORTS).values(
                    node=node,
                    time=now,
                    channel=row.channel,
                    version=row.version,
                    student=row.student,
                    architecture=row.architecture,
                    method=row.method,
                    outcome=row.outcome,
                    clean_accuracy=(
                        row.clean_accuracy if row.HasField("clean_accuracy") else None
                    ),
                    robust_accuracy=row.robust[0].accuracy if row.robust else None,
                    cpu_s=row.cpu_s.distil,
                    pulled_bytes=row.pulled_bytes,
                    body=body,
                )
            )
            mine = sa.select(_REPORTS.c.id).where(_REPORTS.c.node == node)
            kept = connection.scalars(mine.order_by(newest).offset(KEEP_REPORTS))
            excess = kept.all()
            if excess:
                connection.execute(sa.delete(_REPORTS).where(_REPORTS.c.id.in_(excess)))

    def nodes(self) -> list[NodeRow]:
        """List the nodes by name, with each heartbeat that was taken here.

        Of a gateway in another process, those that it has written.

        Raises:
            StorageError: the database fails.
        """
        self.flush()
        with self._storage("read") as connection:
            rows = connection.execute(sa.select(_NODES).order_by(_NODES.c.node)).all()
        return [NodeRow(**row._mapping) for row in rows]

    def reports(
        self, *, node: str | None = None, version: int | None = None
    ) -> list[ReportRow]:
        """List the reports, oldest first.

        Args:
            node: only of this node.
            version: only on this release.

        Raises:
            StorageError: the database fails.
        """
        query = _WHOLE_REPORTS
        if node is not None:
            query = query.where(_REPORTS.c.node == node)
        if version is not None:
            query = query.where(_REPORTS.c.version == version)
        return self._report_rows(query.order_by(_REPORTS.c.id))

    def newest_reports(self) -> list[ReportRow]:
        """List each node's newest report, by node.

        Raises:
            StorageError: the database fails.
        """
        newest = sa.select(sa.func.max(_REPORTS.c.id)).group_by(_REPORTS.c.node)
        query = _WHOLE_REPORTS.where(_REPORTS.c.id.in_(newest))
        return self._report_rows(query.order_by(_REPORTS.c.node))

    def _report_rows(self, query: sa.Select[Any]) -> list[ReportRow]:
        with self._storage("read") as connection:
            rows = connection.execute(query).all()
        return [
            ReportRow(r.node, r.time, ReportRequest.FromString(r.body)) for r in rows
        ]

    @contextmanager
    def _storage(self, action: str) -> Iterator[sa.Connection]:
        """Open a transaction; the database's errors become ours."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as e:
            cause = " ".join(str(getattr(e, "orig", None) or e).split())[:200]
            raise StorageError(
                f"cannot {action} the fleet's database {self._name}: {cause}; check "
                "its disk and permissions"
            ) from e


def _put_nodes(
    connection: sa.Connection, rows: Mapping[str, Mapping[str, Any]]
) -> None:
    """Insert or update nodes by name; of a known one `first_seen` stays as it is."""
    known = set(connection.scalars(sa.select(_NODES.c.node)))
    new = [{"node": node, **row} for node, row in rows.items() if node not in known]
    old = [
        {"of_node": node, **{k: v for k, v in row.items() if k != "first_seen"}}
        for node, row in rows.items()
        if node in known
    ]
    if new:
        connection.execute(sa.insert(_NODES), new)
    if old:
        of_node = _NODES.c.node == sa.bindparam("of_node")
        connection.execute(sa.update(_NODES).where(of_node), old)
    if not rows:  # asks for the right to write
        connection.execute(sa.update(_NODES).where(sa.false()).values(state=""))


def _missing_columns(connection: sa.Connection) -> list[str]:
    """List the columns that are read or written here and that its tables lack.

    Columns that a later takt has added do no harm.
    """
    inspector = sa.inspect(connection)
    return [
        f"{name}.{column.name}"
        for name, table in _TABLES.tables.items()
        for known in [{each["name"] for each in inspector.get_columns(name)}]
        for column in table.columns
        if column.name not in known
    ]


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return f"sqlite:///{path.resolve()}"


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Readers (the simulation) never wait for the gateway's writes, nor it for them.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA busy_timeout=5000")
