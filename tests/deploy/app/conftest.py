"""One model for the tests of a module, loaded once."""

import pytest

from deploy.app.counters import Counters
from deploy.app.model import Model
from handler.service import Service


@pytest.fixture(scope="module")
def model(build_once) -> Model:
    return Model(build_once("openvino-int8"))


@pytest.fixture(scope="module")
def counted() -> Counters:
    return Counters()


@pytest.fixture(scope="module")
def service(model: Model, counted: Counters) -> Service:
    return model.load(counted)
