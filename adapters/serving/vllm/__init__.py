"""Plug-in of vLLM: every query-agnostic compressor with an exact budget, without changes to vLLM.

Only modules named after a host, and functions that say so, import vllm.
"""
