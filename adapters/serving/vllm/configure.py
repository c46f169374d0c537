"""Completes the configuration of a server, and refuses what cannot be served before any weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.pretrained.base_model import BaseModel, hub_snapshot
from framefold.errors import ServingError, WrongHostError

from .self_check import check_engine
from .settings import KEY, ServingSettings

# It switches the engine's treatment of shortened videos on; the number of tokens is that of the compressor.
PRUNING_SWITCH = 0.5


class HostConfiguration:
    """What the engine calls for an architecture of ours; see ``VerifyAndUpdateConfig`` of vLLM.

    Attributes:
        model_type: of the hosts that the architecture can serve.
    """

    model_type: ClassVar[str]

    @classmethod
    def verify_and_update_model_config(cls, model_config: Any) -> None:
        """Check the settings of framefold, and switch on what they need.

        Raises:
            ServingError: the settings, the compressor or the host cannot be served.
            WrongHostError: the adapter was trained in another host.
            FramefoldError: the settings are invalid, or the compressor cannot be loaded.
        """
        hf_config, media = model_config.hf_config, model_config.multimodal_config
        if hf_config.model_type != cls.model_type:
            raise ServingError(
                f"{hf_config.architectures[0]} serves hosts of type {cls.model_type}, this is {hf_config.model_type!r}"
            )
        check_engine(cls.model_type)
        if media is None:
            raise ServingError("the engine has switched off images and videos, so there is nothing to compress")
        if getattr(media, "enable_mm_embeds", False):
            raise ServingError("embeddings of media cannot be passed to a compressed host: drop --enable-mm-embeds")
        if getattr(media, "mm_encoder_tp_mode", None) == "data":
            raise ServingError('--mm-encoder-tp-mode data is not tested with compressors: use "weights"')
        settings, compressor = ServingSettings.of(hf_config).beside(Path(model_config.model)).resolved()
        if not settings.allow_other_host:
            check_served_host(compressor, model_config)
        cls.set_positions(hf_config, settings)
        setattr(hf_config, KEY, settings.to_dict())
        if not media.video_pruning_rate:
            media.video_pruning_rate = PRUNING_SWITCH

    @classmethod
    def verify_and_update_config(cls, vllm_config: Any) -> None:
        """Refuse ways to run the engine that are not tested.

        Raises:
            ServingError: the message names the option.
        """
        parallel = getattr(vllm_config, "parallel_config", None)
        for used, option in (
            (getattr(vllm_config, "speculative_config", None) is not None, "speculative decoding"),
            (getattr(parallel, "pipeline_parallel_size", 1) > 1, "pipeline parallelism"),
            (getattr(vllm_config, "kv_transfer_config", None) is not None, "a shared KV store"),
            (getattr(vllm_config, "ec_transfer_config", None) is not None, "a separate or shared encoder"),
        ):
            if used:
                raise ServingError(f"compressors are not tested with {option}: serve without it")

    @classmethod
    def set_positions(cls, hf_config: Any, settings: ServingSettings) -> None:
        """Prepare the host for the positions that the settings ask for."""
        raise NotImplementedError


class AxesConfiguration(HostConfiguration):
    """Hosts whose tokens have positions in time, height and width.

    Attributes:
        positions: the rules of positions that are served.
    """

    positions: ClassVar[tuple[str, ...]] = ("preserve",)

    @classmethod
    def set_positions(cls, hf_config: Any, settings: ServingSettings) -> None:
        if settings.positions not in cls.positions:
            known = " or ".join(map(repr, cls.positions))
            raise ServingError(f"positions={settings.positions!r}: {cls.model_type} is served with {known} only")


class LineConfiguration(HostConfiguration):
    """Hosts whose tokens are numbered one after the other.

    The engine has no gaps in such positions, but it has them on three axes. Three equal axes are plain rotary
    positions, so that is what the host gets.
    """

    @classmethod
    def set_positions(cls, hf_config: Any, settings: ServingSettings) -> None:
        if settings.positions == "all_axes":
            raise ServingError(f"positions='all_axes': the positions of {cls.model_type} have one axis")
        if settings.positions == "compact":
            return
        text = hf_config.get_text_config()
        rope = dict(getattr(text, "rope_parameters", None) or {})
        kind = rope.get("rope_type", "default")
        if kind != "default":
            raise ServingError(
                f"positions='preserve' need plain rotary positions, this host has {kind!r}: use positions='compact'"
            )
        half = (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads) // 2
        third = half // 3
        text.rope_parameters = rope | {"mrope_section": [half - 2 * third, third, third]}  # any parts with this sum


def check_served_host(compressor: Compressor, model_config: Any) -> None:
    """Refuse a host other than the one that an adapter was trained in, as ``framefold.attach`` does.

    Raises:
        WrongHostError: the hosts differ in kind, width, Hub id or weights.
    """
    name, hf_config = str(model_config.model), model_config.hf_config
    folder = Path(name) if Path(name).is_dir() else None
    if folder is not None:
        hub_id, revision = hub_snapshot(name) or (None, None)
    else:
        hub_id, revision = name, getattr(hf_config, "_commit_hash", None)
    width = int(hf_config.get_text_config().hidden_size)
    host = BaseModel(hub_id, revision, str(hf_config.model_type), width)
    problem = compressor.base_model.difference(host, folder)
    if problem is not None:
        raise WrongHostError(
            f"{compressor.name} is an adapter that was trained in {problem}:"
            ' set "allow_other_host": true in the settings of framefold to serve it anyway'
        )
