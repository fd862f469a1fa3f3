"""No cluster and no Prometheus run where tests run, so what can be known of deploy/ without them is held here."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml

from tests.house.sources import ROOT, document, first_cells, modules, section
from tidemill.models.settings import Settings
from tidemill.worker.exporter import Queue, TidemillCollector
from tidemill.worker.fleet import Fleet
from tidemill.worker.stopping import AFTER_DRAIN_SECONDS, FROZEN_SECONDS

DEPLOY = ROOT / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "tidemill.json").read_text("utf-8"))
RULES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"][0][
    "rules"
]
KUBERNETES = DEPLOY / "kubernetes"
NOT_APPLIED = {"secret.example.yaml", "scaledobject.yaml"}
"""A secret of one's own, and what needs KEDA."""
OPERATING = document("docs/operating.md")
OF_GRAFANA = {"$__rate_interval": "5m", "$provider": ".*"}


def dashboard_expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in OF_GRAFANA.items():
                expression = expression.replace(variable, value)
            yield expression


EXPRESSIONS = [*dashboard_expressions(), *(rule["expr"] for rule in RULES)]


def collected() -> dict[str, set[str]]:
    """Family -> the names of its labels."""
    collector = TidemillCollector(Fleet(), Queue())
    return {family.name: set(getattr(family, "_labelnames", ())) for family in collector.collect()}


def of_expression(expression: str) -> set[tuple[str, frozenset[str]]]:
    """The metrics that an expression names, each with the labels that it looks at."""
    parsed = promql_parser.parse(expression)
    selectors: set[tuple[str, frozenset[str]]] = set()

    def visit(node: object) -> bool:
        selector = getattr(node, "vector_selector", node)
        if isinstance(selector, promql_parser.VectorSelector):
            selectors.add((selector.name or "", frozenset(each.name for each in selector.matchers.matchers)))
        return True

    promql_parser.walk(parsed, visit)
    return selectors


@pytest.mark.usefixtures("embedded_home")
def test_every_expression_parses_and_names_only_what_there_is() -> None:
    families = collected()
    assert "tidemill_queue_rows" in families
    for expression in EXPRESSIONS:
        selectors = of_expression(expression)
        assert selectors, expression
        for name, labels in selectors:
            family = re.sub(r"_(total|bucket|count|sum)$", "", name)
            assert family in families, expression
            assert labels <= families[family] | {"le"}, expression
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"(?:by|on) \(([^)]*)\)", expression))))
        assert grouped <= {"le"}.union(*families.values()), expression


def test_the_queue_is_the_same_in_every_pod_so_nobody_adds_it_up() -> None:
    of_queue = re.compile(
        r"\bsum[^(]*\((?:\w+ )?\(?tidemill_(queue_rows|batches_on_hold|oldest_due|workers|database_up)"
    )
    assert [each for each in EXPRESSIONS if of_queue.search(each)] == []


@pytest.mark.usefixtures("embedded_home")
def test_every_metric_is_explained() -> None:
    named = {name for cell in first_cells(section(OPERATING, "### Metrics")) for name in re.findall(r"`(\w+)`", cell)}
    assert {re.sub(r"_total$", "", name) for name in named} == collected().keys()


def test_every_alert_says_what_to_do_here_and_in_the_manual() -> None:
    for rule in RULES:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert promql_parser.parse_duration(rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert len(rule["annotations"]["description"].split()) > 12, rule["alert"]
    assert [cell.strip("`") for cell in first_cells(section(OPERATING, "### Alerts"))] == [r["alert"] for r in RULES]


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 10
    assert all(panel["title"] and panel["targets"] and panel["gridPos"] for panel in panels)
    assert {each["name"] for each in DASHBOARD["templating"]["list"]} == {"datasource", "provider"}


# --- the log ---


def events() -> set[str]:
    """Names of all events that our code logs."""
    named: set[str] = set()
    for module in modules():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call):
                continue
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function == "note" and len(node.args) > 1:
                named |= {each.value for each in ast.walk(node.args[1]) if isinstance(each, ast.Constant)}  # type: ignore[misc]
            if function == "say":
                named |= {each.value.value for each in node.keywords if each.arg == "event"}  # type: ignore[attr-defined]
    return named | {"library", "starting"}


