"""How our panels look. Each has a sentence that says what to do when it is red."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, tempo, timeseries
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.tempo import SearchTableType

from tracedthread import names

from .promql import series

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
TEMPO = DataSourceRef(type_val="tempo", uid="tempo")
#: Of the 24 columns.
FULL, HALF, THIRD, QUARTER = 24, 12, 8, 6
TAG = "tracedthread"


def query(expression: str, legend: str = "", *, ref: str = "A", exemplars: bool = False) -> prometheus.Dataquery:
    """A query over the time that is shown."""
    made = prometheus.Dataquery().datasource(PROMETHEUS).expr(expression).range().ref_id(ref).legend_format(legend)
    return made.exemplar(True) if exemplars else made


def curves(
    title: str,
    when_red: str,
    *queries: prometheus.Dataquery,
    unit: str = "short",
    red: float | None = None,
    stacked: bool = False,
    span: int = HALF,
) -> timeseries.Panel:
    """
    Curves over time.

    Args:
        when_red: What to do then.
        red: From here on it is bad; shown as a line.
        stacked: The curves are parts of a whole.
    """
    panel = timeseries.Panel().title(title).description(when_red).unit(unit).min(0).span(span).height(8)
    panel = panel.datasource(PROMETHEUS).thresholds(_thresholds(red)).fill_opacity(30 if stacked else 8)
    panel = panel.legend(common.VizLegendOptions().show_legend(True).placement(looks.LegendPlacement.BOTTOM))
    panel = panel.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI))
    if red is not None:
        style = common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds_style(style)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL).group("A"))
    for one in queries:
        panel = panel.with_target(one)
    return panel


def number(
    title: str, when_red: str, expression: str, *, unit: str = "short", red: float | None = None, span: int = QUARTER
) -> stat.Panel:
    """One number, the newest, on green or red."""
    panel = stat.Panel().title(title).description(when_red).unit(unit).span(span).height(4).datasource(PROMETHEUS)
    panel = panel.thresholds(_thresholds(red)).color_mode(looks.BigValueColorMode.BACKGROUND)
    panel = panel.graph_mode(looks.BigValueGraphMode.AREA).no_value("no data")
    return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).with_target(query(expression))


def ranking(title: str, when_red: str, expression: str, *, columns: dict[str, str], span: int = HALF) -> table.Panel:
    """
    A table, what is most first.

    Args:
        columns: Titles by label, in their order; the number's is that of `Value`.
    """
    asked = prometheus.Dataquery().datasource(PROMETHEUS).expr(expression).instant().ref_id("A")
    arrange: dict[str, Any] = {
        "excludeByName": {"Time": True},
        "indexByName": {name: index for index, name in enumerate(columns)},
        "renameByName": columns,
    }
    panel = table.Panel().title(title).description(when_red).unit("s").span(span).height(8).datasource(PROMETHEUS)
    panel = panel.with_target(asked.format(PromQueryFormat.TABLE)).thresholds(_thresholds(None))
    panel = panel.with_transformation(DataTransformerConfig(id_val="organize", options=arrange))
    panel = panel.inspect(False)  # the schema wants its fields, or none of them
    lock = next(iter(columns.values()))
    link = {"title": "Look at this lock", "url": "/d/tracedthread-lock?var-lock=${__value.raw}&${__url_time_range}"}
    return panel.override_by_name(lock, [DynamicConfigValue(id_val="links", value=[link])])


def heat(title: str, when_red: str, expression: str, *, span: int = HALF) -> heatmap.Panel:
    """
    Durations over time, by the buckets of a histogram.

    Args:
        expression: Its growth by `le`.
    """
    asked = query(expression, "{{le}}", exemplars=True).format(PromQueryFormat.HEATMAP)
    panel = heatmap.Panel().title(title).description(when_red).span(span).height(9).datasource(PROMETHEUS)
    panel = panel.calculate(False).with_target(asked).y_axis(heatmap.YAxisConfig().unit("s"))
    colors = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").exponent(0.5).steps(64)
    return panel.color(colors).exemplars_color("rgba(255,0,255,0.7)").cell_gap(1)


def traces(title: str, when_red: str, traceql: str) -> table.Panel:
    """A list of spans from Tempo."""
    asked = tempo.TempoQuery().datasource(TEMPO).query(traceql).query_type("traceql").limit(20).ref_id("A")
    asked = asked.table_type(SearchTableType.SPANS)
    return table.Panel().title(title).description(when_red).span(HALF).height(8).datasource(TEMPO).with_target(asked)


def board(name: str, title: str, about: str, *parts: Any) -> dashboard.Dashboard:
    """
    A dashboard, with the ways to the others.

    Args:
        parts: Rows, panels and variables, in their order.
    """
    made = dashboard.Dashboard(title).uid(f"tracedthread-{name}").description(about).tags([TAG]).editable()
    made = made.time("now-1h", "now").refresh("30s").tooltip(DashboardCursorSync.CROSSHAIR)
    others = dashboard.DashboardLink(TAG).type(DashboardLinkType.DASHBOARDS).tags([TAG])
    made = made.link(others.include_vars(True).keep_time(True))
    seen = series(names.ACQUISITIONS)
    made = made.with_variable(variable("job", "Job", f"label_values({seen}, job)"))
    instances = f'label_values({seen}{{job=~"$job"}}, instance)'
    made = made.with_variable(variable("instance", "Instance", instances))
    for index, part in enumerate(parts, 1):
        if isinstance(part, dashboard.QueryVariable):
            made = made.with_variable(part)
        elif isinstance(part, dashboard.Row):
            made = made.with_row(part.id(index))
        else:
            made = made.with_panel(part.id(index))
    return made


def variable(name: str, title: str, values: str, *, every: bool = True) -> dashboard.QueryVariable:
    """
    A choice at the top.

    Args:
        values: Where they come from, as in `label_values(metric, label)`.
        every: All may be chosen at once, and are; that fits series without the label, too.
    """
    made = dashboard.QueryVariable(name).label(title).datasource(PROMETHEUS).query(values)
    made = made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    return made.multi(True).include_all(True).all_value(".*") if every else made


def _thresholds(red: float | None) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color="green")]
    if red is not None:
        steps.append(Threshold(value=red, color="red"))
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
