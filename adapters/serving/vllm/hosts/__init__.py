"""Hosts in vLLM, one type a file, and the mixins that they share. All of these modules import vllm."""
