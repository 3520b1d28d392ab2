"""A build on a cluster of two nodes, to be killed at: ENGINE CORPUS OUT RESUME."""

from __future__ import annotations

import sys
from pathlib import Path

from engine_world import SMALL_PARTS, build


def main() -> None:
    import govern.ids.parts
    import govern.ids.staged

    assert SMALL_PARTS == "govern.ids.parts.PART_BYTES"
    govern.ids.parts.PART_BYTES = 1_000_000
    govern.ids.staged.PAIRS_PER_RANGE = (2_000, 20_000)
    engine, corpus, out, resume = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    address = None
    if engine == "ray":
        address = two_nodes()
    elif engine == "spark":
        address = "local-cluster[2,1,1024]"
    build(corpus, out, engine, resume=resume == "1", engine_address=address)


def two_nodes() -> str:
    """A Ray cluster of two nodes on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    return str(cluster.address)


if __name__ == "__main__":
    main()
