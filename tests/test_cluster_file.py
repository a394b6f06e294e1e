"""The cluster file is one that Ray accepts, checked without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.ray


def test_ray_accepts_the_cluster_file_and_would_refuse_an_unknown_key():
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (Path(__file__).parents[1] / "ray-cluster.yaml").read_text("utf-8")
    validate_config(prepare_config(yaml.safe_load(text)))
    with pytest.raises(Exception, match="unheard_of"):
        validate_config(prepare_config({**yaml.safe_load(text), "unheard_of": 1}))
