#!/usr/bin/env bash
# framefold fit with torchrun on one or several machines: the same command on each of them, except for NODE_RANK.
#
#   framefold launch torchrun --out torchrun.sh   # writes this file
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash torchrun.sh --config compressor/storm --config data/shards ...
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 bash torchrun.sh --config compressor/storm --config data/shards ...
#
# Options after torchrun.sh are passed to framefold fit; --config trainer/deepspeed selects ZeRO-2. When a process dies,
# torchrun restarts all of them, up to MAX_RESTARTS times, and they resume from the newest complete checkpoint in $OUT;
# a machine that died may rejoin with the same command. Shards, host and $OUT must be accessible to all machines under
# the same paths.
#
# Variables: NNODES, NODE_RANK (0 for the machine of MASTER_ADDR), MASTER_ADDR, MASTER_PORT, NPROC (processes per
# machine, by default its GPUs), LOCAL_ADDR (address at which the others reach this machine, usually found
# automatically), RUN_ID (the same on all machines), MAX_RESTARTS, OUT.
set -euo pipefail

NNODES="${NNODES:-1}"
NODE_RANK="${NODE_RANK:-0}"
MASTER_PORT="${MASTER_PORT:-29500}"
if [ "$NNODES" -gt 1 ]; then
  : "${MASTER_ADDR:?the address at which the other machines reach machine 0}"
fi
MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
if [ -z "${NPROC:-}" ]; then
  NPROC="$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)"
  [ "$NPROC" -gt 0 ] || NPROC=1
fi

# Machines without a network: download hosts beforehand to a cache that all machines can access.
# export HF_HOME=/shared/huggingface HF_HUB_OFFLINE=1
# Several networks, or a machine whose own name resolves to 127.0.0.1 or 127.0.1.1 (getent hosts "$(hostname)"): set the
# name of the interface in "ip addr". Otherwise gloo listens on that address, where the other machines cannot reach it.
# export NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0

# The address of this machine on the route to machine 0 (connecting a UDP socket sends nothing).
LOCAL_ADDR="${LOCAL_ADDR:-$(python3 -c 'import socket, sys
family, kind, _, _, address = socket.getaddrinfo(sys.argv[1], 1, type=socket.SOCK_DGRAM)[0]
connection = socket.socket(family, kind)
connection.connect(address)
print(connection.getsockname()[0])' "$MASTER_ADDR")}"

# Otherwise restarted processes meet in the store of those that died, and wait forever (torch 2.13:
# https://github.com/pytorch/pytorch/issues/135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# torchrun decides by names and addresses whether it is machine 0, which fails with containers and aliases; is_host sets
# it.
is_host=false
[ "$NODE_RANK" -ne 0 ] || is_host=true

exec torchrun --nnodes "$NNODES" --nproc-per-node "$NPROC" \
  --rdzv-backend c10d --rdzv-endpoint "$MASTER_ADDR:$MASTER_PORT" --rdzv-conf "is_host=$is_host" \
  --local-addr "$LOCAL_ADDR" --rdzv-id "${RUN_ID:-framefold}" --max-restarts "${MAX_RESTARTS:-3}" \
  --no-python framefold fit --config trainer/gpu "$@" \
  --trainer.num_nodes "$NNODES" --trainer.devices "$NPROC" \
  --trainer.default_root_dir "${OUT:-runs/torchrun}" --resume auto
