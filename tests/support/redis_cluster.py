"""A Redis Cluster on loopback, to be used and to be broken.

It starts in about two seconds: for so long, a master that has just started does not yet say that
the cluster is ok (CLUSTER_WRITABLE_DELAY in cluster.c). Everything else is done within this time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import redis

from realtime.core.partitions import SLOTS
from tests.support.eventually import eventually_sync
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

PATIENT_SECONDS = 10.0
"""A deadline for what must succeed, however busy the machine is."""
HASTY_SECONDS = 1.0
"""A deadline for what meets a master that does not answer: that of the app."""

KEYS_AT_ONCE = 100
"""How many keys of a slot one MIGRATE moves; redis-cli takes 10."""
MIGRATE_TIMEOUT_MS = 60_000
"""The longest pause of one MIGRATE, as in redis-cli."""


class KnownNode(NamedTuple):
    """What a server knows of one node, which may be itself: a line of CLUSTER NODES."""

    id: str
    flags: frozenset[str]
    master_id: str
    """Empty if it is a master."""
    epoch: int
    """Of two masters that claim the same slot, the one with the higher epoch has it."""
    ranges: tuple[tuple[int, int], ...]
    """The first and last numbers of its slots; none if it is a replica."""

    @property
    def is_master(self) -> bool:
        return "master" in self.flags

    @property
    def is_fine(self) -> bool:
        """Whether it is taken to be alive, and its name and address are known."""
        return not self.flags & {"fail", "fail?", "handshake", "noaddr"}

    @property
    def place(self) -> tuple[Any, ...]:
        """What all servers must agree on."""
        return (self.id, self.is_master, self.master_id, self.ranges)

    @classmethod
    def parse(cls, line: str) -> KnownNode:
        identity, _, flags, master, _, _, epoch, _, *slots = line.split()
        # "[93->-…]" is a slot that is being moved.
        ranges = [each.partition("-") for each in slots if not each.startswith("[")]
        return cls(
            identity,
            frozenset(flags.split(",")),
            master.strip("-"),
            int(epoch),
            tuple((int(first), int(last or first)) for first, _, last in ranges),
        )


class View(NamedTuple):
    """What one server says about the cluster and itself."""

    is_ok: bool
    """Whether it takes commands."""
    itself: KnownNode
    nodes: Mapping[str, KnownNode]
    """All nodes that it knows, by id."""
    is_linked: bool
    """Whether it has caught up with its master, or is one."""

    def knows(self, ids: Iterable[str]) -> bool:
        """Tell whether it knows all these nodes, and takes them to be alive."""
        return all(each in self.nodes and self.nodes[each].is_fine for each in ids)


class ClusterNode(RedisServer):
    """One server of a cluster."""

    def __init__(
        self, *options: str, program: str = "", password: str = "", conf: Path | None = None
    ) -> None:
        self.bus_port = free_port()
        """Without the option, it would be the port + 10,000, which another test may have."""
        bus = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port))
        super().__init__(
            *(*bus, "--cluster-config-file", "nodes.conf", "--repl-diskless-sync-delay", "0"),
            *options,
            port=free_port(),
            program=program,
            password=password,
            conf=conf,
        )
        self.id = ""
        """Its id in the cluster, which it keeps when it starts again."""
        self._is_frozen = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether it runs and is not frozen."""
        return self._process is not None and not self._is_frozen

    def start(self, *options: str) -> ClusterNode:
        super().start(*options)
        self._is_frozen = False
        self.id = self.ask("CLUSTER", "MYID").decode()
        return self

    def freeze(self) -> None:
        super().freeze()
        self._is_frozen = True

    def thaw(self) -> None:
        super().thaw()
        self._is_frozen = False

    def ask(self, *command: str | int) -> Any:
        with self.client() as client:
            return client.execute_command(*command)

    def meet(self, other: ClusterNode) -> None:
        self.ask("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus_port)

    def look(self) -> View:
        """Ask the server for its view of the cluster."""
        with self.client() as client, client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command("CLUSTER", "INFO")
            pipeline.execute_command("CLUSTER", "NODES")
            pipeline.info("replication")
            state, lines, replication = pipeline.execute()
        nodes = [KnownNode.parse(line) for line in lines.decode().splitlines()]
        [itself] = [each for each in nodes if "myself" in each.flags]
        return View(
            b"cluster_state:ok" in state,
            itself,
            {each.id: each for each in nodes},
            replication.get("master_link_status", "up") == "up",
        )


class SlotMove:
    """The steps that move a slot from one master to another, as redis-cli takes them."""

    def __init__(
        self,
        source: ClusterNode,
        target: ClusterNode,
        clients: Sequence[redis.Redis],
        password: str,
    ) -> None:
        self._source_id, self._target_id = source.id, target.id
        self._source, self._target, *self._rest = clients
        self._migrate = ("MIGRATE", "127.0.0.1", target.port, "", 0, MIGRATE_TIMEOUT_MS)
        self._auth = ("AUTH", password) if password else ()

    def begin(self, slot: int) -> None:
        """Open a slot: from now on, the source redirects commands for missing keys (ASK)."""
        self._set_slot(self._target, slot, "IMPORTING", self._source_id)
        self._set_slot(self._source, slot, "MIGRATING", self._target_id)

    def migrate_keys(self, slot: int, limit: int | None = None) -> int:
        """Move the keys of an open slot, or at most so many, and return their number."""
        count = 0
        while limit is None or count < limit:
            most = KEYS_AT_ONCE if limit is None else min(KEYS_AT_ONCE, limit - count)
            keys = self._source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, most)
            if not keys:
                break
            self._source.execute_command(*self._migrate, *self._auth, "KEYS", *keys)
            count += len(keys)
        return count

    def end(self, slot: int) -> None:
        """Give an open slot, whose keys have moved, to the target."""
        self._set_slot(self._target, slot, "NODE", self._target_id)
        for client in (self._source, *self._rest):
            try:
                self._set_slot(client, slot, "NODE", self._target_id)
            except redis.ResponseError as error:
                # It has heard of its last slot's move, and follows the new owner; redis-cli
                # ignores this, too.
                if "only with masters" not in str(error):
                    raise

    def _set_slot(self, client: redis.Redis, slot: int, state: str, node_id: str) -> None:
        client.execute_command("CLUSTER", "SETSLOT", slot, state, node_id)


