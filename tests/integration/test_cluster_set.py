"""The cluster that tests start (`tests.support.redis_cluster`) does what they expect of one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from realtime.core.partitions import slot_of
from realtime.core.redis_url import read_redis_url
from tests.support.redis_cluster import ClusterNode, ClusterSet, cluster_set
from tests.support.redis_server import DEBIAN, USUAL

PASSWORD = "p@:/?#%s"
SLOT = slot_of("tag")


@pytest.fixture(scope="module", params=["usual", pytest.param("system", marks=pytest.mark.redis)])
def cluster(request: pytest.FixtureRequest) -> Iterator[ClusterSet]:
    program = USUAL if request.param == "usual" else DEBIAN or "redis-server"
    with cluster_set(3, 3, password=PASSWORD, program=program) as made:
        yield made


@pytest.fixture
def owner(cluster: ClusterSet) -> ClusterNode:
    """The master of the slot."""
    found = cluster.owner_of(SLOT)
    assert found is not None
    return found


def test_the_url_has_the_password_and_all_servers(cluster: ClusterSet) -> None:
    read = read_redis_url(cluster.url)
    assert read.password == PASSWORD
    assert read.cluster == tuple(("127.0.0.1", each.port) for each in cluster.servers)


def test_a_replica_and_its_master_change_roles(cluster: ClusterSet, owner: ClusterNode) -> None:
    replica = cluster.replica_of(owner)
    cluster.failover(replica)
    assert cluster.owner_of(SLOT) is replica
    assert cluster.replica_of(replica) is owner
    assert len(cluster.masters()) == 3


def test_slots_move_with_their_keys(cluster: ClusterSet, owner: ClusterNode) -> None:
    target = next(each for each in cluster.masters() if each is not owner)
    move_back = cluster.migrate_slots if cluster.can_migrate_slots else cluster.move_slots
    with owner.client() as source, target.client() as new:
        source.mset({f"{{tag}}{number}": number for number in range(250)})
        cluster.move_slots([SLOT], owner, target)
        assert cluster.owner_of(SLOT) is target
        assert new.get("{tag}249") == b"249"
        move_back([SLOT], target, owner)
        assert cluster.owner_of(SLOT) is owner
        assert source.delete(*(f"{{tag}}{number}" for number in range(250))) == 250


def test_a_move_can_stop_half_way(cluster: ClusterSet, owner: ClusterNode) -> None:
    target = next(each for each in cluster.masters() if each is not owner)
    with owner.client() as source, cluster.moving(owner, target) as move:
        source.mset({f"{{tag}}{number}": number for number in range(10)})
        move.begin(SLOT)
        assert move.migrate_keys(SLOT, limit=4) == 4
        assert source.execute_command("CLUSTER", "COUNTKEYSINSLOT", SLOT) == 6
        assert cluster.owner_of(SLOT) is owner
        assert move.migrate_keys(SLOT) == 6
        move.end(SLOT)
    cluster.wait_until_ready()
    assert cluster.owner_of(SLOT) is target


def test_a_master_joins_and_leaves(cluster: ClusterSet, owner: ClusterNode) -> None:
    """A master that has given up its last slot follows the new owner."""
    joined = cluster.add_master()
    assert joined in cluster.masters()
    cluster.move_slots([SLOT], owner, joined)
    assert cluster.slots_of(joined) == [SLOT]
    cluster.move_slots([SLOT], joined, owner)
    assert joined not in cluster.masters()
    cluster.remove(joined)
    assert cluster.owner_of(SLOT) is owner
    assert len(cluster.servers) == 6


def test_a_killed_master_is_replaced(cluster: ClusterSet, owner: ClusterNode) -> None:
    replica = cluster.replica_of(owner)
    owner.kill()
    assert cluster.owner_of(SLOT) is None
    assert not cluster.is_ready()
    cluster.wait_until_ready()
    assert cluster.owner_of(SLOT) is replica
    owner.start()
    cluster.wait_until_ready()
    assert cluster.replica_of(replica) is owner
