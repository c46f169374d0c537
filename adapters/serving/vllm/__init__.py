"""Plug-in of vLLM: compressors with an exact budget, without changes to vLLM.

Outside of ``hosts``, only functions that say so import vllm.
"""
