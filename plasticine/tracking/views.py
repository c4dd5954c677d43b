"""Saved views of MLflow's pages: which runs, columns, sorting, charts and groups a link opens with.

MLflow's pages keep a view as JSON in a tag of the experiment, ``mlflow.sharedViewState.<id>``, and open it with
``?viewStateShareKey=<id>``. This format is the pages' own and has no other interface; what they cannot read they
leave out, and the link then opens the plain list of runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from plasticine.tracking.parent import KIND
from plasticine.tracking.store import Store

__all__ = ["METHODS_VIEW", "Chart", "View", "only", "put_views", "view_link", "view_links"]

#: Name of the view that a study is opened with.
METHODS_VIEW = "methods"

_TAG = "mlflow.sharedViewState."
_OURS = "plasticine-"
_MANY = 20  # from here on only the first ones are drawn, in the order of the table


@dataclass(frozen=True)
class Chart:
    """A chart: its kind (``LINE`` over env steps or ``BAR``) and the keys in it."""

    kind: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """One saved view.

    Attributes:
        name: Short and stable: the link depends on it.
        title: In MLflow's list of views.
        search: MLflow's filter of the runs.
        order: Column that the runs are sorted by, largest first.
        columns: Shown of each run.
        charts: Shown open, in this order; those of further keys are folded up below.
        group: Parameters whose equal values make a group; each group is a line, the mean over its runs.
        folded: Keys whose own charts are folded up.
        runs: About how many runs there are.
    """

    name: str
    title: str
    search: str
    order: str
    columns: tuple[str, ...]
    charts: tuple[Chart, ...]
    group: tuple[str, ...] = ()
    folded: tuple[str, ...] = field(default=())
    runs: int = 0


def put_views(store: Store, study: str, views: Sequence[View]) -> None:
    """Save views of a study in the experiment; those that are there as they should be are left alone.

    Raises:
        mlflow.exceptions.MlflowException: The store does not answer or refuses.
    """
    experiment = store.client.get_experiment(store.experiment_id)
    for number, view in enumerate(views):
        title = view.title if experiment.name == study else f"{study}: {view.title}"
        key, text = _TAG + _id(study, view.name), _envelope(study, view, title, number)
        if experiment.tags.get(key) != text:
            store.client.set_experiment_tag(store.experiment_id, key, text)


def view_links(experiment_id: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return links to the saved views of an experiment: title -> what follows the address of the server.

    An experiment without saved views has a link to its charts.

    Args:
        experiment_id: MLflow's id of the experiment.
        tags: Its tags.
    """
    found = []
    for key, text in tags.items():
        if key.startswith(_TAG + _OURS):
            content = json.loads(text)
            link = _link(experiment_id, key[len(_TAG) :])
            found.append((-int(content["createdAt"]), str(content["name"]), link))
    links = {title: link for _, title, link in sorted(found)}
    return links or {"Charts": f"/#/experiments/{experiment_id}/runs?compareRunsMode=CHART"}


def view_link(experiment_id: str, study: str, name: str) -> str:
    """Return the link to one saved view of a study, without looking whether it is there."""
    return _link(experiment_id, _id(study, name))


def _link(experiment_id: str, key: str) -> str:
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={quote(key)}&compareRunsMode=CHART"


def _id(study: str, name: str) -> str:
    return f"{_OURS}{hashlib.sha256(f'{study}/{name}'.encode()).hexdigest()[:8]}-{name}"


def _envelope(study: str, view: View, title: str, number: int) -> str:
    """Return the text of the tag. The pages list views by time, the newest first: the times here only order them."""
    state = json.dumps(_state(study, view), separators=(",", ":"))
    packed = "deflate;" + base64.b64encode(zlib.compress(state.encode(), 9)).decode()
    return json.dumps({"name": title, "createdAt": 1_700_000_000_000 - number, "state": packed})


def _state(study: str, view: View) -> dict[str, Any]:
    sections = [{"uuid": "main", "name": "Comparison", "display": True, "isReordered": True}]
    names = dict.fromkeys(key.rpartition("/")[0] for key in view.folded)
    sections += [{"uuid": n, "name": n, "display": False, "isReordered": True} for n in names]
    quote_mark = '"' if "'" in study else "'"
    return {
        "searchFilter": f"{view.search} and tags.study = {quote_mark}{study}{quote_mark}",
        "orderByKey": view.order,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(view.columns),
        "runsHiddenMode": "SHOW_ALL" if view.runs <= _MANY else "FIRST_20_RUNS",
        "compareRunCharts": [_card(chart, f"chart{i}") for i, chart in enumerate(view.charts)],
        "compareRunSections": sections,
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "useGroupedValuesInCharts": True,
        "groupBy": _group(view.group),
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _group(names: Sequence[str]) -> dict[str, Any] | None:
    if not names:
        return None
    keys = [{"mode": "param", "groupByData": name} for name in names]
    return {"aggregateFunction": "average", "groupByKeys": keys}


def _card(chart: Chart, uuid: str) -> dict[str, Any]:
    card: dict[str, Any] = {
        "type": chart.kind,
        "uuid": uuid,
        "metricSectionId": "main",
        "runsCountToCompare": _MANY,
        "deleted": False,
        "isGenerated": False,
        "metricKey": chart.keys[0],
    }
    if chart.kind == "LINE":
        card |= {
            "selectedMetricKeys": list(chart.keys),
            "lineSmoothness": 0,
            "scaleType": "linear",
            "xAxisScaleType": "linear",
            "xAxisKey": "step",
            "selectedXAxisMetricKey": "",
            "yAxisKey": "metric",
            "yAxisExpressions": [],
            "range": {},
            "ignoreOutliers": False,
            "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        }
    return card


def only(kind: str) -> str:
    """Return the filter that leaves the runs of one kind."""
    return f"tags.{KIND} = '{kind}'"
