"""The old place of mgray.serve.request; see mgray/recommend.py."""

from mgray.serve.request import Lists, id_list

__all__ = ["Lists", "id_list"]
