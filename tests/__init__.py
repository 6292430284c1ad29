"""Tests; most run over the registries of methods and backbones."""
