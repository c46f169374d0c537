"""``save_pretrained``, ``from_pretrained`` and ``push_to_hub``, under the names that transformers and PEFT use."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar, cast

from framefold.adapters.core.budget import Budget

from .base_model import BaseModel
from .card import check_license, write_card
from .folder import SavedCompressor, load_folder, save_folder
from .hub import check_push_target, locate_adapter, push_folder

Loaded = TypeVar("Loaded", bound="PretrainedMixin")


class PretrainedMixin:
    """Saving to and loading from adapter folders and the Hub.

    ``huggingface_hub.ModelHubMixin`` has methods of the same names, but it does not replace files atomically, limit the
    size of downloads, or refuse unknown fields.

    Attributes:
        base_model: the host that the adapter was trained with, as far as it is known.
    """

    base_model: BaseModel = BaseModel()

    def save_pretrained(self, folder: str | os.PathLike[str], **fields: Any) -> None:
        """Write ``config.json`` and, if there are weights, ``model.safetensors``.

        Args:
            folder: destination; created if it does not exist.
            fields: further entries of ``config.json``.

        Raises:
            ConfigError: the adapter could not be loaded again.
            OSError: the folder cannot be written; existing files stay complete.
        """
        save_folder(cast(SavedCompressor, self), folder, self.base_model.to_config() | fields)

    @classmethod
    def from_pretrained(
        cls: type[Loaded],
        source: str | os.PathLike[str],
        budget: Budget | str | None = None,
        *,
        revision: str | None = None,
    ) -> Loaded:
        """Load an adapter written by :meth:`save_pretrained` or :meth:`push_to_hub`; no code in it is executed.

        The compressor is in eval mode, as models of transformers are: call ``train()`` before training it further.

        Args:
            source: folder, or ``user/name`` on the Hub.
            budget: overrides the saved budget.
            revision: branch, tag or commit on the Hub.

        Raises:
            AdapterFileError: no such folder, a damaged file, or a compressor that is not of this class.
            HubError: no such repository or revision, no permission, or no connection.
        """
        return cast(Loaded, load_folder(locate_adapter(source, revision), expected=cls, budget=budget))

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        tag: str | None = None,
        license: str | None = None,
        **fields: Any,
    ) -> str:
        """Upload the adapter with a model card, in one commit; the repository is created if needed.

        Args:
            repository: ``user/name``.
            private: make a new repository private.
            tag: tag of the commit, such as v1.
            license: identifier of a licence on the Hub; None: the card names no licence.
            fields: further entries of ``config.json``.

        Returns:
            URL of the commit.

        Raises:
            ConfigError: an invalid name, tag or licence.
            HubError: no permission, a tag that already exists, or a lost connection.
        """
        check_push_target(repository, tag)
        check_license(license)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **fields)
            write_card(Path(folder), repository, tag=tag, license=license)
            return push_folder(Path(folder), repository, private=private, tag=tag)
