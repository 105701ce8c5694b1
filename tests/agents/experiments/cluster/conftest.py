"""A Ray cluster of two nodes on this machine, for tests that run jobs there."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from agents.experiments.cluster.jobs import on_cluster
from agents.scale import cluster


@pytest.fixture(scope="package")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with a CPU each."""
    pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    patch, knock = pytest.MonkeyPatch(), cluster._knock
    # Tests reach 127.0.0.1 alone, and Ray's nodes have another address: tests/conftest.py.
    patch.setattr(cluster, "_knock", lambda where: knock(where) if "127.0.0.1" in where else None)
    both = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    both.add_node(num_cpus=1)
    try:
        yield both
    finally:
        patch.undo()
        both.shutdown()
        with warnings.catch_warnings():  # of sockets that Ray leaves open: here, and not in a test that comes after
            warnings.simplefilter("ignore")
            gc.collect()


@pytest.fixture
def ray(nodes: Any) -> Iterator[Any]:
    """The module, connected to the cluster."""
    with on_cluster(nodes.address) as ray:
        yield ray
