"""Alerts and dashboard: tests of the rules, and a real Prometheus that scrapes a real relay."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from relay.sandbox.server import Sandbox

from tests.deploy.links import anchors
from tests.e2e.harness import PATIENCE_S, RelayProcess, environment, event, http, running

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
FLEET = ALERTS.with_name("fleet.yml")
AGENT = ALERTS.with_name("agent.yml")
DASHBOARD = DEPLOY / "grafana" / "relay.json"
FLEET_DASHBOARD = DEPLOY / "grafana" / "fleet.json"
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
SILENT_S = 5
"""The silence of a box after which the alert fires in a real Prometheus, instead of 15 minutes."""
UNITS = {"none", "s", "bytes", "Bps", "cps", "reqps", "percentunit"}

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")


def rules(*files: Path) -> list[dict[str, Any]]:
    """Return the rules of these files, by default of all."""
    groups = [group for file in files or (ALERTS, FLEET) for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts(*files: Path) -> list[dict[str, Any]]:
    return [rule for rule in rules(*files) if "alert" in rule]


def panels(dashboard: Path) -> list[dict[str, Any]]:
    """Return the panels of a dashboard without rows."""
    return [panel for panel in json.loads(dashboard.read_text())["panels"] if panel["type"] != "row"]


def promtool(*arguments: str, output: bytes = b"") -> tuple[int, str]:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *arguments], input=output, capture_output=True, cwd=ALERTS.parent, timeout=PATIENCE_S, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode()


@needs_promtool
def test_the_prometheus_files_are_valid() -> None:
    code, output = promtool("check", "config", "prometheus.yml")

    assert code == 0, output
    code, output = promtool("check", "config", "--agent", "agent.yml")

    assert code == 0, output


@needs_promtool
@pytest.mark.parametrize(
    ("series", "value", "fires"),
    [
        ("relay_outbox_oldest_event_age_seconds", 3_601, True),
        ("relay_outbox_oldest_event_age_seconds", 3_600, False),
        ("relay_outbox_writable", 0, True),
        ("relay_outbox_writable", 1, False),
    ],
)
def test_the_alert_of_the_readme_fires(tmp_path: Path, series: str, value: int, fires: bool) -> None:
    (rule,) = re.findall(r"```yaml\n(groups:.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "rules.yml").write_text(rule)
    alert = {"alertname": "RelayNeedsAttention", "eval_time": "11m", "exp_alerts": [{}] if fires else []}
    inputs = [{"series": series, "values": f"{value}x20"}]
    test = {"interval": "1m", "input_series": inputs, "alert_rule_test": [alert]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [test]}))

    code, output = promtool("test", "rules", str(tmp_path / "tests.yml"))

    assert code == 0, output


@needs_promtool
def test_each_alert_fires_on_its_condition_only() -> None:
    """A silent box has no series: these tests end series, as a power cut and an orderly stop do."""
    code, output = promtool("test", "rules", "alerts_test.yml", "fleet_test.yml", "fleet_week_test.yml")

    assert code == 0, output


def test_each_alert_is_tested() -> None:
    files = [ALERTS.with_name(f"{name}_test.yml") for name in ("alerts", "fleet")]
    cases = {case["name"] for file in files for case in yaml.safe_load(file.read_text())["tests"]}

    assert {rule["alert"] for rule in alerts()} == cases - {"a healthy relay", "counts of boxes"}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_each_alert_has_a_description_and_a_runbook_section(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")

    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert {"$labels.instance", "$labels.job"} & set(re.findall(r"[$\w.]+", rule["annotations"]["summary"]))
    assert rule["annotations"]["description"]
    assert anchor == rule["alert"].lower()
    assert anchor in anchors(ROOT / page)


def test_the_runbook_has_exactly_the_sections_of_the_alerts() -> None:
    headings = re.findall(r"^### (Relay\w+)$", (ROOT / "docs" / "run" / "operations.md").read_text(), re.MULTILINE)

    assert sorted(headings) == sorted(rule["alert"] for rule in alerts())


@pytest.mark.parametrize(("dashboard", "chosen"), [(DASHBOARD, ("$instance", "$job")), (FLEET_DASHBOARD, ("$job",))])
def test_the_dashboards_explain_each_panel(dashboard: Path, chosen: tuple[str, ...]) -> None:
    for panel in panels(dashboard):
        title = panel["title"]
        assert panel["description"].endswith("."), title
        assert panel["targets"], title
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, title
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}, title
        assert all(name in target["expr"] for name in chosen for target in panel["targets"]), title


@pytest.mark.parametrize("dashboard", [DASHBOARD, FLEET_DASHBOARD])
def test_the_panels_do_not_overlap(dashboard: Path) -> None:
    cells: dict[tuple[int, int], str] = {}
    found = json.loads(dashboard.read_text())["panels"]
    for panel in found:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cells.setdefault(cell, panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in found}) == len(found)


@needs_prometheus
@needs_promtool
async def test_every_query_has_a_result_in_a_real_prometheus(sandbox: Sandbox, tmp_path: Path) -> None:
    """Each query of the dashboards has a result, each alert can be evaluated, and promtool accepts /metrics."""
    settings = {"shutdown__drain": "0s", "batch__linger": "50ms"}
    async with (
        running(environment(sandbox.url, tmp_path, **settings)) as relay,
        scraping(relay, tmp_path) as prometheus,
    ):
        posting = asyncio.create_task(keep_posting(relay))
        try:
            await until_something(prometheus, 'rate(relay_events_delivered_total{job="relay"}[2s]) > 0')
            evaluated = await prometheus.until_evaluated()
            for expr in queries():
                await until_something(prometheus, expr)
        finally:
            posting.cancel()
        _, _, exposition = await relay.request("GET", "/metrics")

    assert {rule["name"]: rule["lastError"] for rule in evaluated if rule["health"] != "ok"} == {}
    assert len(evaluated) == len(rules())
    assert promtool("check", "metrics", output=exposition) == (0, "")


@needs_prometheus
async def test_an_agent_sends_what_the_rules_of_a_fleet_need(sandbox: Sandbox, tmp_path: Path) -> None:
    """The page states the number of series of a box as an upper bound. Without its agent, the box is silent."""
    [stated] = re.findall(r"at most (\d+) series", (ROOT / "docs" / "run" / "fleet.md").read_text())
    receiver = {"global": {"evaluation_interval": "300ms"}, "rule_files": [str(every_second(FLEET, tmp_path))]}
    storage = f"--storage.tsdb.path={tmp_path / 'tsdb'}"
    async with (
        running(environment(sandbox.url, tmp_path, shutdown__drain="0s", batch__linger="50ms")) as relay,
        server(tmp_path / "receiver", receiver, "--web.enable-remote-write-receiver", storage) as central,
    ):
        async with server(tmp_path / "agent", agent(relay.http, central.address), *agent_flags(tmp_path)):
            posting = asyncio.create_task(keep_posting(relay))
            try:
                await until_something(central, 'relay_upstream_requests_total{code="202"} > 0')
                await until_something(central, "job_version:relay_boxes:count == 1")
                for name in used_by_rules():
                    await until_something(central, f'{{__name__=~"{name}(_bucket)?", instance="box-1"}}')
                sent = await central.query('count({instance="box-1", __name__!~".*:.*|ALERTS.*"})')
            finally:
                posting.cancel()
        await until_something(central, 'ALERTS{alertname="RelayBoxSilent", alertstate="firing", instance="box-1"}')

    assert int(stated) - 10 <= int(sent[0]["value"][1]) <= int(stated)


def agent(relay: str, receiver: str) -> dict[str, Any]:
    """Return the shipped configuration of a box with the addresses and times of a test."""
    text = AGENT.read_text().replace("127.0.0.1:8080", relay).replace("BOX", "box-1")
    text = text.replace("https://metrics.example", f"http://{receiver}").replace("60s", "300ms")
    config: dict[str, Any] = yaml.safe_load(text)
    del config["remote_write"][0]["basic_auth"]
    return config


def agent_flags(directory: Path) -> list[str]:
    """Return the flags of the agent mode, which Prometheus 3 has renamed."""
    assert PROMETHEUS is not None
    usage = subprocess.run([PROMETHEUS, "--help"], capture_output=True, text=True, check=False)
    renamed = "--[no-]agent" in usage.stdout + usage.stderr or "--agent " in usage.stdout + usage.stderr
    return ["--agent" if renamed else "--enable-feature=agent", f"--storage.agent.path={directory / 'wal'}"]


def used_by_rules() -> set[str]:
    """Return the relay's own metrics that the alerts and the fleet's rules and dashboard read."""
    expressions = [rule["expr"] for rule in rules()]
    expressions += [target["expr"] for panel in panels(FLEET_DASHBOARD) for target in panel["targets"]]
    names = {name for expr in expressions for name in re.findall(r"(?<![:\w])relay_\w+(?!:)", expr)}
    return {name.removesuffix("_bucket") for name in names} - {"relay_clock_skew_seconds"}


class Prometheus:
    """The HTTP interface of a Prometheus server."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def until_ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await http(self.address, "GET", "/-/ready"))[0] != 200:
                await asyncio.sleep(0.05)

    async def query(self, expr: str) -> list[Any]:
        found: list[Any] = (await self._ask(f"/api/v1/query?query={urllib.parse.quote(expr)}"))["result"]
        return found

    async def shows(self, expr: str) -> bool:
        """Return whether the query has a series with a number."""
        return any(one["value"][1] != "NaN" for one in await self.query(expr))

    async def until_evaluated(self) -> list[dict[str, Any]]:
        """Wait until each rule was evaluated, and return all rules."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                groups = (await self._ask("/api/v1/rules"))["groups"]
                found = [rule for group in groups for rule in group["rules"]]
                if all(rule["health"] != "unknown" for rule in found):
                    return found
                await asyncio.sleep(0.1)

    async def _ask(self, path: str) -> dict[str, Any]:
        data: dict[str, Any] = await asyncio.to_thread(self._get, path)
        return data

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=PATIENCE_S) as response:
            return json.load(response)["data"]


def queries() -> list[str]:
    """Return the queries of the dashboards as Grafana sends them for all jobs and instances."""
    values = {"$job": ".+", "$instance": ".+", "$__rate_interval": "4s"}
    found = []
    for panel in [*panels(DASHBOARD), *panels(FLEET_DASHBOARD)]:
        for target in panel["targets"]:
            expr = target["expr"]
            for name, value in values.items():
                expr = expr.replace(name, value)
            found.append(expr)
    return found


async def keep_posting(relay: RelayProcess) -> None:
    n = 0
    while True:
        n += 1
        assert await relay.post(event(n)) == 202
        await asyncio.sleep(0.05)


async def until_something(prometheus: Prometheus, expr: str) -> None:
    """Wait until a query has a series with a number. On a busy machine a scrape may miss its timeout."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await prometheus.shows(expr):
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"no result: {expr}")


