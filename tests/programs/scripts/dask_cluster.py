"""dask.distributed: a scheduler and two worker processes: 500 tasks, 20 MB, data moved about."""

import hashlib
import os

from dask.distributed import Client, LocalCluster

BLOB = os.urandom(20_000_000)


def successor(number: int) -> int:
    return number + 1


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    options = {"host": "127.0.0.1", "dashboard_address": None, "worker_dashboard_address": None}
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, protocol="tcp://", **options) as cluster,
        Client(cluster) as client,
    ):
        assert sum(client.gather(client.map(successor, range(500)))) == 125_250
        client.wait_for_workers(2)
        one, other = client.scheduler_info()["workers"]
        data = client.scatter(BLOB, workers=[one])
        assert client.submit(digest, data, workers=[other]).result() == digest(BLOB)
        assert len(client.gather(data)) == len(BLOB)
        processes = client.run(os.getpid)
        assert len({*processes.values(), os.getpid()}) == 3


if __name__ == "__main__":
    main()
    print("all well")