def test_every_line_of_the_log_is_explained() -> None:
    cells = first_cells(section(OPERATING, "### The log"))
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == events()


# --- Kubernetes ---


@cache
def manifests() -> dict[str, dict[str, Any]]:
    return {path.name: yaml.safe_load(path.read_text("utf-8")) for path in sorted(KUBERNETES.glob("*.yaml"))}


def test_manifests_are_what_kubernetes_takes() -> None:
    checked = 0
    for name, manifest in manifests().items():
        if not manifest["apiVersion"].startswith(("keda.sh/", "kustomize.")):
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
            checked += 1
        assert manifest.get("metadata", {"name": name})["name"]
    assert checked == 6


def test_the_kustomization_names_every_manifest_that_is_to_be_applied() -> None:
    kustomization = manifests()["kustomization.yaml"]
    assert set(kustomization["resources"]) == manifests().keys() - NOT_APPLIED - {"kustomization.yaml"}
    assert kustomization["images"][0]["name"] == container("worker.yaml")["image"] == container("migrate.yaml")["image"]


def container(name: str) -> dict[str, Any]:
    (only,) = manifests()[name]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_settings_are_real_ones_and_the_port_is_the_same_everywhere() -> None:
    configured, secret = manifests()["configuration.yaml"]["data"], manifests()["secret.example.yaml"]["stringData"]
    assert configured.keys() | secret.keys() <= {field.validation_alias for field in Settings.model_fields.values()}
    assert {"OPENAI_API_KEY", "TIDEMILL_DATABASE_URL", "TIDEMILL_BROKER_URL"} <= secret.keys()
    worker, port = container("worker.yaml"), int(configured["TIDEMILL_METRICS_PORT"])
    assert [each["containerPort"] for each in worker["ports"]] == [port]
    assert manifests()["service.yaml"]["spec"]["ports"][0]["port"] == port
    assert (
        worker["startupProbe"]["httpGet"]
        == worker["livenessProbe"]["httpGet"]
        == {"path": "/healthz", "port": "metrics"}
    )
    assert container("migrate.yaml")["args"] == ["db", "upgrade"]


def test_a_stopped_pod_has_time_to_drain_and_to_end_by_itself() -> None:
    drain = float(manifests()["configuration.yaml"]["data"]["TIDEMILL_DRAIN_SECONDS"])
    grace = manifests()["worker.yaml"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= drain + AFTER_DRAIN_SECONDS + FROZEN_SECONDS + 5


@pytest.mark.parametrize("name", ["worker.yaml", "migrate.yaml"])
def test_pods_have_no_privileges(name: str) -> None:
    pod, only = manifests()[name]["spec"]["template"]["spec"], container(name)
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "a service called tidemill-... would set variables TIDEMILL_..."
    assert only["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert only["securityContext"]["readOnlyRootFilesystem"]
    assert {each["mountPath"] for each in only["volumeMounts"]} == {"/data", "/tmp"}
    assert only["resources"]["limits"]["memory"] and "cpu" not in only["resources"]["limits"]


@pytest.mark.usefixtures("embedded_home")
def test_the_worker_is_scaled_by_a_metric_that_there_is() -> None:
    scaled = manifests()["scaledobject.yaml"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == manifests()["worker.yaml"]["metadata"]["name"]
    assert 1 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"], "the workers serve the metric themselves"
    (trigger,) = scaled["triggers"]
    assert trigger["type"] == "prometheus" and float(trigger["metadata"]["threshold"]) > 0
    assert {name for name, _ in of_expression(trigger["metadata"]["query"])} <= collected().keys()


def test_nothing_in_deploy_is_a_secret() -> None:
    for path in (each for each in DEPLOY.rglob("*") if each.is_file()):
        assert not re.search(r"sk-\w{8}|AKIA\w{8}", Path(path).read_text("utf-8")), path.name