class ClusterSet:
    """See the module; `cluster_set` starts one.

    Its answers are those of the servers that run. A frozen server is not asked, and a woken one is
    not believed before it knows what has changed: of two servers that claim a slot, the one with
    the higher epoch has it.
    """

    def __init__(
        self, masters: int, replicas: int, make: Callable[[], ClusterNode], password: str = ""
    ) -> None:
        """Configure a cluster without starting it.

        Args:
            masters: How many.
            replicas: How many in all.
            make: Makes one more server.
            password: The password that `make` gives each.
        """
        self.servers = [make() for _ in range(masters + replicas)]
        """All servers: first those that began as masters."""
        self._first_masters = self.servers[:masters]
        self._make = make
        self._password = password

    @property
    def url(self) -> str:
        secret = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis+cluster://{secret}{','.join(each.address for each in self.servers)}"

    # What the servers say

    @property
    def running(self) -> list[ClusterNode]:
        """The servers that run and are not frozen."""
        return [each for each in self.servers if each.is_running]

    def masters(self) -> list[ClusterNode]:
        """Return the masters of now, also those without slots."""
        claims = self._claims()
        owners = set(_owners(claims).values())
        return [
            server
            for server, claim in claims.items()
            # Not a woken one whose slots all belong to others.
            if claim.is_master and (server in owners or not claim.ranges)
        ]

    def replicas(self) -> list[ClusterNode]:
        return [each for each, claim in self._claims().items() if not claim.is_master]

    def owner_of(self, slot: int) -> ClusterNode | None:
        """Return the master that serves a slot; None while nobody that answers claims it."""
        return _owners(self._claims()).get(slot)

    def slots_of(self, master: ClusterNode) -> list[int]:
        """Return the slots that a master serves."""
        return [slot for slot, owner in _owners(self._claims()).items() if owner is master]

    def replica_of(self, master: ClusterNode) -> ClusterNode:
        """Return a replica that runs, of a master that need not run."""
        followers = self._followers(master)
        assert followers, f"{master.address} has no replica that answers"
        return followers[0]

    def is_ready(self) -> bool:
        """Tell whether the servers that run serve all slots, agree about them, and follow.

        It is false from the moment when a master is killed or frozen to the end of the failover,
        and after a server has started again or was woken, until it and the others agree.
        """
        views = self._views()
        if not len(views) == len(self.running) > 0:
            return False
        ids = {view.itself.id for view in views.values()}
        if not all(view.is_ok and view.is_linked and view.knows(ids) for view in views.values()):
            return False
        claims = {server: view.itself for server, view in views.items()}
        places = {frozenset(view.nodes[each].place for each in ids) for view in views.values()}
        return len(places) == 1 and len(_owners(claims)) == SLOTS

    def wait_until_ready(self, seconds: float = 20.0) -> None:
        eventually_sync(self.is_ready, seconds)

    def _views(self) -> dict[ClusterNode, View]:
        """Return the views of the servers that answer."""
        views: dict[ClusterNode, View] = {}
        for server in self.running:
            with suppress(redis.RedisError):
                views[server] = server.look()
        return views

    def _claims(self) -> dict[ClusterNode, KnownNode]:
        """Return what each server that answers says about itself."""
        return {server: view.itself for server, view in self._views().items()}

    def _followers(self, master: ClusterNode) -> list[ClusterNode]:
        return [each for each, own in self._claims().items() if own.master_id == master.id]

    # Changes

    def failover(self, replica: ClusterNode) -> None:
        """Let a replica and its master change roles, and wait until all know it."""
        replica.ask("CLUSTER", "FAILOVER")
        eventually_sync(lambda: replica in self.masters(), seconds=20)
        self.wait_until_ready()

    def move_slots(self, slots: Iterable[int], source: ClusterNode, target: ClusterNode) -> None:
        """Move slots as `redis-cli --cluster reshard` does: one by one, with their keys.

        A master that has given up its last slot becomes a replica of the target.
        """
        with self.moving(source, target) as move:
            for slot in slots:
                move.begin(slot)
                move.migrate_keys(slot)
                move.end(slot)
        self.wait_until_ready()

    @contextmanager
    def moving(self, source: ClusterNode, target: ClusterNode) -> Iterator[SlotMove]:
        """Move slots from one master to another in single steps; it waits for nothing."""
        rest = [each for each in self.masters() if each not in (source, target)]
        with ExitStack() as stack:
            clients = [stack.enter_context(each.client()) for each in (source, target, *rest)]
            yield SlotMove(source, target, clients, self._password)

    @property
    def can_migrate_slots(self) -> bool:
        """Whether the servers know CLUSTER MIGRATESLOTS: Valkey since 9.0."""
        return any(b"MIGRATESLOTS" in line for line in self.running[0].ask("CLUSTER", "HELP"))

    def migrate_slots(self, slots: Iterable[int], source: ClusterNode, target: ClusterNode) -> None:
        """Let the source move slots with CLUSTER MIGRATESLOTS, and wait until all know it."""
        earlier = _migrations(source)
        ranges = [number for each in _ranges(slots) for number in each]
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *ranges, "NODE", target.id)

        def jobs() -> list[dict[str, str]]:
            return [job for name, job in _migrations(source).items() if name not in earlier]

        def have_ended() -> bool:
            return all(job["state"] in {"success", "failed", "cancelled"} for job in jobs())

        eventually_sync(have_ended, seconds=30)
        assert [job["state"] for job in jobs()] == ["success"], jobs()
        self.wait_until_ready()

    def add_master(self) -> ClusterNode:
        """Start a master without slots, and wait until all know it."""
        server = self._make()
        known = self.running
        self.servers.append(server)
        server.start()
        for each in known:
            each.meet(server)
        self.wait_until_ready()
        return server

    def remove(self, server: ClusterNode) -> None:
        """Let the others forget a server, and stop it.

        It may be dead. It must have no slots and no replicas: a replica cannot forget its master.
        """
        assert not self.slots_of(server), "move its slots first"
        assert not self._followers(server), "remove its replicas first"
        self.servers.remove(server)
        for each in self.running:
            try:
                each.ask("CLUSTER", "FORGET", server.id)
            except redis.ResponseError as error:
                # Valkey, and Redis since 7.2, tell each other whom to forget.
                if "Unknown node" not in str(error):
                    raise
        server.kill()
        server.stop()
        self.wait_until_ready()

    # Start and end

    def __enter__(self) -> ClusterSet:
        """Start the servers, and wait until they are one cluster."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        # SIGTERM would make a master wait for replicas that are behind, up to ten seconds.
        for each in self.servers:
            each.kill()
        for each in self.servers:
            each.stop()

    def _start(self) -> None:
        for each in self.servers:
            each.start()
        for epoch, each in enumerate(self.servers, start=1):
            each.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)  # refused once it knows others
        masters = self._first_masters
        for master, slots in zip(masters, equal_ranges(len(masters)), strict=True):
            master.ask("CLUSTER", "ADDSLOTSRANGE", *slots)
        # If all met only the first, they would hear of each other a second later, by gossip.
        for one, other in combinations(self.servers, 2):
            one.meet(other)
        eventually_sync(self._have_met, seconds=20)
        for number, replica in enumerate(self.servers[len(masters) :]):
            replica.ask("CLUSTER", "REPLICATE", masters[number % len(masters)].id)
        self.wait_until_ready()

    def _have_met(self) -> bool:
        ids = {each.id for each in self.servers}
        views = self._views().values()
        return len(views) == len(ids) and all(view.nodes.keys() == ids for view in views)


@contextmanager
def cluster_set(
    masters: int = 3,
    replicas: int = 0,
    *options: str,
    password: str = "",
    program: str = "",
    conf: Path | None = None,
    node_timeout_ms: int = 2000,
    requires_full_coverage: bool = True,
) -> Iterator[ClusterSet]:
    """Start a cluster, and wait until all of it takes commands.

    Args:
        masters: How many; an automatic failover needs the votes of most of them.
        replicas: How many in all; they follow the masters in turn.
        options: For the command line of each server.
        password: The password of each server.
        program: Another server than the usual one.
        conf: A configuration file of all servers.
        node_timeout_ms: The time after which a silent server counts as failed.
        requires_full_coverage: Whether nobody takes commands while a slot has no master.
    """
    coverage = "yes" if requires_full_coverage else "no"
    own = ("--cluster-node-timeout", str(node_timeout_ms))

    def make() -> ClusterNode:
        return ClusterNode(
            *(*own, "--cluster-require-full-coverage", coverage, *options),
            program=program,
            password=password,
            conf=conf,
        )

    with ClusterSet(masters, replicas, make, password) as made:
        yield made


def equal_ranges(masters: int) -> list[tuple[int, int]]:
    """Return the first and the last slot of each master, as `redis-cli --cluster create` does."""
    ends = [round(SLOTS / masters * number) for number in range(masters + 1)]
    return [(first, after - 1) for first, after in pairwise(ends)]


def _owners(claims: Mapping[ClusterNode, KnownNode]) -> dict[int, ClusterNode]:
    """Return the owner of each slot that somebody claims."""
    owners: dict[int, ClusterNode] = {}
    for server, claim in sorted(claims.items(), key=lambda each: each[1].epoch):
        for first, last in claim.ranges:
            owners.update(dict.fromkeys(range(first, last + 1), server))
    return owners


def _ranges(slots: Iterable[int]) -> list[tuple[int, int]]:
    """Return the ranges that slots form."""
    found: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if found and slot == found[-1][1] + 1:
            found[-1] = (found[-1][0], slot)
        else:
            found.append((slot, slot))
    return found


def _migrations(server: ClusterNode) -> dict[str, dict[str, str]]:
    """Return the migrations that a server remembers, by their names."""
    jobs: dict[str, dict[str, str]] = {}
    for reply in server.ask("CLUSTER", "GETSLOTMIGRATIONS"):
        facts = _facts(reply)
        jobs[facts["name"]] = facts
    return jobs


def _facts(reply: Sequence[Any]) -> dict[str, str]:
    texts = [each.decode() if isinstance(each, bytes) else str(each) for each in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))
