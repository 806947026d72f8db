"""A registry to try things on, its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.toys import copy_registry, make_registry
from tests.toy_models import toy_world


@pytest.fixture(scope="session")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the signing key is."""
    return tmp_path_factory.mktemp("configuration")


@pytest.fixture(scope="session")
def registry_template(tmp_path_factory: pytest.TempPathFactory, configuration: Path) -> Path:
    with toy_world(configuration):
        return make_registry(tmp_path_factory.mktemp("template") / "registry")


@pytest.fixture(autouse=True)
def toys(configuration: Path) -> Iterator[None]:
    with toy_world(configuration):
        yield


@pytest.fixture
def workspace(registry_template: Path, tmp_path: Path) -> Path:
    """Four versions (see `tests.registry.toys.SKILLS`), no champion."""
    return copy_registry(registry_template, tmp_path / "workspace")
