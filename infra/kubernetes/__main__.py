"""Manifests for Kubernetes, printed: python -m infra.kubernetes pool | standing | training.

python -m infra.kubernetes standing --cluster cluster.yaml | kubectl apply -f -
python -m infra.kubernetes pool --cluster cluster.yaml > pool.json
python -m infra.kubernetes training /data/artifacts/checkpoint/77e1…/.job.json --nodes 4 --cluster cluster.yaml
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import yaml
from pydantic import TypeAdapter, ValidationError

from infra.kubernetes.cluster import Cluster, Name
from infra.kubernetes.training import training
from infra.kubernetes.worker import standing

POOL = "kubernetes"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one sentence for a value that is wrong."""
    asked = _parser().parse_args(arguments)
    try:
        print(_rendered(asked), end="")
    except (ValueError, OSError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2
    return 0


def read_cluster(path: Path) -> Cluster:
    """The values of a YAML file.

    Raises:
        ValueError: for a value that is wrong or unknown.
        FileNotFoundError: if there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no cluster's values in {path}. Begin with infra/kubernetes/cluster.yaml.")
    try:
        return Cluster.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None


def _rendered(asked: argparse.Namespace) -> str:
    cluster = read_cluster(asked.cluster)
    if asked.what == "pool":
        from infra.kubernetes.pool import base_job_template  # imports Prefect, which takes seconds

        return json.dumps(base_job_template(cluster), indent=2) + "\n"
    if asked.what == "standing":
        manifests = standing(cluster, POOL)
    else:
        name = TypeAdapter(Name).validate_python(asked.name)
        manifests = training(cluster, name, PurePosixPath(asked.job), asked.nodes)
    return yaml.safe_dump_all(manifests, sort_keys=False, explicit_start=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.kubernetes", description="Manifests, printed.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--cluster", type=Path, default=Path("cluster.yaml"), help="values of the cluster")
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("standing", parents=[common], help="claim, permissions and Prefect's worker, to apply once")
    what.add_parser("pool", parents=[common], help="base job template of the work pool, as JSON")
    one = what.add_parser("training", parents=[common], help="Service and indexed Job of a training on several nodes")
    one.add_argument("job", help=".job.json of the checkpoint's folder, as pods see it")
    one.add_argument("--nodes", type=int, required=True)
    one.add_argument("--name", default="dora-training", help="of the Job and the Service")
    return parser


def _sentence(error: ValueError | OSError) -> str:
    """Every wrong value with its path, for pydantic's errors."""
    if not isinstance(error, ValidationError):
        return str(error)
    places = [(".".join(str(part) for part in one["loc"]) or "value", one["msg"]) for one in error.errors()]
    return "; ".join(f"{place}: {message}" for place, message in places)


if __name__ == "__main__":
    sys.exit(main())
