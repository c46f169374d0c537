"""Host families, one file per ``model_type``. Every module of this folder is imported and registers itself."""