def every_second(rule_file: Path, directory: Path) -> Path:
    """Return a copy of the rules that Prometheus evaluates as often as the others, with a shorter silence."""
    copy = directory / rule_file.name
    text = rule_file.read_text()
    copy.write_text(text.replace("interval: 1m", "interval: 300ms").replace("900", str(SILENT_S)))
    return copy


@asynccontextmanager
async def scraping(relay: RelayProcess, directory: Path) -> AsyncIterator[Prometheus]:
    """Run a Prometheus with our rules that scrapes the relay several times a second."""
    config = {
        "global": {"scrape_interval": "300ms", "scrape_timeout": "300ms", "evaluation_interval": "300ms"},
        "rule_files": [str(ALERTS), str(every_second(FLEET, directory))],
        "scrape_configs": [{"job_name": "relay", "static_configs": [{"targets": [relay.http]}]}],
    }
    async with server(directory / "server", config) as prometheus:
        yield prometheus


@asynccontextmanager
async def server(directory: Path, config: Mapping[str, Any], *flags: str) -> AsyncIterator[Prometheus]:
    """Run a Prometheus with its files in `directory`; with flags other than for its storage, if given."""
    assert PROMETHEUS is not None
    directory.mkdir()
    (directory / "prometheus.yml").write_text(json.dumps(config))
    process = await asyncio.create_subprocess_exec(
        PROMETHEUS,
        f"--config.file={directory / 'prometheus.yml'}",
        "--web.listen-address=127.0.0.1:0",
        *(flags or [f"--storage.tsdb.path={directory / 'tsdb'}"]),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        address = await asyncio.wait_for(address_in(process.stderr), PATIENCE_S)
        prometheus = Prometheus(address)
        await prometheus.until_ready()
        yield prometheus
    finally:
        process.kill()
        await process.communicate()


async def address_in(log: asyncio.StreamReader | None) -> str:
    """Return the address that Prometheus logs."""
    assert log is not None
    async for line in log:
        if found := re.search(rb'(?:Listening on"? address=|address=)(127\.0\.0\.1:[1-9]\d*)', line):
            return found[1].decode()
    raise AssertionError("prometheus ended before it logged its address")
