"""Dashboards, alerts and the stack's configuration, held against the programs that read them and against `names`."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from backends import program
from panels import ALERTS, NAMES, ROOT, load, panels, queries

from tracedthread import names
from tracedthread.layout import SECTION_NAMES
from tracedthread.prometheus import family_name
from tracedthread.recorder_thread import LOSSES

yaml = pytest.importorskip("yaml")

STACK = ROOT / "dashboards" / "stack"
RUNBOOKS = ROOT / "docs" / "runbooks"
DATASOURCES = {"prometheus": "prometheus", "tempo": "tempo", "pyroscope": "grafana-pyroscope-datasource"}
needs_sdk = pytest.mark.skipif(
    not find_spec("grafana_foundation_sdk"), reason="grafana-foundation-sdk is not installed: make test has it"
)


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8")))


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def known_series() -> dict[str, set[str]]:
    """Every series that we give, with its own labels."""
    found: dict[str, set[str]] = {}
    for metric in names.METRICS:
        labels = {name.replace(".", "_") for name in metric.attributes}
        name = family_name(metric)
        if metric.kind == "histogram":
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[f"{name}_total" if metric.kind == "counter" else name] = labels
    return found


# -- dashboards ---------------------------------------------------------------------------------------------------------


@needs_sdk
@pytest.mark.parametrize("name", NAMES)
def test_the_json_is_what_the_python_makes(name: str) -> None:
    from dashboards.build import DASHBOARDS, FOLDER, render

    assert sorted(DASHBOARDS) == NAMES
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == render(name), "python -m dashboards.build"


@needs_sdk
@pytest.mark.parametrize("name", NAMES)
def test_the_json_is_a_dashboard_by_grafanas_schema(name: str) -> None:
    """Read by the types that Grafana generates of its schema: what these do not know would be lost on the way."""
    import json

    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    written = load(name)
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(written))) == written


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_says_what_to_do(name: str) -> None:
    dashboard = load(name)
    ids = [panel["title"] for panel in panels(dashboard)]
    assert len(ids) == len(set(ids))
    for panel in panels(dashboard):
        assert re.fullmatch(r"[A-Z].{30,}[.]", panel["description"]), panel["title"]
        assert panel["targets"], panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_panels_lie_beside_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in load(name)["panels"]:
        at = panel["gridPos"]
        assert at["x"] >= 0 and at["x"] + at["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_datasources_are_those_that_are_provisioned() -> None:
    provisioned = yaml.safe_load((STACK / "grafana" / "datasources.yaml").read_text(encoding="utf-8"))["datasources"]
    assert {source["uid"]: source["type"] for source in provisioned} == DATASOURCES
    assert {query.datasource for query in queries()} <= set(DATASOURCES)
    by_uid = {source["uid"]: source["jsonData"] for source in provisioned if "jsonData" in source}
    assert by_uid["prometheus"]["exemplarTraceIdDestinations"] == [{"name": "trace_id", "datasourceUid": "tempo"}]
    assert by_uid["tempo"]["tracesToProfiles"]["datasourceUid"] == "pyroscope"


# -- names --------------------------------------------------------------------------------------------------------------


def expressions() -> list[str]:
    asked = [query.text for query in queries() if query.datasource == "prometheus"]
    asked += [rule["expr"] for rule in alerts()]
    for name in NAMES:
        asked += [variable["query"] for variable in load(name)["templating"]["list"]]
    return asked


def test_every_name_is_one_that_we_give() -> None:
    series = known_series()
    words = set(series) | set().union(*series.values())
    used = {word for text in expressions() for word in re.findall(r"\btracedthread_\w+", text)}
    assert used - words == set()
    assert used & set(series)


def test_labels_fit_the_series_that_they_select() -> None:
    series = known_series()
    for text in expressions():
        for name, matchers in re.findall(r"\b(tracedthread_\w+)\{([^}]*)\}", text):
            labels = set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', matchers))
            assert labels <= series[name] | {"job", "instance"}, text


def test_spans_are_selected_by_names_that_we_give() -> None:
    (traceql,) = [query.text for query in queries() if query.datasource == "tempo"]
    assert traceql == f'{{ name = "{names.SPAN}" && span.{names.LOCK_NAME} = "$lock" }}'


# -- alerts -------------------------------------------------------------------------------------------------------------


def test_promtool_accepts_the_alerts_and_their_tests_pass() -> None:
    checked = run(program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tests = ALERTS.with_name("tracedthread_test.yaml")
    tested = run(program("promtool"), "test", "rules", tests.name, cwd=tests.parent)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested_for_firing_and_for_silence() -> None:
    cases = yaml.safe_load(ALERTS.with_name("tracedthread_test.yaml").read_text(encoding="utf-8"))["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    for rule in alerts():
        outcomes = {bool(check.get("exp_alerts")) for check in checks if check["alertname"] == rule["alert"]}
        assert outcomes == {True, False}, rule["alert"]


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        page = ROOT / rule["annotations"]["runbook_url"]
        assert page == RUNBOOKS / f"{rule['alert']}.md"
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {rule['alert']}\n")
        for heading in ("## What it means", "## What to do", "## Where the numbers come from"):
            assert heading in text, page


def test_the_page_of_losses_knows_each_by_one_name() -> None:
    sections = set(SECTION_NAMES) - {"stats", "totals"}  # whose room is the sites', or one record
    assert sections & set(LOSSES) == {"events", "starts"}  # which the recorder's count takes the place of
    page = (RUNBOOKS / "TracedThreadTelemetryLost.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    told = [name for row in rows for name in re.findall("`(.+?)`", row)]
    assert sorted(told) == sorted(sections | set(LOSSES))


# -- the stack ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [(), ("--profile", "lgtm")])
def test_compose_accepts_the_file(profile: tuple[str, ...]) -> None:
    """The program checks it against the compose schema, too."""
    done = run(program("docker-compose"), *profile, "config", "-q")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_compose_is_pinned_checked_closed_and_without_passwords() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert not re.search(r"password|admin/|secret", re.sub("#.*|no passwords", "", text), re.IGNORECASE)
    for name, service in compose()["services"].items():
        assert re.search(r":(v?\d+\.\d+(\.\d+)?|dev)$", service["image"]), name
        assert service["image"].endswith(":dev") == ("shop" in service["image"]), name
        assert "healthcheck" in service, name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
    assert compose()["networks"]["database"]["internal"]


def test_every_file_that_compose_mounts_is_there() -> None:
    mounts = [volume for service in compose()["services"].values() for volume in service.get("volumes", [])]
    files = [volume.split(":")[0] for volume in mounts if volume.startswith("./")]
    assert len(set(files)) >= 7
    for file in files:
        assert (ROOT / file).exists(), file


def test_the_collector_accepts_its_configuration() -> None:
    done = run(program("otelcol"), "validate", f"--config={STACK / 'collector.yaml'}")
    assert (done.returncode, done.stderr) == (0, "")


def test_prometheus_accepts_its_configuration_with_the_alerts(tmp_path: Path) -> None:
    (config, rules, _) = compose()["services"]["prometheus"]["volumes"]
    assert config.split(":")[1] == "/etc/prometheus/prometheus.yaml"
    assert rules.split(":")[1] == "/etc/prometheus/alerts"
    shutil.copy(ROOT / config.split(":")[0], tmp_path / "prometheus.yaml")
    shutil.copytree(ROOT / rules.split(":")[0], tmp_path / "alerts")
    done = run(program("promtool"), "check", "config", str(tmp_path / "prometheus.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(alerts())} rules found" in done.stdout
