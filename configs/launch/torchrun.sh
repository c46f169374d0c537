#!/usr/bin/env bash
# framefold fit on several machines by torchrun: the same line on each of them, NODE_RANK apart.
#
#   framefold launch torchrun --out torchrun.sh   # writes this file
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash torchrun.sh --config compressor/storm --config data/shards ...
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 bash torchrun.sh --config compressor/storm --config data/shards ...
#
# What follows torchrun.sh goes to framefold fit; --config trainer/deepspeed there gives ZeRO-2. When a process dies,
# torchrun starts all of them again, MAX_RESTARTS times, and they go on from the newest whole checkpoint in $OUT; a
# machine that has died may come back with the same line. Shards, host and $OUT lie where every machine sees them under
# the same path.
#
# Variables: NNODES, NODE_RANK (0 is the machine of MASTER_ADDR), MASTER_ADDR, MASTER_PORT, NPROC (processes of each
# machine, as a rule its GPUs), LOCAL_ADDR (of this machine, as the others reach it: found by itself as a rule), RUN_ID
# (the same on all), MAX_RESTARTS, OUT.
set -euo pipefail

NNODES="${NNODES:-1}"
NODE_RANK="${NODE_RANK:-0}"
MASTER_PORT="${MASTER_PORT:-29500}"
if [ "$NNODES" -gt 1 ]; then
  : "${MASTER_ADDR:?the address of machine 0, as the others reach it}"
fi
MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
if [ -z "${NPROC:-}" ]; then
  NPROC="$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)"
  [ "$NPROC" -gt 0 ] || NPROC=1
fi

# Machines without a network: fetch hosts beforehand into a cache that all of them see.
# export HF_HOME=/shared/huggingface HF_HUB_OFFLINE=1
# Several networks, or a machine whose own name leads to 127.0.0.1 or 127.0.1.1 (getent hosts "$(hostname)"): name the
# interface, as "ip addr" calls it. Without it gloo listens there, and the others wait for it in vain.
# export NCCL_SOCKET_IFNAME=eth0 GLOO_SOCKET_IFNAME=eth0

# The address that this machine has on the way to machine 0 (connecting by UDP sends nothing).
LOCAL_ADDR="${LOCAL_ADDR:-$(python3 -c 'import socket, sys
family, kind, _, _, address = socket.getaddrinfo(sys.argv[1], 1, type=socket.SOCK_DGRAM)[0]
way = socket.socket(family, kind)
way.connect(address)
print(way.getsockname()[0])' "$MASTER_ADDR")}"

# Otherwise processes that are started again meet in the store of those that died, and wait for ever (torch 2.13:
# https://github.com/pytorch/pytorch/issues/135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# torchrun tells by names and addresses whether it is machine 0, which containers and aliases defeat: is_host says it.
is_host=false
[ "$NODE_RANK" -ne 0 ] || is_host=true

exec torchrun --nnodes "$NNODES" --nproc-per-node "$NPROC" \
  --rdzv-backend c10d --rdzv-endpoint "$MASTER_ADDR:$MASTER_PORT" --rdzv-conf "is_host=$is_host" \
  --local-addr "$LOCAL_ADDR" --rdzv-id "${RUN_ID:-framefold}" --max-restarts "${MAX_RESTARTS:-3}" \
  --no-python framefold fit --config trainer/gpu "$@" \
  --trainer.num_nodes "$NNODES" --trainer.devices "$NPROC" \
  --trainer.default_root_dir "${OUT:-runs/torchrun}" --resume auto
