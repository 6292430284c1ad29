"""Tools for the files of this repository."""
