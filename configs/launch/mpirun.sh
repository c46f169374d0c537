#!/usr/bin/env bash
# framefold fit by mpirun: Open MPI, MPICH or Intel MPI start the ranks, which then talk over NCCL or gloo.
#
#   framefold launch mpirun --out mpirun.sh   # writes this file
#   NNODES=2 NPROC=8 MASTER_ADDR=10.0.0.1 bash mpirun.sh --config compressor/storm --config data/shards ...
#
# What follows mpirun.sh goes to framefold fit; --config trainer/deepspeed there gives ZeRO-2. The same line once more
# goes on from the newest whole checkpoint in $OUT. This file, shards, host and $OUT lie where every machine sees them
# under the same path.
#
# Variables: NNODES, NPROC (processes of each machine, as a rule its GPUs), MASTER_ADDR (of the machine of rank 0, as
# the others reach it), MASTER_PORT, HOSTFILE (of mpirun), MPIRUN_ARGS (further ones, such as "-x HF_HOME" for Open MPI
# or "-genv HF_HOME /shared/huggingface" for MPICH: they do not hand on the environment to other machines), OUT.
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
    echo "mpirun.sh: rank $RANK is process $LOCAL_RANK of its machine: ranks must fill one machine after the other" >&2
    exit 2
  fi
  GROUP_RANK="$((RANK / NPROC))"
  # Lightning asks torchrun, SLURM, LSF and MPI (mpi4py) for the rank, in this order. By this it takes what follows for
  # torchrun's, also inside of a SLURM allocation, whose variables are those of the batch script.
  TORCHELASTIC_RUN_ID=mpirun
  export RANK WORLD_SIZE LOCAL_RANK GROUP_RANK MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID
  # export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0   # several networks: the fast one, as "ip addr" calls it
  # export HF_HUB_OFFLINE=1                                # machines without a network
  exec "$@"
fi

NNODES="${NNODES:-1}"
if [ "$NNODES" -gt 1 ]; then
  : "${MASTER_ADDR:?the address of the machine of rank 0, as the others reach it}"
fi
if [ -z "${NPROC:-}" ]; then
  NPROC="$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)"
  [ "$NPROC" -gt 0 ] || NPROC=1
fi

if mpirun --version 2>/dev/null | grep -q "Open MPI"; then
  placed=(--map-by "ppr:$NPROC:node" ${HOSTFILE:+--hostfile "$HOSTFILE"})
else
  placed=(-ppn "$NPROC" ${HOSTFILE:+-f "$HOSTFILE"})
fi
# shellcheck disable=SC2206  # several words
placed+=(${MPIRUN_ARGS:-})

if ! framefold="$(command -v framefold)"; then # in full: other machines may have another PATH
  echo "mpirun.sh: framefold is not on PATH: activate the environment that it is in" >&2
  exit 2
fi
exec mpirun -np "$((NNODES * NPROC))" "${placed[@]}" \
  bash "$(realpath "$0")" --rank "${MASTER_ADDR:-127.0.0.1}" "${MASTER_PORT:-29500}" "$NPROC" \
  "$framefold" fit --config trainer/gpu "$@" \
  --trainer.num_nodes "$NNODES" --trainer.devices "$NPROC" \
  --trainer.default_root_dir "${OUT:-runs/mpirun}" --resume auto
