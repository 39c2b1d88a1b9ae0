"""Resources that a run may ask of a cluster of several nodes."""

import json
import subprocess
import sys

from tests.jobs.processes import environment

# A process of its own, whose Ray ends with it.
SCRIPT = """
import json, ray
from ray.cluster_utils import Cluster
from mgray.config import ScaleConfig
from mgray.errors import InputError
from pipelines.runtime.cluster import plan_workers, room

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 2, "include_dashboard": False})
nodes.add_node(num_cpus=2)
ray.init(address=nodes.address, log_to_driver=False)

def plan(**scale):
    try:
        found = plan_workers(ScaleConfig(**scale))
    except InputError as error:
        return str(error)
    return found.label

print(json.dumps({
    "room": [room({"CPU": cpus}) for cpus in (1, 2, 3)],
    "one node's": plan(num_workers=1, cpus_per_worker=2),
    "no node's": plan(num_workers=1, cpus_per_worker=3),
    "auto": plan(num_workers=2),
    "auto of one": plan(num_workers=1),
    "gpus": plan(num_workers=2, use_gpu=True),
}))
ray.shutdown()
nodes.shutdown()
"""


def test_a_worker_does_not_span_two_nodes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["room"] == [3, 1, 0]
    assert found["one node's"] == "1 CPU worker"
    assert found["no node's"] == (
        "scale: 1 workers of 3 CPUs each do not fit the cluster's 3 on 2 nodes, 0 do; "
        "lower --scale.num_workers or --scale.cpus_per_worker, or add nodes"
    )
    assert found["auto"] == "2 CPU workers", "the two GPUs' node has one CPU"
    assert found["auto of one"] == "1 GPU worker"
    assert "2 workers of 1 CPUs and a GPU each do not fit the cluster's 3 on 2 nodes, 1 do" in found["gpus"]
