"""The manifests of `deploy/kubernetes`: valid, confined, and like the rest of the deployment."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from notifier.env import SECRETS, VARIABLES
from notifier.listening import LINGER_SECONDS, STOP_SECONDS
from realtime.core import metrics
from tests.support.dockerfile import read
from tests.support.service import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.29", "1.34")
"""The oldest that the manifests are for, and a recent one."""
USER = int([step for step in read(ROOT / "deploy/docker/Dockerfile") if step.name == "USER"][-1]
           .rest.partition(":")[0])  # fmt: skip


def manifests() -> Iterator[Any]:
    for path in sorted(FOLDER.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            for number, found in enumerate(yaml.safe_load_all(path.read_text(encoding="utf-8"))):
                yield pytest.param(found, id=f"{path.stem}-{number}-{found['kind']}")


MANIFESTS = [each.values[0] for each in manifests()]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [found for found in MANIFESTS if found["kind"] == kind]


def named(kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in of_kind(kind) if each["metadata"]["name"] == name]
    return found


PODS = {
    found["metadata"]["name"]: found["spec"]["template"]
    for found in [*of_kind("Deployment"), *of_kind("Job")]
}


@pytest.mark.kubernetes
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", list(manifests()))
def test_a_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    """By the schemas of Kubernetes, in which every unknown field is an error."""
    import kubernetes_validate

    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.kubernetes
def test_an_unknown_field_is_an_error() -> None:
    import kubernetes_validate

    wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dat": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_kustomize_applies_each_file_except_the_example() -> None:
    text = (FOLDER / "kustomization.yaml").read_text(encoding="utf-8")
    named = set(yaml.safe_load(text)["resources"])
    files = {path.name for path in FOLDER.glob("*.yaml")}
    assert files - named == {"kustomization.yaml", "secret.example.yaml"}
    assert named <= files


@pytest.mark.parametrize("name", PODS)
def test_a_pod_satisfies_the_restricted_standard(name: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    spec = PODS[name]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == USER
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
    assert {next(iter(set(volume) - {"name"})) for volume in spec["volumes"]} == {
        "secret",
        "emptyDir",
    }
    [enforced] = [found["metadata"]["labels"] for found in of_kind("Namespace")]
    assert enforced == {"pod-security.kubernetes.io/enforce": "restricted"}


def test_the_probes_and_the_time_to_stop_are_those_of_the_service() -> None:
    spec = PODS["notifier-web"]["spec"]
    [container] = spec["containers"]
    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"]
        for name in ("liveness", "readiness", "startup")
    }
    # A node whose Redis is away must not be restarted.
    assert paths == {"liveness": "/livez", "readiness": "/readyz", "startup": "/livez"}
    *_, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert spec["terminationGracePeriodSeconds"] >= max(25, int(pause) + STOP_SECONDS)
    assert float(pause) > LINGER_SECONDS


def test_variables_and_secrets_are_those_that_the_service_reads() -> None:
    [given] = [found["data"] for found in of_kind("ConfigMap")]
    [secret] = [found["stringData"] for found in of_kind("Secret")]
    assert given.keys() <= {*VARIABLES, "FORWARDED_ALLOW_IPS"}
    files = {name: value for name, value in given.items() if name.endswith("_FILE")}
    assert {name.removesuffix("_FILE") for name in files} <= set(SECRETS)
    assert {value.rpartition("/")[2] for value in files.values()} == secret.keys()
    for template in PODS.values():
        [container] = template["spec"]["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert {value.rpartition("/")[0] for value in files.values()} == {mounts["secrets"]}


def test_the_commands_are_those_of_the_procfile() -> None:
    procfile = dict(re.findall(r"^(\w+): (.*)$", (ROOT / "Procfile").read_text("utf-8"), re.M))
    for name in ("web", "fallback", "jobs"):
        [container] = PODS[f"notifier-{name}"]["spec"]["containers"]
        assert container["args"] == shlex.split(procfile[name])


def test_pods_are_added_for_more_connections() -> None:
    [scaler] = of_kind("HorizontalPodAutoscaler")
    [metric] = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == metrics.CONNECTIONS.name
    assert named("Deployment", scaler["spec"]["scaleTargetRef"]["name"])


def test_selectors_find_the_pods() -> None:
    web = PODS["notifier-web"]["metadata"]["labels"]
    [budget] = of_kind("PodDisruptionBudget")
    for selector in (
        named("Service", "notifier")["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
        named("NetworkPolicy", "notifier")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= web.items()
    for found in of_kind("Deployment"):
        labels = found["spec"]["template"]["metadata"]["labels"]
        assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_what_is_for_monitoring_is_not_public() -> None:
    [ingress] = of_kind("Ingress")
    [rule] = ingress["spec"]["rules"]
    closed = {
        path["path"]
        for path in rule["http"]["paths"]
        if path["backend"]["service"]["name"] == "notifier-nowhere"
    }
    assert closed == {"/readyz", "/metrics"}
    selector = named("Service", "notifier-nowhere")["spec"]["selector"]
    for template in PODS.values():
        assert not selector.items() <= template["metadata"]["labels"].items()
