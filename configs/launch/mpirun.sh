#!/usr/bin/env bash
# framefold fit with mpirun: Open MPI, MPICH or Intel MPI start the ranks, which then communicate over NCCL or gloo.
#
#   framefold launch mpirun --out mpirun.sh   # writes this file
#   NNODES=2 NPROC=8 MASTER_ADDR=10.0.0.1 bash mpirun.sh --config compressor/storm --config data/shards ...
#
# Options after mpirun.sh are passed to framefold fit; --config trainer/deepspeed selects ZeRO-2. Running the same
# command again resumes from the newest complete checkpoint in $OUT. This file, shards, host and $OUT must be accessible
# to all machines under the same paths.
#
# Variables: NNODES, NPROC (processes per machine, by default its GPUs), MASTER_ADDR (address at which the other
# machines reach that of rank 0), MASTER_PORT, HOSTFILE (of mpirun), MPIRUN_ARGS (further arguments, such as
# "-x HF_HOME" for Open MPI or "-genv HF_HOME /shared/huggingface" for MPICH, which do not pass the environment to other
# machines), OUT.
set -euo pipefail

if [ "${1:-}" = --rank ]; then # started by mpirun, below
  MASTER_ADDR="$2" MASTER_PORT="$3" NPROC="$4"
  shift 4
  RANK="${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-}}"
  WORLD_SIZE="${OMPI_COMM_WORLD_SIZE:-${PMI_SIZE:-}}"
  LOCAL_RANK="${OMPI_COMM_WORLD_LOCAL_RANK:-${MPI_LOCALRANKID:-}}"
  if [ -z "$RANK" ] || [ -z "$WORLD_SIZE" ]; then
    echo "mpirun.sh: neither OMPI_COMM_WORLD_RANK nor PMI_RANK is set: which mpirun is this?" >&2
    exit 2
  fi
  LOCAL_RANK="${LOCAL_RANK:-$((RANK % NPROC))}"
  if [ "$LOCAL_RANK" -ne "$((RANK % NPROC))" ]; then
    echo "mpirun.sh: rank $RANK is process $LOCAL_RANK of its machine: ranks must fill one machine after another" >&2
    exit 2
  fi
  GROUP_RANK="$((RANK / NPROC))"
  # Lightning looks for ranks of torchrun, SLURM, LSF and MPI (mpi4py), in this order. With this variable it uses those
  # exported here as torchrun's, even inside a SLURM allocation, whose variables describe the batch script.
  TORCHELASTIC_RUN_ID=mpirun
  export RANK WORLD_SIZE LOCAL_RANK GROUP_RANK MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID
  # export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0   # several networks: name of the fast one in "ip addr"
  # export HF_HUB_OFFLINE=1                                # machines without a network
  exec "$@"
fi

NNODES="${NNODES:-1}"
if [ "$NNODES" -gt 1 ]; then
  : "${MASTER_ADDR:?the address at which the other machines reach that of rank 0}"
fi
if [ -z "${NPROC:-}" ]; then
  NPROC="$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)"
  [ "$NPROC" -gt 0 ] || NPROC=1
fi

if mpirun --version 2>/dev/null | grep -q "Open MPI"; then
  placement=(--map-by "ppr:$NPROC:node" ${HOSTFILE:+--hostfile "$HOSTFILE"})
else
  placement=(-ppn "$NPROC" ${HOSTFILE:+-f "$HOSTFILE"})
fi
# shellcheck disable=SC2206  # several words
placement+=(${MPIRUN_ARGS:-})

if ! framefold="$(command -v framefold)"; then # absolute path: PATH may differ on other machines
  echo "mpirun.sh: framefold is not on PATH: activate its environment" >&2
  exit 2
fi
exec mpirun -np "$((NNODES * NPROC))" "${placement[@]}" \
  bash "$(realpath "$0")" --rank "${MASTER_ADDR:-127.0.0.1}" "${MASTER_PORT:-29500}" "$NPROC" \
  "$framefold" fit --config trainer/gpu "$@" \
  --trainer.num_nodes "$NNODES" --trainer.devices "$NPROC" \
  --trainer.default_root_dir "${OUT:-runs/mpirun}" --resume auto
