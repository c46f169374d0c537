"""The scripts of framefold launch start training as documented, on a simulated cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from framefold import configs
from framefold.__main__ import main
from framefold.cli.launch import TEMPLATES
from tests.support.limits import HANG
from tests.support.ports import free_port
from tests.support.ranks.clusters import STEPS, Cluster
from tests.support.weights import relative_differences

SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_JOB_NAME": "framefold",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_CPUS_PER_TASK": "1",
    "SLURM_NODELIST": "localhost",
}
TWO = {"NNODES": "2", "NPROC": "1", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, random_host: Path, shards: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster") / "shared", random_host, shards)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> dict[str, torch.Tensor]:
    """Final weights of a run with mpirun in a SLURM allocation, whose variables describe a single task."""
    cluster.start(
        "mpirun", out="mpi", MASTER_PORT=str(free_port()), **TWO, **SLURM, SLURM_PROCID="0", SLURM_LOCALID="0"
    )
    assert cluster.wait() == [0], cluster.log("mpi")
    return cluster.last("mpi")["state_dict"]


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(value.equal(theirs[name]) for name, value in ours.items())


@pytest.mark.timeout(HANG)
def test_mpirun_on_two_machines_trains_like_one_process(cluster, undisturbed, monkeypatch) -> None:
    for rank in (0, 1):
        (record,) = cluster.records("mpi", rank)
        assert record["rank"] == [rank, 0, rank, 2] and record["environment"] == "TorchElasticEnvironment"
        assert record["strategy"] == "DDPStrategy" and record["step"] == 0
    monkeypatch.setattr(sys, "argv", ["framefold"])
    args = cluster.arguments("--data.batch_size", "2", "--trainer.default_root_dir", str(cluster.folder / "one"))
    assert main(["fit", *args]) == 0
    expected = cluster.last("one")["state_dict"]
    start = {name: torch.zeros_like(value) for name, value in expected.items()}  # where FiLA starts
    differences = relative_differences(start, expected, undisturbed)
    assert max(differences.values()) < 1e-4, differences


@pytest.mark.timeout(HANG)
def test_torchrun_restarts_after_a_kill_and_ends_with_the_same_weights(cluster, undisturbed) -> None:
    environment = {**TWO, "MASTER_PORT": str(free_port()), "FRAMEFOLD_TEST_AT": "1 6 KILL"}
    for node in ("0", "1"):
        cluster.start("torchrun", "--last.every", "4", out="torchrun", NODE_RANK=node, **environment)
    assert cluster.wait() == [0, 0], cluster.log("torchrun")
    for rank in (0, 1):
        first, second = cluster.records("torchrun", rank)
        assert (first["step"], second["step"]) == (0, 4)
        assert first["rank"] == second["rank"] == [rank, 0, rank, 2]
        assert first["environment"] == "TorchElasticEnvironment"
    last = cluster.last("torchrun")
    assert last["global_step"] == STEPS and equal(last["state_dict"], undisturbed)


@pytest.mark.timeout(HANG)
def test_a_slurm_job_is_saved_and_requeued_and_ends_with_the_same_weights(cluster, undisturbed) -> None:
    rare = ["--last.every", "1000"]  # so that the signal causes the only checkpoint
    job = {**SLURM, "MASTER_PORT": str(free_port()), "FRAMEFOLD_TEST_AT": "1 5 USR1"}
    cluster.start("slurm", *rare, out="slurm", **job)
    assert cluster.wait() == [1], cluster.log("slurm")
    assert (cluster.folder / "slurm" / "records" / "scontrol").read_text() == "requeue 4242\n"
    assert cluster.last("slurm")["global_step"] == 6
    cluster.start("slurm", *rare, out="slurm", SLURM_RESTART_COUNT="1", **job)
    assert cluster.wait() == [0], cluster.log("slurm")
    for rank in (0, 1):
        first, second = cluster.records("slurm", rank)
        assert first["environment"] == second["environment"] == "SLURMEnvironment"
        assert first["rank"] == second["rank"] == [rank, 0, rank, 2]
        assert (first["step"], second["step"]) == (0, 6)
    last = cluster.last("slurm")
    assert last["global_step"] == STEPS and equal(last["state_dict"], undisturbed)
    assert not list((cluster.folder / "slurm").glob("hpc_ckpt*"))  # Lightning writes it in the middle of a step


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_written_but_overwrites_no_file(name: str, tmp_path: Path, capsys, monkeypatch) -> None:
    file = tmp_path / "mine"
    assert main(["launch", name, "--out", str(file)]) == 0
    packaged = Path(configs.__file__).parent / TEMPLATES[name]
    assert file.read_text() == packaged.read_text() and file.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(file)], timeout=HANG).returncode == 0
    capsys.readouterr()
    assert main(["launch", name]) == 0
    assert capsys.readouterr().out == packaged.read_text()
    file.write_text("adapted")
    assert main(["launch", name, "--out", str(file)]) == 2
    assert "--overwrite" in capsys.readouterr().err and file.read_text() == "adapted"
    assert main(["launch", name, "--out", str(file), "--overwrite"]) == 0
    assert file.read_text() == packaged.read_text()
    assert main(["launch", name, "--out", str(tmp_path)]) == 2
    assert main(["launch", name, "--out", str(tmp_path / "none" / "x")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_sbatch_reads_every_option_of_the_job() -> None:
    lines = (Path(configs.__file__).parent / TEMPLATES["slurm"]).read_text().splitlines()
    first = next(
        i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")
    )  # sbatch reads no further
    options = [line.removeprefix("#SBATCH ") for line in lines[:first] if line.startswith("#SBATCH ")]
    assert len(options) == sum("#SBATCH" in line for line in lines)
    assert {"--signal=SIGUSR1@90", "--requeue", "--open-mode=append", "--ntasks-per-node=8"} <= set(options)


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({}, "neither OMPI_COMM_WORLD_RANK nor PMI_RANK"),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, "one machine"),
        (
            {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 GROUP_RANK=1 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500",
        ),
        (
            {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0"},
            "RANK=2 WORLD_SIZE=4 LOCAL_RANK=0 GROUP_RANK=1 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500",
        ),
        (
            {"PMI_RANK": "3", "PMI_SIZE": "4"},
            "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 GROUP_RANK=1 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500",
        ),
    ],
)
def test_ranks_of_open_mpi_and_mpich_become_ranks_of_torch(variables: dict[str, str], text: str) -> None:
    script = Path(configs.__file__).parent / TEMPLATES["mpirun"]
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"]
    show = "echo " + " ".join(f"{name}=${name}" for name in names)
    words = ["bash", str(script), "--rank", "10.0.0.1", "29500", "2", "bash", "-c", show]
    env = {"PATH": "/usr/bin:/bin", **variables}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=HANG)
    assert text in done.stdout + done.stderr
    assert done.returncode == (0 if text.startswith("RANK") else 2)


@pytest.mark.parametrize("name", ["torchrun", "mpirun"])
def test_several_machines_need_an_address(name: str) -> None:
    script = Path(configs.__file__).parent / TEMPLATES[name]
    env = {"PATH": "/usr/bin:/bin", "NNODES": "2"}
    done = subprocess.run(["bash", str(script)], env=env, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 1 and "MASTER_ADDR: the address at which" in done.stderr
